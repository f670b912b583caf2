"""The kinds of assets: which options and secrets each takes, and which entry seals its consistent points.

What is registered is checked here, before it is recorded; what captures and restores each kind is built in cli/wiring.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest

TEXT_LENGTH_MAX: Final = 4_096
LIST_LENGTH_MAX: Final = 256
EVERY_S_MIN: Final = 1
EVERY_S_MAX: Final = 366 * 86_400
CHECKED: Final = "asset.checked.v1"
"""The heartbeat of an asset's own source: it was looked at, and nothing had changed since its last sealing entry."""
REFERENCE_FORMS: Final = "give env:NAME, file:/absolute/path or openbao:MOUNT/PATH#FIELD"

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OPENBAO: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+#[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind: `read` makes the value out of a command line's text, `check` says whether it will do.

    `wanted` completes "it is …". `many`: a list, of which each item is given by itself.
    """

    wanted: str
    read: Callable[[str], JsonValue]
    check: Callable[[JsonValue], bool]
    many: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be protected in one way. `sealing`: the type of the entry that ends a consistent point; '': it has none.

    `one_of`: of these options exactly one is given. `left`: what stays at the system when nothing captures it any more,
    and would do harm there.
    """

    name: str
    what: str
    options: Mapping[str, Option]
    sealing: str = ""
    secrets: tuple[str, ...] = ()
    required_secrets: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    captured: bool = True
    left: str = ""


def is_text(value: JsonValue) -> bool:
    """Whether it can be the value of an option, or an item of one: printable, not empty, not too long."""
    return isinstance(value, str) and 0 < len(value) <= TEXT_LENGTH_MAX and value.isprintable()


def _is_texts(value: JsonValue) -> bool:
    return isinstance(value, list) and 0 < len(value) <= LIST_LENGTH_MAX and all(map(is_text, value))


def _is_path(value: JsonValue) -> bool:
    return isinstance(value, str) and 0 < len(value) <= TEXT_LENGTH_MAX and "\0" not in value and _absolute(value)


def _absolute(value: str) -> bool:
    return PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts


def _is_within(value: JsonValue) -> bool:
    return (
        is_text(value) and not PurePosixPath(str(value)).is_absolute() and ".." not in PurePosixPath(str(value)).parts
    )


def _is_file_name(value: JsonValue) -> bool:
    return is_text(value) and "/" not in str(value) and value not in (".", "..")


def _is_seconds(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and EVERY_S_MIN <= value <= EVERY_S_MAX


def _read_flag(text: str) -> JsonValue:
    return {"yes": True, "true": True, "no": False, "false": False}.get(text.lower(), text)


def _read_seconds(text: str) -> JsonValue:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else text


def _read_words(text: str) -> JsonValue:
    try:
        return list(shlex.split(text))
    except ValueError:
        return text


PATH: Final = Option("an absolute path without '..'", str, _is_path)
WITHIN: Final = Option("a relative path without '..'", str, _is_within)
FILE_NAME: Final = Option("the name of a file, without a path", str, _is_file_name)
TEXT: Final = Option("a printable text", str, is_text)
TEXTS: Final = Option("printable texts; give the option once for each", str, _is_texts, many=True)
FLAG: Final = Option("yes or no", _read_flag, lambda value: isinstance(value, bool))
SECONDS: Final = Option(f"whole seconds, {EVERY_S_MIN} to {EVERY_S_MAX}", _read_seconds, _is_seconds)
COMMAND: Final = Option("a program and its arguments, quoted as in a shell (none is used)", _read_words, _is_texts)


def _required(option: Option) -> Option:
    return Option(option.wanted, option.read, option.check, option.many, required=True)


def _one_of(*texts: str) -> Option:
    return Option(" or ".join(texts), str, lambda value: value in texts)


def _kinds(*kinds: Kind) -> Mapping[str, Kind]:
    return MappingProxyType({kind.name: kind for kind in kinds})


SLOTS: Final = "its replication slots stay on the server, which keeps its log for them until its disk is full"

# `within` is where `restore group` puts an asset in its directory, where that is not a place of the asset's own name.
# `beside` names what lies beside an asset and is known to need no protection: jinshi doctor does not ask about it.
KINDS: Final = _kinds(
    Kind(
        "files",
        "a tree of files",
        {
            "path": _required(PATH),
            "exclude": TEXTS,
            "one_file_system": FLAG,
            "allow_empty": FLAG,
            "every_s": SECONDS,
            "within": WITHIN,
            "beside": TEXTS,
        },
        sealing="tree.sealed.v1",
    ),
    Kind(
        "postgres",
        "databases of a PostgreSQL server",
        {
            "databases": TEXTS,
            "publication": TEXT,
            "slot": TEXT,
            "when_lost": _one_of("fail", "copy"),
            "record_roles": FLAG,
            "every_s": SECONDS,
            "digest_every_s": SECONDS,
            "beside": TEXTS,
        },
        sealing="database.sealed.v1",
        left=SLOTS,
        secrets=("dsn",),
        required_secrets=("dsn",),
    ),
    Kind(
        "postgres-cluster",
        "a whole PostgreSQL server, by base backups and its write-ahead log",
        {
            "bin": PATH,
            "slot": TEXT,
            "every_s": SECONDS,
            "base_every_s": SECONDS,
            "incremental": FLAG,
            "fast_checkpoint": FLAG,
            "beside": TEXTS,
        },
        sealing="cluster.sealed.v1",
        left=SLOTS,
        secrets=("dsn",),
        required_secrets=("dsn",),
    ),
    Kind(
        "commands",
        "whatever a command dumps and another one loads",
        {"dump": _required(COMMAND), "load": COMMAND, "every_s": SECONDS, "timeout_s": SECONDS},
        sealing="dump.sealed.v1",
        secrets=("password", "token", "dsn"),
    ),
    Kind(
        "config",
        "configuration: a file, or what a command says",
        {
            "path": PATH,
            "command": COMMAND,
            "name": FILE_NAME,
            "every_s": SECONDS,
            "timeout_s": SECONDS,
            "within": WITHIN,
        },
        sealing="config.recorded.v1",
        secrets=("password", "token"),
        one_of=("path", "command"),
    ),
    Kind(
        "events",
        "sources whose CloudEvents reach this ledger",
        {"sources": _required(TEXTS)},
        captured=False,
    ),
)
"""Every kind there is, by its name."""


def kind_of(name: str) -> Kind:
    """The kind of that name. Raises InvalidRequest, with the nearest one."""
    if name not in KINDS:
        raise InvalidRequest(f"there is no kind of asset {name[:40]!r}", hint=nearest(name, KINDS))
    return KINDS[name]


def read_options(kind: Kind, given: Collection[str]) -> dict[str, JsonValue]:
    """The options out of `NAME=VALUE` texts, not yet checked. Raises InvalidRequest."""
    options: dict[str, JsonValue] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise InvalidRequest(f"{one[:80]!r} is no option", hint="write NAME=VALUE")
        option = _option(kind, name)
        value = option.read(text)
        known = options.get(name)
        if option.many:
            options[name] = [*(known if isinstance(known, list) else ()), value]
        elif name in options:
            raise InvalidRequest(f"the option {name} is given twice", hint="give it once")
        else:
            options[name] = value
    return options


def check_options(kind: Kind, options: Mapping[str, JsonValue]) -> None:
    """Whether an asset of that kind may have these options. Raises InvalidRequest."""
    for name, value in options.items():
        option = _option(kind, name)
        if not option.check(value):
            raise InvalidRequest(
                f"the option {name} of {kind.name} cannot be used", hint=f"it has to be {option.wanted}"
            )
    for name, option in kind.options.items():
        if option.required and name not in options:
            raise InvalidRequest(f"an asset of kind {kind.name} needs the option {name}", hint=f"it is {option.wanted}")
    if kind.one_of and sum(name in options for name in kind.one_of) != 1:
        names = " and ".join(kind.one_of)
        raise InvalidRequest(f"an asset of kind {kind.name} has exactly one of the options {names}", hint="give one")


def _option(kind: Kind, name: str) -> Option:
    if name not in kind.options:
        raise InvalidRequest(
            f"assets of kind {kind.name} have no option {name[:40]!r}", hint=nearest(name, kind.options)
        )
    return kind.options[name]


def check_secrets(kind: Kind, secrets: Mapping[str, str]) -> None:
    """Whether an asset of that kind may have these references. Raises InvalidRequest; no value is ever shown."""
    for name, reference in secrets.items():
        if name not in kind.secrets:
            raise InvalidRequest(
                f"assets of kind {kind.name} have no secret {name[:40]!r}", hint=nearest(name, kind.secrets)
            )
        check_secret(name, reference)
    for name in kind.required_secrets:
        if name not in secrets:
            raise InvalidRequest(f"an asset of kind {kind.name} needs the secret {name}", hint=REFERENCE_FORMS)


def check_secret(name: str, reference: str) -> None:
    """Whether it says where a secret is. Raises InvalidRequest, without showing it: it may be the secret itself."""
    form, _, rest = reference.partition(":")
    fits = (
        (form == "env" and _VARIABLE.fullmatch(rest))
        or (form == "file" and _is_path(rest) and rest.isprintable())
        or (form == "openbao" and _OPENBAO.fullmatch(rest) and ".." not in rest)
    )
    if not fits:
        raise InvalidRequest(
            f"what is given for the secret {name} does not say where it is; secrets themselves are never recorded",
            hint=REFERENCE_FORMS,
        )


def nearest(name: str, known: Collection[str]) -> str:
    """A hint for whoever got a name wrong."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(sorted(known)[:20])}" if known else "there is none"
