"""`jinshi ca`: certification authorities of this ledger's trust service: made, looked at, given new keys, retired."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.display import render
from cli.output import put
from cli.session import Session, run_async, session_of

if TYPE_CHECKING:
    from cli.trust.authorities import Asked
    from pki.aggregates.authority import Authority, Generation

INIT_EXAMPLES = """[bold]Examples[/]

  jinshi ca init
  jinshi ca init --organization 某市数据局 --status-url http://pki.city.example

Makes root, and issuing below it. An offline root is made in a ceremony: docs/trust/hierarchy.md
"""
CREATE_EXAMPLES = """[bold]Examples[/]

  jinshi ca create root --subject 'C=CN, O=某省, CN=Root' --days 7300 --path-length 2 --algorithm ML-DSA-65
  jinshi ca create province --parent root --subject 'C=CN, O=某省, CN=Province' --days 3650 --path-length 1 \\
    --permit dns:province.example --policy 2.16.156.1.1 --at pkcs11:token=province
  jinshi ca create city --parent province --subject 'C=CN, O=某省, CN=City' --path-length 0 \\
    --permit dns:city.province.example --at openbao+https://bao.example.gov:8200/transit
"""
LIST_EXAMPLES = """[bold]Examples[/]

  jinshi ca list
  jinshi ca list --json
"""
SHOW_EXAMPLES = """[bold]Examples[/]

  jinshi ca show issuing
  jinshi ca show issuing --json
"""
EXPORT_EXAMPLES = """[bold]Examples[/]

  jinshi ca export root > root.pem
  jinshi ca export issuing --chain -o chain.pem
  jinshi ca export root --key 1 -o root-1.pem      # an earlier key's
  jinshi ca export issuing -o - | openssl x509 -noout -text
"""
ROLLOVER_EXAMPLES = """[bold]Examples[/]

  jinshi ca rollover issuing
  jinshi ca rollover root --algorithm ML-DSA-65 --days 7300
  jinshi ca rollover city --request city-2.csr     # an offline root signs it; then: jinshi ca take-in
"""
RETIRE_EXAMPLES = """[bold]Examples[/]

  jinshi ca retire old-city
"""
AMEND_EXAMPLES = """[bold]Examples[/]

  jinshi ca amend issuing --set status_url=http://pki.city.example
  jinshi ca amend issuing --set shards=16 --set crl_every_s=3600
"""

ca_app = typer.Typer(
    help="Certification authorities: init, create, list, show, export, rollover, cross-certify, import, ceremonies.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the authority is called here.")]
Algorithm = Annotated[str, typer.Option(metavar="NAME", help="P-256, P-384, RSA-3072, RSA-4096, Ed25519 or ML-DSA-65.")]
At = Annotated[
    str,
    typer.Option(
        "--at", metavar="WHERE", help="Where its key is kept: file, pkcs11:token=…, openbao+https://HOST:PORT/MOUNT."
    ),
]
Subject = Annotated[str, typer.Option(metavar="NAME", help="'C=CN, O=…, CN=…'; a comma in a value is written \\\\,")]
PathLength = Annotated[
    int | None, typer.Option(min=0, max=8, metavar="COUNT", help="How many authorities may be below it, one another.")
]
Permit = Annotated[
    list[str] | None,
    typer.Option(metavar="SUBTREE", help="Names it may certify: dns:, email:, uri:, ip:, dir:; can be repeated."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="SUBTREE", help="Names it may not certify; can be repeated.")
]
Policy = Annotated[list[str] | None, typer.Option(metavar="OID", help="A policy it issues under; can be repeated.")]
Cps = Annotated[str, typer.Option(metavar="URL", help="Where its policies are explained.")]
StatusUrl = Annotated[
    str, typer.Option(metavar="URL", help="Where its CRLs, certificates and OCSP are served: http://…")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ca_app, name="ca")


@ca_app.command(epilog=INIT_EXAMPLES)
def init(
    context: typer.Context,
    organization: Annotated[str, typer.Option(metavar="NAME", help="Who runs it.  [default: the ledger's name]")] = "",
    country: Annotated[str, typer.Option(metavar="CC", help="Two letters.")] = "CN",
    algorithm: Algorithm = "P-256",
    at: At = "file",
    status_url: StatusUrl = "",
) -> None:
    """A root, and an authority below it that issues: what a first certificate needs.

    Run again after it was interrupted, it goes on.
    """
    session = session_of(context)
    run_async(lambda: _init(session, organization, country, algorithm, at, status_url))
    render.say("root (20 years) and issuing (10 years) are there; everybody who relies on them needs root.pem:")
    render.say("  jinshi ca export root -o root.pem")


async def _init(session: Session, organization: str, country: str, algorithm: str, at: str, status_url: str) -> None:
    from cli.trust.authorities import Asked, open_authorities, state_of
    from pki.aggregates.authority import Authority
    from pki.core.settings import AuthoritySettings

    async with open_authorities(session) as desk:
        name = (organization or desk.origin).replace("\\", "\\\\").replace(",", "\\,")
        settings = AuthoritySettings(status_url=status_url)

        def asked(role: str, days: int, path_length: int) -> Asked:
            common = f"{name[:50]} {role}"
            return Asked(f"C={country}, O={name[:64]}, CN={common}", algorithm, days, path_length, [], [], [])

        root = await desk.trust.journal.find(Authority, Authority.create_id("root"))
        if root is None or state_of(root) != "active":
            permit = await desk.permit("authority.create", "root")
            await desk.hierarchy.create_root("root", asked("Root", 7_305, 1).wish(), settings, permit=permit, keeper=at)
        permit = await desk.permit("authority.create", "issuing", signs="root")
        wish = asked("Issuing", 3_652, 0).wish()
        await desk.hierarchy.create("issuing", "root", wish, settings, permit=permit, keeper=at)


@ca_app.command(epilog=CREATE_EXAMPLES)
def create(
    context: typer.Context,
    name: Name,
    subject: Subject,
    parent: Annotated[str, typer.Option(metavar="NAME", help="Who certifies it.  [default: itself: a root]")] = "",
    algorithm: Algorithm = "P-256",
    days: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="How long it holds.  [default: as long as its parent]")
    ] = 0,
    path_length: PathLength = None,
    permit: Permit = None,
    exclude: Exclude = None,
    policy: Policy = None,
    cps: Cps = "",
    at: At = "file",
    status_url: StatusUrl = "",
) -> None:
    """A new authority: its key, and its certificate, signed by its parent or by itself.

    What its parent may not certify is refused before a key is made. Run again after it was interrupted, it goes on.
    """
    from cli.trust.authorities import Asked

    session = session_of(context)
    asked = Asked(subject, algorithm, days, path_length, permit or [], exclude or [], policy or [], cps)
    serial = run_async(lambda: _create(session, name, parent, asked, at, status_url))
    render.say(f"{name} has the certificate {serial}")


async def _create(session: Session, name: str, parent: str, asked: Asked, at: str, status_url: str) -> str:
    from cli.trust.authorities import open_authorities
    from pki.core.settings import AuthoritySettings

    wish, settings = asked.wish(), AuthoritySettings(status_url=status_url)
    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.create", name, signs=parent)
        acts = desk.hierarchy
        if parent:
            made = await acts.create(name, parent, wish, settings, permit=permit, keeper=at)
        else:
            made = await acts.create_root(name, wish, settings, permit=permit, keeper=at)
        return f"{made.serial_number:040x}"


@ca_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the authorities."""
    session = session_of(context)
    found = run_async(lambda: _list(session))
    if json:
        for one in found:
            render.print_json(one)
    elif found:
        rows = [
            [str(one[name] or "-") for name in ("name", "parent", "state", "algorithm", "ends", "key")] for one in found
        ]
        render.table(("NAME", "PARENT", "STATE", "ALGORITHM", "ENDS", "KEY"), rows)
    else:
        render.say("there are none; make some with: jinshi ca init")


async def _list(session: Session) -> list[dict[str, Any]]:
    from cli.trust.authorities import first_certificate, open_authorities, state_of
    from pki.aggregates.authority import Authority

    async with open_authorities(session) as desk:
        await desk.permit("authority.list", "", "authority")
        rows: list[dict[str, Any]] = []
        for one in desk.trust.index.book.all(Authority):
            last = one.generations[-1] if one.generations else None
            certificate = first_certificate(last) if last is not None else None
            rows.append(
                {
                    "name": one.name,
                    "parent": one.parent or None,
                    "state": state_of(one),
                    "algorithm": last.algorithm if last is not None else None,
                    "ends": f"{certificate.not_valid_after_utc:%F}" if certificate is not None else None,
                    "key": (last.reference or "elsewhere") if last is not None else None,
                }
            )
        return rows


@ca_app.command(epilog=SHOW_EXAMPLES)
def show(
    context: typer.Context,
    name: Name,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show an authority: its keys, what they are certified with, and how it issues."""
    session = session_of(context)
    found = run_async(lambda: _show(session, name))
    if json:
        render.print_json(found)
        return
    keys = found.pop("keys")
    settings = found.pop("settings")
    render.facts(
        {**{key: str(value or "-") for key, value in found.items()}, **{k: str(v) for k, v in settings.items()}}
    )
    for key in keys:
        render.say()
        render.facts({name: str(value or "-") for name, value in key.items()})


async def _show(session: Session, name: str) -> dict[str, Any]:
    from cli.trust.authorities import open_authorities, state_of

    async with open_authorities(session) as desk:
        await desk.permit("authority.show", name)
        authority = await desk.authority(name)
        return {
            "name": authority.name,
            "state": state_of(authority),
            "parent": authority.parent or None,
            "settings": authority.settings,
            "keys": [_key_facts(one) for one in authority.generations],
        }


def _key_facts(generation: Generation) -> dict[str, Any]:
    from cli.trust.authorities import first_certificate
    from pki.core.authority_profile import profile_of
    from pki.core.name_constraints import shown
    from pki.core.subjects import subject_line

    certificate = first_certificate(generation)
    facts: dict[str, Any] = {
        "key": generation.number,
        "kept at": generation.reference or "elsewhere",
        "algorithm": generation.algorithm,
    }
    if certificate is None:
        return facts
    profile = profile_of(certificate)
    names = profile.names
    subtrees = [] if names is None else list(names.permitted_subtrees or ())
    excluded = [] if names is None else list(names.excluded_subtrees or ())
    return {
        **facts,
        "subject": subject_line(certificate.subject),
        "issuer": subject_line(certificate.issuer),
        "serial": f"{certificate.serial_number:040x}",
        "begins": f"{certificate.not_valid_before_utc:%F %T}",
        "ends": f"{certificate.not_valid_after_utc:%F %T}",
        "path length": "unbounded" if profile.path_length is None else str(profile.path_length),
        "permitted": ", ".join(map(shown, subtrees)) or None,
        "excluded": ", ".join(map(shown, excluded)) or None,
        "policies": ", ".join(profile.policies) or None,
        "other certificates": str(len(generation.certificates) - 1),
    }


@ca_app.command(epilog=EXPORT_EXAMPLES)
def export(
    context: typer.Context,
    name: Name,
    chain: Annotated[bool, typer.Option("--chain", help="With the certificates above it.")] = False,
    key: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="Of which key.  [default: the last]")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Everything certified of its keys, cross and link ones too.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: stdout]")] = None,
) -> None:
    """Write an authority's certificate in PEM."""
    session = session_of(context)
    data = run_async(lambda: _export(session, name, chain, key, every))
    put(output, data, f"{output} is written")


async def _export(session: Session, name: str, chain: bool, key: int | None, every: bool) -> bytes:
    from cli.trust.authorities import chain_pem, open_authorities, pem
    from pki.certifying import certificates_of

    async with open_authorities(session) as desk:
        await desk.permit("authority.show", name)
        authority = await desk.authority(name)
        if every:
            return pem([certificate for one in authority.generations for certificate in certificates_of(one)])
        return chain_pem(desk, authority, key or _last_certified(authority), whole=chain)


def _last_certified(authority: Authority) -> int | None:
    """Also of one that is retired."""
    return next((one.number for one in reversed(authority.generations) if one.certificates), None)


@ca_app.command(epilog=ROLLOVER_EXAMPLES)
def rollover(
    context: typer.Context,
    name: Name,
    algorithm: Annotated[str, typer.Option(metavar="NAME", help="Of the new key.  [default: as before]")] = "",
    days: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="[default: a root as before, else its parent's]")
    ] = 0,
    at: At = "file",
    request: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="It is certified elsewhere: write a request, to be signed there."),
    ] = None,
) -> None:
    """Give an authority a new key, which issues from then on; a root's old and new key certify each other.

    The old key goes on signing the CRLs of what it issued. Run again after it was interrupted, it goes on.
    """
    session = session_of(context)
    if request is not None:
        said = f"{request} is written; its certificate comes back with: jinshi ca take-in {name} FILE"
        put(request, run_async(lambda: _next_request(session, name, algorithm, at)), said)
        return
    count = run_async(lambda: _rollover(session, name, algorithm, days, at))
    render.say(f"{name} issues with a new key; {render.count(count, 'certificate')} made")
    render.say(f"See: jinshi ca export {name} --all")


async def _next_request(session: Session, name: str, algorithm: str, at: str) -> bytes:
    from cli.trust.authorities import open_authorities
    from pki.core.algorithms import algorithm_named

    wanted = algorithm_named(algorithm) if algorithm else None
    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.rollover", name)
        return await desk.hierarchy.request_next(name, permit=permit, algorithm=wanted, keeper=at)


async def _rollover(session: Session, name: str, algorithm: str, days: int, at: str) -> int:
    from cli.trust.authorities import open_authorities
    from pki.core.algorithms import algorithm_named

    wanted = algorithm_named(algorithm) if algorithm else None
    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.rollover", name)
        made = await desk.hierarchy.rollover(name, permit=permit, algorithm=wanted, days=days, keeper=at)
        return len(made)


@ca_app.command(epilog=RETIRE_EXAMPLES)
def retire(context: typer.Context, name: Name) -> None:
    """Let an authority issue nothing more; what it issued can still be revoked."""
    session = session_of(context)
    run_async(lambda: _retire(session, name))
    render.say(f"{name} issues nothing more")


async def _retire(session: Session, name: str) -> None:
    from cli.trust.authorities import open_authorities

    async with open_authorities(session) as desk:
        await desk.hierarchy.retire(name, permit=await desk.permit("authority.retire", name))


@ca_app.command(epilog=AMEND_EXAMPLES)
def amend(
    context: typer.Context,
    name: Name,
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="A setting; can be repeated.")],
) -> None:
    """Change how an authority issues: jinshi ca show lists its settings."""
    session = session_of(context)
    run_async(lambda: _amend(session, name, set_))
    render.say(f"{name} issues so from now on")


async def _amend(session: Session, name: str, changes: list[str]) -> None:
    from cli.trust.authorities import open_authorities, pairs_of, settings_with
    from pki.aggregates.authority import Authority
    from pki.core.settings import read_authority_settings

    async with open_authorities(session) as desk:
        permit = await desk.permit("authority.amend", name)
        journal = desk.trust.journal
        authority = await journal.load(Authority, Authority.create_id(name))
        settings = settings_with(read_authority_settings(authority.settings), pairs_of(changes))
        authority.amend(settings.recorded(), timestamp=journal.clock.now())
        await journal.save(authority, permit=permit)
