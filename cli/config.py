"""Settings: the ledger's own file, and the only place that reads the environment. Building things is wiring's."""

from __future__ import annotations

import difflib
import getpass
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ledger.core.acknowledgement import REMOTE_ROLE, ROLES, SAME_CITY_ROLE
from ledger.errors import InvalidRequest
from ledger.store.place import PostgresPlace, parse_postgres

FORMAT = 1
CONFIG_NAME = "jinshi.json"
SQLITE = "sqlite"
NO_LINE = "none"
LOCALTIME = Path("/etc/localtime")
RESTORE_FILE = "restore the file from a copy"


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site of a ledger: where it is, who cosigns there, and where that key is kept.

    `credentials`, and those of its mirror and of readers where they have their own, say where they are (a reference of
    cli/wiring/credentials.py; '': in AWS_ACCESS_KEY_ID). `lock_days`: for how long Object Lock keeps what is
    written; 0: none. `throttle`: how fast may be sent there (replication/schedule.py), on the clocks of
    `throttle_zone`; '': as fast as it goes. `line` is `none` where nothing leads there: it is carried to on media
    (docs/media.md), and `url` is where what its receipts say is kept. `network`: on which one it stands
    (ledger/core/classification.py); '': it is not stated.
    """

    name: str
    url: str
    mirror: str
    mirror_key: str
    classification: str = "internal"
    role: str = ""
    credentials: str = ""
    mirror_credentials: str = ""
    reader_credentials: str = ""
    lock_days: int = 0
    throttle: str = ""
    throttle_zone: str = ""
    line: str = ""
    network: str = ""

    def __post_init__(self) -> None:
        if self.role not in ("", *ROLES):
            raise InvalidRequest(f"site {self.name!r}: its role is {self.role!r}", hint=f"give {' or '.join(ROLES)}")
        if self.line not in ("", NO_LINE):
            raise InvalidRequest(f"site {self.name!r}: its line is {self.line!r}", hint=f"give {NO_LINE}, or nothing")

    @property
    def offline(self) -> bool:
        """Whether no line leads there."""
        return self.line == NO_LINE

    @property
    def counts_as(self) -> str:
        """Its role: as it is set, else by its name, as the sites are named that `init` makes."""
        return self.role or (SAME_CITY_ROLE if self.name.startswith(SAME_CITY_ROLE) else REMOTE_ROLE)


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """A witness that is asked to cosign: its submission prefix, and what verifies its cosignatures."""

    name: str
    url: str
    vkey: str


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What `jinshi.json` holds. `origin` names the log, `vkey` its verifier key.

    `kek` says where the operating key-encryption key is (a file in `keys/`, or an OpenBao URL; '' where nothing was
    ever sealed); `kek_next` is the one an unfinished rotation leads to. `store` is where the entries
    are: `sqlite`, in the directory itself, or the URL of a PostgreSQL schema, without its password.
    """

    origin: str
    vkey: str
    recovery: str = ""
    keys: str = ""
    sites: tuple[SiteSettings, ...] = ()
    witnesses: tuple[WitnessSettings, ...] = ()
    kek: str = ""
    kek_next: str = ""
    store: str = SQLITE
    format: int = FORMAT

    def site(self, name: str) -> SiteSettings:
        """The site of that name. Raises InvalidRequest, with the nearest known one."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InvalidRequest(f"there is no site {name!r}", hint=_nearest(name, [site.name for site in self.sites]))

    def with_site(self, site: SiteSettings) -> LedgerSettings:
        """These settings with one more site."""
        return replace(self, sites=(*self.sites, site))

    def with_throttle(self, name: str, throttle: str, zone: str) -> LedgerSettings:
        """These settings with another schedule for one site. Raises InvalidRequest."""
        throttled = replace(self.site(name), throttle=throttle, throttle_zone=zone)
        return replace(self, sites=tuple(throttled if site.name == name else site for site in self.sites))

    def with_witness(self, witness: WitnessSettings) -> LedgerSettings:
        """These settings with one more witness."""
        return replace(self, witnesses=(*self.witnesses, witness))

    def with_kek(self, kek: str) -> LedgerSettings:
        """These settings with another key-encryption key in use."""
        return replace(self, kek=kek, kek_next="")


@dataclass(frozen=True, slots=True)
class LedgerPaths:
    """Where the parts of a ledger directory are."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / CONFIG_NAME

    @property
    def store(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def claim(self) -> Path:
        """While a ledger is being made in PostgreSQL: in which schema, and by which token it is known as its own."""
        return self.root / "store.claim"

    @property
    def index(self) -> Path:
        """The record index, where one was built; it can be deleted at any time."""
        return self.root / "index.sqlite"

    @property
    def trust_index(self) -> Path:
        """What the trust service looks things up in; it can be deleted at any time."""
        return self.root / "trust.sqlite"

    @property
    def status(self) -> Path:
        """Lists and answers as they are published, and what was signed beforehand; it can be deleted at any time."""
        return self.root / "status"

    @property
    def published(self) -> Path:
        return self.root / "published"

    @property
    def log_key(self) -> Path:
        return self.root / "keys" / "log.key"

    @property
    def authority_keys(self) -> Path:
        """Signing keys of the trust service that are kept in files."""
        return self.root / "keys" / "ca"

    @property
    def policy(self) -> Path:
        return self.root / "trust.policy"

    @property
    def lock(self) -> Path:
        return self.root / "writer.lock"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def offline(self) -> Path:
        """What sites without a line have said, by their names, each laid out as a site is."""
        return self.root / "offline"

    @property
    def witnessed(self) -> Path:
        """The last checkpoint that each witness has cosigned, by its name."""
        return self.root / "witnessed"

    @property
    def default_keys(self) -> Path:
        """Beside the ledger, for what belongs elsewhere: mirror keys and the recovery key."""
        return self.root.with_name(self.root.name + "-keys")

    @property
    def default_sites(self) -> Path:
        """Beside the ledger: the two default sites."""
        return self.root.with_name(self.root.name + "-sites")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process was started with."""

    ledger: Path | None
    passphrase: str | None = field(default=None, repr=False)
    user: str = "unknown"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    region: str | None = None
    key_work_factor: int = 17
    bao_token: str | None = field(default=None, repr=False)
    bao_address: str | None = None
    bao_ca: str | None = None
    postgres_password: str | None = field(default=None, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """All there are, for the credentials of sites, which settings refer to by name."""

    @property
    def actor(self) -> str:
        """Who is answerable for what this process appends, on the embedded default."""
        return f"local:{self.user}"


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """The environment, read once. Raises InvalidRequest for a value that cannot be used."""
    env = os.environ if environ is None else environ
    ledger = env.get("JINSHI_LEDGER")
    work = env.get("JINSHI_KEY_WORK_FACTOR", "17")
    if not (work.isascii() and work.isdecimal() and 10 <= int(work) <= 20):
        raise InvalidRequest(f"JINSHI_KEY_WORK_FACTOR is {work!r}", hint="give the scrypt work factor, 10 to 20")
    return Environment(
        ledger=Path(ledger) if ledger else None,
        passphrase=env.get("JINSHI_PASSPHRASE"),
        user=_user(),
        access_key=env.get("AWS_ACCESS_KEY_ID"),
        secret_key=env.get("AWS_SECRET_ACCESS_KEY"),
        session_token=env.get("AWS_SESSION_TOKEN"),
        endpoint=env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"),
        region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
        key_work_factor=int(work),
        bao_token=env.get("BAO_TOKEN") or env.get("VAULT_TOKEN"),
        bao_address=env.get("BAO_ADDR") or env.get("VAULT_ADDR"),
        bao_ca=env.get("BAO_CACERT") or env.get("VAULT_CACERT"),
        postgres_password=env.get("PGPASSWORD"),
        variables=dict(env),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a numeric user without a name, as in a container
        return f"uid-{os.getuid()}"


def local_zone(environ: Mapping[str, str], link: Path = LOCALTIME) -> str:
    """The name of this machine's time zone: of TZ, else of /etc/localtime; where neither names one, it is UTC."""
    named = environ.get("TZ", "").removeprefix(":")
    if not named and link.is_symlink():
        named = str(link.readlink()).partition("zoneinfo/")[2]
    return named or "UTC"


def read_passphrase(environment: Environment, file: Path | None, *, confirm: bool = False, what: str = "") -> str:
    """The passphrase: from `file`, else from JINSHI_PASSPHRASE, else asked for on a terminal.

    Raises:
        InvalidRequest: none is given and there is no terminal, it is empty, or the two answers differ.
    """
    if file is not None:
        try:
            passphrase = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"the passphrase file {file} cannot be read ({_reason(error)})", hint="check the path and permissions"
            ) from error
    elif environment.passphrase is not None:
        passphrase = environment.passphrase
    elif sys.stdin.isatty():
        passphrase = _ask(f"Passphrase{what}: ")
        if confirm and _ask("Again: ") != passphrase:
            raise InvalidRequest("the two passphrases differ", hint="try again")
    else:
        raise InvalidRequest(
            "no passphrase is given", hint="set JINSHI_PASSPHRASE, or give --passphrase-file FILE, or use a terminal"
        )
    if not passphrase:
        raise InvalidRequest("the passphrase is empty", hint="choose one that is not")
    try:
        passphrase.encode("utf-8")
    except UnicodeEncodeError as error:  # bytes of the environment that are no text arrive as lone surrogates
        raise InvalidRequest("the passphrase is not UTF-8", hint="set it in a UTF-8 terminal, or use a file") from error
    return passphrase


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError as error:
        raise InvalidRequest("no passphrase was typed", hint="try again") from error


def read_settings(paths: LedgerPaths) -> LedgerSettings:
    """A ledger's settings. Raises InvalidRequest when `root` is no ledger or the file cannot be used."""
    try:
        text = paths.config.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidRequest(
            f"{paths.root} is no ledger ({CONFIG_NAME} is not there)",
            hint=f"create one with: jinshi init {paths.root}, or name another with --ledger DIR or JINSHI_LEDGER",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{paths.config} cannot be read ({_reason(error)})", hint="check its permissions, or restore it from a copy"
        ) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{paths.config} is not JSON ({error})", hint=RESTORE_FILE) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{paths.config} is not a JSON object", hint=RESTORE_FILE)
    if value.get("format") != FORMAT:
        raise InvalidRequest(
            f"{paths.config} has format {value.get('format')!r}; this jinshi reads {FORMAT}", hint="use a newer jinshi"
        )
    sites = tuple(_placed(site, paths) for site in _build_all(SiteSettings, value, "sites", paths.config))
    witnesses = _build_all(WitnessSettings, value, "witnesses", paths.config)
    settings: LedgerSettings = _build(LedgerSettings, value, paths.config)
    return replace(settings, sites=sites, witnesses=witnesses)


def _placed(site: SiteSettings, paths: LedgerPaths) -> SiteSettings:
    """What a site without a line has said goes with the ledger's directory, wherever that is moved."""
    return replace(site, url=str(paths.offline / site.name)) if site.offline else site


def format_settings(settings: LedgerSettings) -> bytes:
    """The text of `jinshi.json`."""
    return (json.dumps(asdict(settings), ensure_ascii=False, indent=2) + "\n").encode()


def _build_all(kind: type[Any], value: dict[str, Any], name: str, where: Path) -> tuple[Any, ...]:
    """The members of a list that is taken out of `value`."""
    found = value.pop(name, [])
    if not isinstance(found, list):
        raise InvalidRequest(f"{where}: {name!r} is not a list", hint=RESTORE_FILE)
    return tuple(_build(kind, one, where) for one in found)


def _build(kind: type[Any], value: object, where: Path) -> Any:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: {value!r} is not an object", hint=RESTORE_FILE)
    known = {member.name: member for member in fields(kind)}
    for name in value:
        if name not in known:
            raise InvalidRequest(f"{where}: unknown key {name!r}", hint=_nearest(name, list(known)))
    for name, member in known.items():
        wanted = int if name in ("format", "lock_days") else str
        if name in value and name != "sites" and not isinstance(value[name], wanted):
            raise InvalidRequest(f"{where}: {name!r} is {value[name]!r}, not a {wanted.__name__}", hint=RESTORE_FILE)
        if name not in value and member.default is MISSING:
            raise InvalidRequest(f"{where}: {name!r} is missing", hint=RESTORE_FILE)
    return kind(**value)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is set up"


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8"


@dataclass(frozen=True, slots=True)
class S3Place:
    """`s3://BUCKET/PREFIX?endpoint=URL&region=NAME`."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None


def parse_place(url: str) -> Path | S3Place:
    """Where a site is: a directory, or an S3 URL. Raises InvalidRequest."""
    if "://" not in url:
        return Path(url)
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is no URL ({error})", hint="write s3://BUCKET/PREFIX") from error
    if parts.scheme == "file" and not parts.netloc:
        return Path(parts.path)
    for name in query:
        if name not in ("endpoint", "region"):
            raise InvalidRequest(f"{url}: unknown parameter {name!r}", hint=_nearest(name, ["endpoint", "region"]))
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidRequest(f"{url} is neither a directory nor s3://BUCKET/PREFIX", hint="see jinshi site add --help")
    if parts.username or parts.password or "@" in parts.netloc:
        raise InvalidRequest("credentials do not belong in a site's URL", hint="set AWS_ACCESS_KEY_ID and its secret")
    return S3Place(
        parts.netloc, parts.path.strip("/"), query.get("endpoint", [None])[0], query.get("region", [None])[0]
    )


def normal_store(store: str) -> str:
    """What an operator named as a store, as `jinshi.json` has it. Raises InvalidRequest."""
    return SQLITE if store == SQLITE else parse_postgres(store, None).url


def parse_store(store: str, paths: LedgerPaths, environment: Environment) -> Path | PostgresPlace:
    """Where a ledger's entries are: a file in its directory, or PostgreSQL. Raises InvalidRequest."""
    if store in (SQLITE, ""):
        return paths.store
    return parse_postgres(store, environment.postgres_password)
