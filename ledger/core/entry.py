"""The entry that records an event, as canonical bytes: what is hashed into the tree. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring

from ledger.core.canonical import NESTING_MAX, canonicalize, is_canonical, parse_canonical
from ledger.core.event import (
    RECORDED,
    Event,
    Extension,
    check_event,
    check_repeated,
    check_time,
    event_of,
    event_time_us,
    fits_attribute,
    is_json_type,
)
from ledger.errors import EntryTooLarge, Malformed, MalformedEntry, MalformedEvent

ENTRY_SIZE_MAX = 65_535
"""An entry's length must fit the uint16 of an entry bundle (C2SP tlog-tiles)."""

REPEATED_LENGTH_MAX = 128
"""How long the value of an extension attribute is that is remembered encoded."""

_RECORDED_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """A recorded event: what the producer sent, and what the sequencer set."""

    event: Event
    streamversion: int
    recordedtime: str
    actor: str


# -- writing --------------------------------------------------------------------------------------------------------


def encode_entry(entry: Entry) -> bytes:
    """The entry's canonical bytes: what is hashed into the tree. Raises as `encode_event`."""
    assert entry.event.time is not None, "the sequencer gives every event a time"
    return encode_event(
        entry.event,
        entry.event.time,
        streamversion=entry.streamversion,
        recordedtime=entry.recordedtime,
        actor=entry.actor,
    )


def encode_event(
    event: Event, time: str, *, streamversion: int, recordedtime: str, actor: str, sealed: bytes | None = None
) -> bytes:
    """The canonical bytes of the entry that records `event` with this `time` in place of its own.

    `sealed` stands in place of the data of an event that has a keyid, and that `check_event` was asked about before.

    Raises:
        MalformedEvent: an attribute is not what CloudEvents allows.
        EntryTooLarge: they would pass 65,535 bytes.
    """
    if sealed is None:
        data = _checked(event, time, streamversion, recordedtime, actor)
    else:
        data = _encoded(event, time, streamversion, recordedtime, actor, sealed)
    if len(data) > ENTRY_SIZE_MAX:
        raise EntryTooLarge(
            f"event {event.id!r} makes an entry of {len(data)} bytes; the most is {ENTRY_SIZE_MAX}",
            hint="send less, or keep the data elsewhere and send a dataref",
        )
    return data


def render_entry(entry: Entry) -> bytes:
    """The same members as canonical JSON, however long: an entry that was opened may be larger than one recorded."""
    assert entry.event.time is not None, "an entry always has a time"
    return _checked(entry.event, entry.event.time, entry.streamversion, entry.recordedtime, entry.actor)


def _checked(event: Event, time: str, streamversion: int, recordedtime: str, actor: str) -> bytes:
    check_event(event)
    if time != event.time:
        check_time(time)
    return _encoded(event, time, streamversion, recordedtime, actor)


def _encoded(
    event: Event, time: str, streamversion: int, recordedtime: str, actor: str, sealed: bytes | None = None
) -> bytes:
    assert streamversion >= 1, "streams count from 1"
    assert sealed is None or event.keyid is not None, "what is sealed is sealed with a key"
    encode = _encode_extended if event.extensions else _encode
    return encode(event, _repeated(time), streamversion, _repeated(recordedtime), actor, sealed)


# The members in the order of their names: all ASCII, where code points and UTF-16 units sort alike (RFC 8785 §3.2.3).
# Nearly every entry has the same ones, so they are put into one template; a property test holds it to the standard.


def _encode(
    event: Event, time: bytes, streamversion: int, recordedtime: bytes, actor: str, sealed: bytes | None
) -> bytes:
    """An entry without extension attributes."""
    opening, source, closing = _repeated_members(actor, event.source, event.type)
    data = event.data
    if data is not None and event.datacontenttype is None and event.dataref is None and _is_plain(event):
        data = b',"data":' + data
    else:
        data = b"".join([b"," + member for member in _data_members(event, sealed)])
    keyid = b"" if event.keyid is None else b',"keyid":' + _repeated(event.keyid)
    subject = b"" if event.subject is None else b',"subject":' + _text(event.subject)
    return b'%b%b,"id":%b%b,"recordedtime":%b%b%d%b,"time":%b%b' % (
        opening,
        data,
        _text(event.id),
        keyid,
        recordedtime,
        source,
        streamversion,
        subject,
        time,
        closing,
    )


def _encode_extended(
    event: Event, time: bytes, streamversion: int, recordedtime: bytes, actor: str, sealed: bytes | None
) -> bytes:
    """An entry whose extension attributes stand among the others."""
    members = [
        _repeated_members(actor, event.source, event.type)[0][1:],
        *_data_members(event, sealed),
        b'"id":' + _text(event.id),
        b'"recordedtime":' + recordedtime,
        b'"source":' + _repeated(event.source),
        b'"specversion":"1.0"',
        b'"streamversion":%d' % streamversion,
        b'"time":' + time,
        b'"type":' + _repeated(event.type),
    ]
    if event.keyid is not None:
        members.append(b'"keyid":' + _repeated(event.keyid))
    if event.subject is not None:
        members.append(b'"subject":' + _text(event.subject))
    for name, value in event.extensions.items():
        few = type(value) is str and len(value) <= REPEATED_LENGTH_MAX
        members.append(_repeated_extension(name, value) if few else _extension(name, value))
    members.sort()  # a name ends in a quotation mark, which sorts before whatever else may stand in one
    return b"{%b}" % b",".join(members)


def _extension(name: str, value: Extension) -> bytes:
    if type(value) is int:
        return b'"%b":%d' % (name.encode(), value)
    return b'"%b":%b' % (name.encode(), _text(value) if type(value) is str else canonicalize(value))


_repeated_extension = lru_cache(maxsize=4096)(_extension)
"""The same, for what may say the same of many entries: who did it, and by what right."""


def _data_members(event: Event, sealed: bytes | None) -> list[bytes]:
    members = []
    if sealed is not None:
        members.append(b'"data_base64":"%b"' % base64.b64encode(sealed))
    elif event.data is not None:
        plain = _is_plain(event)
        members.append(b'"data":' + event.data if plain else b'"data_base64":"%b"' % base64.b64encode(event.data))
    if event.datacontenttype is not None:
        members.append(b'"datacontenttype":' + _repeated(event.datacontenttype))
    if event.dataref is not None:
        members.append(b'"dataref":' + _text(event.dataref))
    return members


@lru_cache(maxsize=4096)
def _repeated_members(actor: str, source: str, type_: str) -> tuple[bytes, bytes, bytes]:
    """The beginning of an entry, what comes after its recordedtime, and its end."""
    return (
        b"{" + _actor_member(actor),
        b',"source":%b,"specversion":"1.0","streamversion":' % _text(source),
        b',"type":%b}' % _text(type_),
    )


def _actor_member(actor: str) -> bytes:
    if not fits_attribute(actor):
        raise MalformedEvent(f"the actor {actor[:64]!r} is empty or holds a control character")
    return b'"actor":' + _text(actor)


def _text(value: str) -> bytes:
    # The standard library escapes exactly what RFC 8785 §3.2.2.2 does; a property test holds it to that.
    return encode_basestring(value).encode("utf-8")


_repeated = lru_cache(maxsize=4096)(_text)
"""The same, for what many entries share."""


# -- reading --------------------------------------------------------------------------------------------------------


# What `_encode` writes of nearly every entry: no extension attributes, no content type, no text with an escape in it.
# Between quotes that are not escaped a text has one spelling, so that members in this order are canonical.
_TEXT = rb'([^"\\\x00-\x1f\x7f]+)'
_HEAD = re.compile(rb'\{"actor":"%b","data(_base64)?":' % _TEXT)
_DATAREF = b',"dataref":"'
_DATAREF_MEMBER = re.compile(rb',"dataref":"%b"' % _TEXT)
_ID = b',"id":"'
_TAIL = re.compile(
    rb',"id":"%b"(?:,"keyid":"%b")?,"recordedtime":"%b","source":"%b","specversion":"1\.0",'
    rb'"streamversion":([1-9]\d{0,14})(?:,"subject":"%b")?,"time":"%b","type":"%b"\}' % ((_TEXT,) * 7)
)


def decode_entry(data: bytes) -> Entry:
    """The entry with these canonical bytes; unknown attributes are kept.

    Raises:
        MalformedEntry: they are not exactly the bytes that `encode_entry` writes.
    """
    return _usual(data) or _decode(data)


def _usual(data: bytes) -> Entry | None:
    """The entry, by where its members stand: a fast yes. None leaves the verdict to `_decode`.

    Each piece has one meaning: when the data between the members is canonical by itself, so is the whole. A property
    test holds both ways together.
    """
    head = _HEAD.match(data)
    end = data.rfind(_ID)  # in the data perhaps, where there is no other: then no tail follows
    tail = _TAIL.fullmatch(data, end) if head is not None and end > 0 else None
    if head is None or tail is None or len(data) > ENTRY_SIZE_MAX:
        return None
    id_, keyid, recorded, source, streamversion, subject, time, type_ = tail.groups()
    ref = data.rfind(_DATAREF, head.end(), end)  # in the data perhaps, which then goes on behind it
    member = _DATAREF_MEMBER.fullmatch(data, ref, end) if ref > 0 else None
    value = data[head.end() : end if member is None else ref]
    try:
        content = _plain(value) if head[2] is None else _from_base64(value)
        if content is None or (head[2] is None) is not (keyid is None):
            return None
        common = _common(source, type_)
        event = Event(
            _attribute(id_),
            common[0],
            common[1],
            None if subject is None else _attribute(subject),
            _time(time),
            None,
            content,
            None if member is None else _attribute(member[1]),
            None if keyid is None else _repeated_attribute(keyid),
        )
        return Entry(event, int(streamversion), _recorded(recorded), _repeated_attribute(head[1]))
    except (ValueError, Malformed):  # UnicodeDecodeError is a ValueError
        return None


def _plain(value: bytes) -> bytes | None:
    return value if is_canonical(value) else None


def _from_base64(value: bytes) -> bytes | None:
    """What stands between quotation marks; None: it is not base64 as RFC 4648 §4 writes it."""
    text = value[1:-1]
    data = binascii.a2b_base64(text)
    return data if b'"%b"' % binascii.b2a_base64(data, newline=False) == value else None


def _attribute(text: bytes) -> str:
    """Raises ValueError: it is not UTF-8, or nothing that an attribute may hold."""
    value = text.decode("utf-8")
    if not value.isascii() and not fits_attribute(value):
        raise ValueError
    return value


_repeated_attribute = lru_cache(maxsize=4096)(_attribute)


@lru_cache(maxsize=4096)
def _common(source: bytes, type_: bytes) -> tuple[str, str]:
    """What `check_repeated` accepts. Raises ValueError, Malformed."""
    found = source.decode("utf-8"), type_.decode("utf-8")
    check_repeated(*found, None)
    return found


def _time(text: bytes) -> str:
    """Raises ValueError, Malformed: it is no time."""
    time = text.decode("ascii")
    event_time_us(time)
    return time


@lru_cache(maxsize=4096)
def _recorded(text: bytes) -> str:
    """Raises ValueError, Malformed: it is no time as the sequencer writes it."""
    time = _time(text)
    if not _RECORDED_TIME.fullmatch(time):
        raise ValueError
    return time


def _decode(data: bytes) -> Entry:
    """The same for whatever bytes, by the rules."""
    if len(data) > ENTRY_SIZE_MAX:
        raise MalformedEntry(f"an entry of {len(data)} bytes; the most is {ENTRY_SIZE_MAX}")
    try:
        value = parse_canonical(data, nesting_max=NESTING_MAX + 1)  # the data is one level down
        if not isinstance(value, dict) or value.pop("specversion", None) != "1.0":
            raise MalformedEntry("it is no CloudEvents 1.0 object")
        streamversion, recordedtime, actor = (value.pop(name, None) for name in RECORDED)
        if not isinstance(streamversion, int) or isinstance(streamversion, bool) or streamversion < 1:
            raise MalformedEntry("streamversion is not a positive integer")
        if not isinstance(recordedtime, str) or not _RECORDED_TIME.fullmatch(recordedtime):
            raise MalformedEntry("recordedtime is not a time as the sequencer writes it")
        if not isinstance(actor, str) or not fits_attribute(actor):
            raise MalformedEntry("actor is missing, or not what it may be")
        if any(attribute is None and name != "data" for name, attribute in value.items()):
            raise MalformedEntry("an attribute is null, which is written by leaving it out")
        in_base64, in_data = "data_base64" in value, "data" in value
        event = event_of(value)
        check_event(event)
        event_time_us(recordedtime)
        if event.time is None:
            raise MalformedEntry("it has no time")
        misplaced = _is_plain(event) if in_base64 else in_data and not _may_be_plain(event)
        if misplaced:
            raise MalformedEntry("its data is not where it belongs")
    except MalformedEntry:
        raise
    except Malformed as error:
        raise MalformedEntry(error.what) from error
    return Entry(event, streamversion, recordedtime, actor)


def _is_plain(event: Event) -> bool:
    """Whether the data stands as `data`, not as `data_base64`."""
    data = event.data
    return data is not None and _may_be_plain(event) and is_canonical(data)


def _may_be_plain(event: Event) -> bool:
    return event.keyid is None and (event.datacontenttype is None or is_json_type(event.datacontenttype))


def same_event(stored: Entry, sent: Event) -> bool:
    """Whether a producer sent again what is stored: idempotency, docs/formats.md section 1.

    A `sent` without a time is not compared by time, as the stored one's may be the sequencer's default.
    """
    event = stored.event
    return (
        (event.id, event.source, event.type, event.subject, event.datacontenttype, event.data)
        == (sent.id, sent.source, sent.type, sent.subject, sent.datacontenttype, sent.data)
    ) and (sent.time is None or sent.time == event.time)
