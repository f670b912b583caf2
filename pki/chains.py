"""From an authority's certificate up to its root, as far as it is known here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import InvalidRequest
from pki.aggregates.authority import Authority
from pki.core.authority_profile import extension, key_id_in
from pki.core.name_constraints import compared
from pki.core.path_signatures import signature_holds
from pki.views.book import Book

LENGTH_MAX = 10


def issuing_certificate(authority: Authority, generation: int | None = None) -> x509.Certificate:
    """What an authority issues under: the first certificate of a generation, by default the current one.

    Raises:
        Conflict: it is retired or not certified yet (asked for the current one).
        InvalidRequest: there is no certificate of that generation.
    """
    found = authority.current if generation is None else authority.generation(generation)
    if not found.certificates:
        raise InvalidRequest(f"key {found.number} of {authority.name} is not certified", hint="see: jinshi ca show")
    return x509.load_der_x509_certificate(decode_base64(found.certificates[0]))


def chain_of(
    book: Book, authority: Authority, generation: int | None = None, *, root: bool = True
) -> list[x509.Certificate]:
    """The certificate an authority issues under, and those above it, in order; `root` False leaves the last one out
    when it is self-signed.

    It ends where the issuer is not known here. Raises as `issuing_certificate`.
    """
    chain = [issuing_certificate(authority, generation)]
    while len(chain) < LENGTH_MAX and not is_self_signed(chain[-1]):
        above = next((one for one in _known(book, authority) if _issued(one, chain[-1]) and one not in chain), None)
        if above is None:
            break
        chain.append(above)
    if not root and len(chain) > 1 and is_self_signed(chain[-1]):
        chain.pop()
    return chain


def known_above(book: Book, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Those of all authorities here that may stand above some certificates, by their names; not the others."""
    by_name: dict[object, list[x509.Certificate]] = {}
    for authority in book.all(Authority):
        for one in _certificates(authority):
            by_name.setdefault(compared(one.subject), []).append(one)
    found: dict[x509.Certificate, None] = {}
    waiting = list(certificates)
    while waiting:
        for one in by_name.pop(compared(waiting.pop().issuer), ()):
            found[one] = None
            waiting.append(one)
    return list(found)


def _certificates(authority: Authority) -> Iterator[x509.Certificate]:
    """Of its keys, and those above it that were taken in with it."""
    texts = [der for generation in authority.generations for der in generation.certificates]
    return (x509.load_der_x509_certificate(decode_base64(der)) for der in (*texts, *authority.superiors))


def _known(book: Book, authority: Authority) -> Iterator[x509.Certificate]:
    """The certificates of all authorities: the parents' first, each generation's issuing one before cross ones."""
    parents: list[Authority] = []
    one: Authority | None = authority
    while one is not None and one.parent and len(parents) < LENGTH_MAX:
        one = book.find(Authority, Authority.create_id(one.parent))
        parents += [one] if one is not None else []
    others = (other for other in book.all(Authority) if other is not authority and other not in parents)
    for holder in (*parents, authority, *others):
        yield from _certificates(holder)


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether it is a root's."""
    return certificate.subject == certificate.issuer and _issued(certificate, certificate)


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    stated = extension(certificate, x509.AuthorityKeyIdentifier)
    if stated is not None and stated.key_identifier not in (None, key_id_in(issuer)):
        return False
    return signature_holds(certificate, issuer.public_key())
