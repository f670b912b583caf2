"""An event as a producer sends it: CloudEvents 1.0, and what its attributes may hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json import JSONDecodeError
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from types import MappingProxyType
from typing import Final, NoReturn

from ledger.core.canonical import INTEGER_MAX, JsonValue, canonical_of_parsed, canonicalize, parse_json
from ledger.core.encoding import decode_base64
from ledger.errors import Malformed, MalformedEvent

Extension = str | int | bool

_NAME = re.compile(r"[a-z0-9]{1,64}")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
# CloudEvents 1.0 §2.1, "String": no C0 and C1 controls, no lone surrogates, no noncharacters (two end each plane).
_ENDS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_ENDS}]")
_SPACE = re.compile(r"\s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_EXTENSIONS: Mapping[str, Extension] = MappingProxyType({})

_TEXT_ATTRIBUTES = ("id", "source", "type", "subject", "time", "datacontenttype", "dataref", "keyid")
RECORDED: Final = ("streamversion", "recordedtime", "actor")
"""Attributes the sequencer sets."""

SET_BY_LEDGER: Final = (*RECORDED, "keyid")
"""Attributes a producer may not send."""

_RESERVED = frozenset({*_TEXT_ATTRIBUTES, *RECORDED, "specversion", "data"})


@dataclass(frozen=True, slots=True)
class Event:
    """What a producer sends. `data` is always bytes: canonical JSON, or anything else exactly as received."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    data: bytes | None = None
    dataref: str | None = None
    keyid: str | None = None
    extensions: Mapping[str, Extension] = field(default_factory=lambda: _NO_EXTENSIONS)

    @classmethod
    def of_json(
        cls,
        data: JsonValue,
        *,
        id: str,  # noqa: A002 (CloudEvents' own name)
        source: str,
        type: str,  # noqa: A002
        subject: str | None = None,
        time: str | None = None,
    ) -> Event:
        """An event with JSON data. Raises Malformed when the data has no canonical JSON."""
        return cls(id=id, source=source, type=type, subject=subject, time=time, data=canonicalize(data))

    def at(self, time: str) -> Event:
        """The same event with this time."""
        return self.stored(time, self.data, self.keyid)

    def stored(self, time: str | None, data: bytes | None, keyid: str | None) -> Event:
        """The same event with these in place of its own (written out: `dataclasses.replace` takes thrice as long)."""
        return Event(
            self.id,
            self.source,
            self.type,
            self.subject,
            time,
            self.datacontenttype,
            data,
            self.dataref,
            keyid,
            self.extensions,
        )

    @property
    def json_data(self) -> JsonValue:
        """The data, parsed. Raises Malformed: there is none, or it is not JSON without floats."""
        if self.data is None:
            raise Malformed(f"event {self.id!r} has no data")
        return parse_json(self.data)


def event_time_us(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time; finer digits are cut, a leap second counts as the next second.

    Raises:
        MalformedEvent: it is no such time.
    """
    if len(text) == 27 and text[19] == "." and text[26] == "Z" and text.isascii() and text[20:26].isdigit():
        return _parsed_us(f"{text[:19]}Z") + int(text[20:26])  # as `format_time` writes it: many share a second
    return _parsed_us(text)


@lru_cache(maxsize=4096)
def _parsed_us(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise MalformedEvent(f"{text[:64]!r} is no RFC 3339 time", hint="write 2026-11-24T01:53:35Z")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    leap = second == 60
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
        shift = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
        if shift >= timedelta(days=1) or int(match[10] or 0) > 59:
            raise ValueError("offset")
        since = moment - _EPOCH + (shift if match[8] == "-" else -shift) + timedelta(seconds=int(leap))
    except (ValueError, OverflowError) as error:
        raise MalformedEvent(f"{text[:64]!r} is no RFC 3339 time", hint="write 2026-11-24T01:53:35Z") from error
    return since // timedelta(microseconds=1) + int((match[7] or "0").ljust(6, "0")[:6])


def format_time(us: int) -> str:
    """RFC 3339 in UTC with six digits, as the sequencer writes it."""
    seconds, rest = divmod(us, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


def posix_us(moment: datetime) -> int:
    """A timezone-aware time in POSIX microseconds."""
    return round(moment.timestamp() * 1_000_000)


def format_moment(moment: datetime) -> str:
    """A timezone-aware time as `format_time` has it."""
    return format_time(posix_us(moment))


def format_seconds(seconds: int) -> str:
    """POSIX seconds as RFC 3339 in UTC, to the second."""
    return f"{_second(seconds)}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """The beginning of such a time; the same for many events in a row."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


# -- what an attribute may hold -------------------------------------------------------------------------------------


def fits_attribute(text: str) -> bool:
    """Whether a text can be the value of an attribute (CloudEvents 1.0 §2.1, "String"), and is not empty."""
    return text != "" and not _CONTROL.search(text)


def check_event(event: Event) -> None:
    """Raises MalformedEvent: an attribute is not what CloudEvents 1.0 §3 allows."""
    _check_text("id", event.id)
    check_repeated(event.source, event.type, event.datacontenttype)
    if event.subject is not None:
        _check_text("subject", event.subject)
    if event.time is not None:
        check_time(event.time)
    if event.dataref is not None:
        _check_text("dataref", event.dataref)
    if event.keyid is not None:
        _check_text("keyid", event.keyid)
    for name, extension in event.extensions.items():
        _check_extension(name, extension)


@lru_cache(maxsize=4096)
def check_repeated(source: str, type_: str, datacontenttype: str | None) -> None:
    """What many events share."""
    _check_text("source", source)
    if _SPACE.search(source):
        raise MalformedEvent(f"source {source!r} is no URI reference", hint="it may not hold spaces")
    _check_text("type", type_)
    if datacontenttype is not None:
        _check_text("datacontenttype", datacontenttype)


@lru_cache(maxsize=4096)
def check_time(text: str) -> None:
    """Raises MalformedEvent: it is no RFC 3339 time."""
    _check_text("time", text)
    event_time_us(text)


def _check_text(name: str, value: object) -> None:
    if isinstance(value, str) and value.isascii() and value.isprintable() and value:
        return
    if not isinstance(value, str) or not value:
        if name in ("id", "source", "type"):
            raise MalformedEvent(f"the event has no {name}", hint=f"CloudEvents demands a non-empty {name}")
        raise MalformedEvent(f"attribute {name!r} is not a non-empty text")
    if _CONTROL.search(value):
        raise MalformedEvent(f"attribute {name!r} holds a control character or a lone surrogate")


@lru_cache(maxsize=4096)
def _check_extension_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise MalformedEvent(f"{name[:64]!r} is no name for an extension attribute", hint="use a-z and 0-9 only")


def _check_extension(name: str, extension: object) -> None:
    _check_extension_name(name)
    if isinstance(extension, str):
        if not (extension.isascii() and extension.isprintable()) and _CONTROL.search(extension):
            raise MalformedEvent(f"attribute {name!r} holds a control character or a lone surrogate")
    elif not isinstance(extension, int) or not -INTEGER_MAX <= extension <= INTEGER_MAX:
        raise MalformedEvent(f"attribute {name!r} is neither a text, nor an integer, nor true or false")


# -- parsing --------------------------------------------------------------------------------------------------------


def is_json_type(content_type: str | None) -> bool:
    """Whether data of that content type is JSON; None stands for application/json (CloudEvents JSON format §3.1)."""
    if content_type is None:
        return True
    media = content_type.split(";", 1)[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def event_of(value: dict[str, JsonValue]) -> Event:
    """An event from its attributes in JSON, as they were parsed; `value` is used up. Raises MalformedEvent."""
    data: bytes | None = None
    if "data" in value and "data_base64" in value:
        raise MalformedEvent("it has both data and data_base64")
    if "data" in value:
        data = canonical_of_parsed(value.pop("data"))
    elif "data_base64" in value:
        data = _base64(value.pop("data_base64"))
    texts: dict[str, str | None] = {}
    for name in _TEXT_ATTRIBUTES:
        text = value.pop(name, None)
        if text is not None and not isinstance(text, str):
            raise MalformedEvent(f"attribute {name!r} is not a text")
        texts[name] = text
    extensions: dict[str, Extension] = {}
    for name, extension in value.items():
        if not isinstance(extension, str | int):
            raise MalformedEvent(f"attribute {name[:64]!r} is neither a text, nor an integer, nor true or false")
        extensions[name] = extension
    return Event(
        id=texts["id"] or "",
        source=texts["source"] or "",
        type=texts["type"] or "",
        subject=texts["subject"],
        time=texts["time"],
        datacontenttype=texts["datacontenttype"],
        data=data,
        dataref=texts["dataref"],
        keyid=texts["keyid"],
        extensions=MappingProxyType(extensions) if extensions else _NO_EXTENSIONS,
    )


def _base64(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        raise MalformedEvent("data_base64 is not a text")
    try:
        return decode_base64(value)
    except ValueError as error:
        raise MalformedEvent(f"data_base64 is not base64 ({error})") from error


def _no_constant(text: str) -> NoReturn:
    raise MalformedEvent(f"{text} is no JSON (RFC 8259 §3)", hint="send null, or a text")


# Finds where a value ends; what it is stays with its bytes, so numbers are not converted.
_lenient = JSONDecoder(strict=True, parse_int=str, parse_float=str, parse_constant=_no_constant)
_WHITESPACE = re.compile(r"[ \t\n\r]*")


def parse_event(line: bytes) -> Event:
    """A CloudEvent in JSON format (structured mode), as a producer sent it.

    `data` is kept as received: the exact bytes of the member, or, when the content type is not JSON and the member is
    a text, that text in UTF-8.

    Raises:
        MalformedEvent: it is no CloudEvents 1.0 event that can be recorded.
    """
    try:
        text = line.decode("utf-8")
        members = _members(text)
        version = parse_json(members.pop("specversion", "null").encode())
        if version != "1.0":
            raise MalformedEvent(f"specversion is {version!r}, not '1.0'", hint="send CloudEvents 1.0")
        for name in SET_BY_LEDGER:
            if name in members:
                raise MalformedEvent(f"attribute {name!r} is set by the ledger", hint="leave it out")
        raw = members.pop("data", None)
        event = event_of({name: parse_json(member.encode()) for name, member in members.items() if member != "null"})
        if raw is not None:
            if event.data is not None:
                raise MalformedEvent("it has both data and data_base64")
            event = replace(event, data=_received(raw, event.datacontenttype))
        check_event(event)
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"byte {error.start} is not UTF-8") from error
    except MalformedEvent:
        raise
    except (Malformed, UnicodeEncodeError) as error:
        raise MalformedEvent(str(error)) from error
    except RecursionError as error:
        raise MalformedEvent("it is nested too deeply") from error
    return event


def _received(raw: str, content_type: str | None) -> bytes:
    if not is_json_type(content_type) and raw.startswith('"'):
        text = _lenient.decode(raw)
        assert isinstance(text, str)
        return text.encode("utf-8")
    return raw.encode("utf-8")


def _members(text: str) -> dict[str, str]:
    """The members of a JSON object with the exact text of each value. Raises MalformedEvent."""
    members: dict[str, str] = {}
    try:
        position = _skip(text, 0)
        if text[position : position + 1] != "{":
            raise MalformedEvent("it is no JSON object", hint="send one CloudEvent in JSON a line")
        position = _skip(text, position + 1)
        while text[position : position + 1] != "}":
            if members:
                position = _expect(text, position, ",")
            if text[position : position + 1] != '"':
                raise MalformedEvent(f"a member's name is expected at character {position}")
            name, position = scanstring(text, position + 1, True)
            position = _expect(text, _skip(text, position), ":")
            if name in members:
                raise MalformedEvent(f"attribute {name[:64]!r} stands twice")
            _, end = _lenient.raw_decode(text, position)
            members[name] = text[position:end]
            position = _skip(text, end)
        if _skip(text, position + 1) != len(text):
            raise MalformedEvent("something follows the event", hint="send one CloudEvent in JSON a line")
    except JSONDecodeError as error:
        raise MalformedEvent(f"it is not JSON ({error})") from error
    return members


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    assert match is not None
    return match.end()


def _expect(text: str, position: int, mark: str) -> int:
    if text[position : position + 1] != mark:
        raise MalformedEvent(f"{mark!r} is expected at character {position}")
    return _skip(text, position + 1)
