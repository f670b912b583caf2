"""Subjects: which attributes there are, how each is written in a certificate, and a name as one line. Pure."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from ledger.errors import IssuanceRefused, MalformedRequest

# A name of more than 21 Chinese characters, within the limit of RFC 5280, is warned of whenever it is read.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

UTF8, PRINTABLE, IA5 = "UTF8String", "PrintableString", "IA5String"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its short name, how long it may be in characters, and the string type `cryptography` writes."""

    name: str
    oid: x509.ObjectIdentifier
    length_max: int
    type: str = UTF8
    repeats: bool = False


# RFC 5280 appendix A.1 (upper bounds), RFC 4519, ETSI EN 319 412-1 (organizationIdentifier). In the order they are
# written.
_IN_ORDER: Final = (
    Attribute("DC", NameOID.DOMAIN_COMPONENT, 63, IA5, repeats=True),
    Attribute("C", NameOID.COUNTRY_NAME, 2, PRINTABLE),
    Attribute("ST", NameOID.STATE_OR_PROVINCE_NAME, 128),
    Attribute("L", NameOID.LOCALITY_NAME, 128),
    Attribute("postalCode", NameOID.POSTAL_CODE, 40),
    Attribute("street", NameOID.STREET_ADDRESS, 128),
    Attribute("O", NameOID.ORGANIZATION_NAME, 64),
    Attribute("organizationIdentifier", NameOID.ORGANIZATION_IDENTIFIER, 128),
    Attribute("OU", NameOID.ORGANIZATIONAL_UNIT_NAME, 64, repeats=True),
    Attribute("title", NameOID.TITLE, 64),
    Attribute("SN", NameOID.SURNAME, 64),
    Attribute("GN", NameOID.GIVEN_NAME, 64),
    Attribute("CN", NameOID.COMMON_NAME, 64),
    Attribute("serialNumber", NameOID.SERIAL_NUMBER, 64, PRINTABLE),
    Attribute("UID", NameOID.USER_ID, 256),
    Attribute("emailAddress", NameOID.EMAIL_ADDRESS, 255, IA5),
)
ATTRIBUTES: Final = {one.name: one for one in _IN_ORDER}
_BY_OID: Final = {one.oid: one for one in _IN_ORDER}
_PLACE: Final = {one.oid: number for number, one in enumerate(_IN_ORDER)}

PARTS_MAX: Final = 20
_PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+")
_SPECIAL: Final = re.compile(r'([,+"\\<>;=])')
_NOTHING: Final = re.compile(r"[\s.\-_*?]*")


def name_for(attribute: x509.NameAttribute[str | bytes]) -> str:
    """Its short name, or its object identifier."""
    found = _BY_OID.get(attribute.oid)
    return found.name if found is not None else attribute.oid.dotted_string


def subject_line(name: x509.Name) -> str:
    """A subject on one line, as events and people have it: `C=CN, O=某市数据局, CN=www.city.example`."""
    return ", ".join(f"{name_for(one)}={_escaped(str(one.value))}" for one in name)


def subject_of(pairs: Iterable[tuple[str, str]]) -> x509.Name:
    """A subject out of short names and values. Raises MalformedRequest: an attribute is not known, or too long."""
    found = []
    for name, value in pairs:
        attribute = ATTRIBUTES.get(name)
        if attribute is None:
            raise MalformedRequest(
                f"{name[:40]!r} is no attribute of a subject", hint=f"one of {', '.join(ATTRIBUTES)}"
            )
        if not value or len(value) > attribute.length_max or (name == "C" and len(value) != 2):
            raise MalformedRequest(f"{name} is {value[:80]!r}", hint=f"1 to {attribute.length_max} characters")
        if any("\ud800" <= one <= "\udfff" for one in value):  # what came to a command was no UTF-8
            raise MalformedRequest(f"{name} is {value[:80]!r}, which cannot be encoded", hint="give it in UTF-8")
        found.append(_attribute(attribute.oid, value))
    return x509.Name(found)


def written(subject: x509.Name) -> x509.Name:
    """The subject as certificates have it: in one order, each attribute in its string type, in NFC.

    Raises:
        IssuanceRefused: an attribute is not known, stands twice, is too long, empty or holds unprintable characters.
    """
    attributes = list(subject)
    if len(attributes) > PARTS_MAX:
        raise IssuanceRefused(f"the subject has {len(attributes)} parts; the most is {PARTS_MAX}")
    if any(len(relative) > 1 for relative in subject.rdns):
        raise IssuanceRefused("the subject has several attributes in one place", hint="give them one after the other")
    seen: set[x509.ObjectIdentifier] = set()
    for one in attributes:
        known = _BY_OID.get(one.oid)
        if known is None:
            raise IssuanceRefused(f"the subject has {one.oid.dotted_string}", hint=f"known: {', '.join(ATTRIBUTES)}")
        if one.oid in seen and not known.repeats:
            raise IssuanceRefused(f"the subject has {known.name} twice")
        seen.add(one.oid)
    return x509.Name([_written(one) for one in sorted(attributes, key=lambda one: _PLACE[one.oid])])


def _written(one: x509.NameAttribute[str | bytes]) -> x509.NameAttribute[str]:
    attribute = _BY_OID[one.oid]
    value = unicodedata.normalize("NFC", one.value) if isinstance(one.value, str) else ""
    if attribute.name == "C":
        value = value.upper()
    if why := text_fault(attribute, value):
        hint = "with openssl req, give -utf8" if _is_utf8_read_as_latin(value) else ""
        raise IssuanceRefused(f"the subject's {attribute.name} {value[:80]!r} {why}", hint=hint)
    return _attribute(attribute.oid, value)


def _is_utf8_read_as_latin(value: str) -> bool:
    """Whether it is what comes of Chinese characters where a tool takes each of their bytes for a character."""
    try:
        return not value.isascii() and bool(value.encode("latin-1").decode())
    except ValueError:
        return False


def _attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    # `cryptography` counts the bytes of a common name; RFC 5280 counts characters, as is done here before.
    return x509.NameAttribute(oid, value, _validate=False)


def text_fault(attribute: Attribute, value: str) -> str:
    """What is wrong with a value in a certificate; "": nothing."""
    if not value or len(value) > attribute.length_max or (attribute.name == "C" and len(value) != 2):
        return f"has {len(value)} characters, of {attribute.length_max} at most"
    if value != value.strip() or "  " in value or not value.isprintable():
        return "has spaces at its ends or in a row, or characters that cannot be printed"
    if _NOTHING.fullmatch(value):
        return "says nothing"
    if attribute.type is PRINTABLE and not _PRINTABLE.fullmatch(value):
        return "has characters beyond a PrintableString"
    if attribute.type is IA5 and not value.isascii():
        return "has characters beyond ASCII"
    return ""


def attribute_of(oid: x509.ObjectIdentifier) -> Attribute | None:
    """What is known of an attribute."""
    return _BY_OID.get(oid)


def values_of(subject: x509.Name, name: str) -> Sequence[str]:
    """The values of an attribute, by its short name."""
    return [str(one.value) for one in subject.get_attributes_for_oid(ATTRIBUTES[name].oid)]


def _escaped(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", value) if _SPECIAL.search(value) else value
