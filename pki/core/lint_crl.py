"""The lint rules of a certificate revocation list, on the bytes that are to be signed, or were signed elsewhere. Pure.

A list is read back with another hand's parser and held against who issues it: what is wrong with a list that nobody
can sign anew for months is found before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core.crl import ENTRIES_MAX, Issuer

LIST_SIZE_MAX: Final = 64 * 2**20
_NUMBER_MAX: Final = 1 << 159
"""RFC 5280 §5.2.3: at most 20 octets."""
_OF_LISTS: Final = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)
_OF_ENTRIES: Final = (x509.CRLReason, x509.InvalidityDate)
T = TypeVar("T", bound=x509.ExtensionType)


class ListUnderLint(NamedTuple):
    """A list, who issues it, and when that one's certificate ends (POSIX seconds)."""

    crl: x509.CertificateRevocationList
    issuer: Issuer
    not_after: int


def parse_list(data: bytes) -> x509.CertificateRevocationList:
    """A list, DER or PEM, all of which can be read. Raises MalformedRequest."""
    if len(data) > LIST_SIZE_MAX:
        raise MalformedRequest(f"a list of {len(data):,} bytes; the most is {LIST_SIZE_MAX:,}")
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        # What is wrong is said here, not where it is looked at first.
        found.extensions, found.issuer, found.last_update_utc, found.next_update_utc, found.signature  # noqa: B018
        count = 0
        for entry in found:
            entry.extensions, entry.serial_number, entry.revocation_date_utc  # noqa: B018
            if (count := count + 1) > ENTRIES_MAX:
                raise ValueError("it is too long")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise MalformedRequest("that is no certificate revocation list", hint="give it in PEM or DER") from error
    return found


def must_be_listed_so(crl: x509.CertificateRevocationList, issuer: Issuer, not_after: int) -> None:
    """That a full list breaks no rule; its signature is not looked at. Raises InvalidRequest: every reason is named."""
    under = ListUnderLint(crl, issuer, not_after)
    found = [f"{why} ({source})" for source, rule in _RULES for why in rule(under)]
    if found:
        raise InvalidRequest(f"the list is refused: {'; '.join(found[:10])}", hint="nothing was signed or taken in")


def must_be_of_all_points(crl: x509.CertificateRevocationList) -> None:
    """That a list is not only of the certificates that name one of several points, as a shard's is.

    Raises InvalidRequest.
    """
    scope = _find(crl, x509.IssuingDistributionPoint)
    if scope is not None and (scope.full_name or scope.relative_name):
        raise InvalidRequest(
            "the list is refused: it is not of all certificates of its issuer, but of one distribution point (RFC 5280 "
            "§5.2.5)",
            hint="have one list issued of all of them",
        )


def _issuer(it: ListUnderLint) -> Iterator[str]:
    if it.crl.issuer.public_bytes() != it.issuer.name:
        yield "its issuer is not the authority's subject, byte for byte"
    known = _find(it.crl, x509.AuthorityKeyIdentifier)
    if known is None or known.key_identifier != it.issuer.key_id:
        yield "it does not name the authority's key"


def _number(it: ListUnderLint) -> Iterator[str]:
    number = _find(it.crl, x509.CRLNumber)
    if number is None or not 0 <= number.crl_number < _NUMBER_MAX:
        yield "it has no number, or one of more than 20 octets"


def _times(it: ListUnderLint) -> Iterator[str]:
    begins, ends = it.crl.last_update_utc, it.crl.next_update_utc
    if ends is None or ends <= begins:
        yield "it says not until when it holds"
    elif int(ends.timestamp()) > it.not_after:
        yield "it holds longer than the certificate of its authority"


def _whole(it: ListUnderLint) -> Iterator[str]:
    if _find(it.crl, x509.DeltaCRLIndicator) is not None:
        yield "it is a delta"
    scope = _find(it.crl, x509.IssuingDistributionPoint)
    if scope is not None and (
        scope.only_contains_user_certs
        or scope.only_contains_ca_certs
        or scope.only_contains_attribute_certs
        or scope.only_some_reasons
        or scope.indirect_crl
    ):
        yield "it is not of all certificates of its issuer"
    if any(one.critical and not isinstance(one.value, _OF_LISTS) for one in it.crl.extensions):
        yield "it has a critical extension that is not known here"


def _entries(it: ListUnderLint) -> Iterator[str]:
    seen: set[int] = set()
    for one in it.crl:
        shown = f"{one.serial_number:040x}"
        if one.serial_number in seen or not 0 < one.serial_number < _NUMBER_MAX:
            yield f"{shown} stands twice, or is no serial"
        if one.revocation_date_utc > it.crl.last_update_utc:
            yield f"{shown} is revoked after the list was made"
        seen.add(one.serial_number)
        for extension in one.extensions:
            if extension.critical and not isinstance(extension.value, _OF_ENTRIES):
                yield f"{shown} has a critical extension that is not known here"
            if extension.value == _REMOVED:
                yield f"{shown} is removed, as only a delta does"


_REMOVED: Final = x509.CRLReason(x509.ReasonFlags.remove_from_crl)
_RULES: Final[tuple[tuple[str, Callable[[ListUnderLint], Iterator[str]]], ...]] = (
    ("RFC 5280 §5.1.2.3, §5.2.1", _issuer),
    ("RFC 5280 §5.2.3", _number),
    ("RFC 5280 §5.1.2.5", _times),
    ("RFC 5280 §5.2, §5.2.4, §5.2.5", _whole),
    ("RFC 5280 §5.3", _entries),
)


def _find(crl: x509.CertificateRevocationList, kind: type[T]) -> T | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
