"""Every parser of the status services, with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

from ledger.errors import Malformed, MalformedRequest
from pki.core.algorithms import P256
from pki.core.ocsp import HASHES, IssuerHashes, format_ocsp_request, parse_ocsp_request
from pki.core.published import (
    Manifest,
    Published,
    PublishedAnswers,
    PublishedIssuer,
    PublishedList,
    PublishedObject,
    SignedAnswer,
    format_manifest,
    format_pack,
    format_published,
    parse_manifest,
    parse_pack,
    parse_published,
)
from pki.status.base import parse_list_name
from tests.support.content_parsers import Row

_ISSUER = IssuerHashes({"sha1": bytes(20), "sha256": bytes(32)}, {"sha1": bytes(20), "sha256": bytes(32)})
_IDS = [_ISSUER.cert_id(hash_, serial) for hash_ in HASHES for serial in ("00", "7f" * 20, "0180")]
_OBJECT = PublishedObject("crl/city-1-0/1796112000.crl", "ab" * 32)
_LIST = PublishedList(0, True, 1_796_112_000, 1_796_112_000, 1_796_198_400, 12, _OBJECT)
_ANSWERS = PublishedAnswers(
    3, 1_796_112_000, 1_796_198_400, 12, PublishedObject("ocsp/city-1/3/manifest.json", "cd" * 32)
)
_MANIFEST = Manifest(4, ("00" * 20, "7f" * 20), (_OBJECT, PublishedObject("ocsp/city-1/3/7f.pack", "ef" * 32)))


def _request(data: bytes) -> None:
    request = parse_ocsp_request(data)
    again = parse_ocsp_request(format_ocsp_request([one.der for one in request.asked], request.nonce))
    assert again == request
    assert all(len(one.serial) == 40 for one in request.asked)


def _published(data: bytes) -> None:
    index = parse_published(data)
    assert parse_published(format_published(index)) == index


def _manifest(data: bytes) -> None:
    manifest = parse_manifest(data)
    assert parse_manifest(format_manifest(manifest)) == manifest
    for first, pack in zip(manifest.firsts, manifest.packs, strict=True):
        assert manifest.pack_of(first) == pack


def _pack(data: bytes) -> None:
    pack = parse_pack(data)
    answers = [(hash_, serial, answer) for (hash_, serial), answer in pack.answers.items()]
    assert parse_pack(format_pack(pack.algorithm, pack.certificate, answers)) == pack


def _list_name(data: bytes) -> None:
    found = parse_list_name(data.decode("utf-8", "replace"))
    if found is not None:
        authority, generation, shard, delta = found
        assert parse_list_name(f"{authority}-{generation}-{shard}{'-delta' if delta else ''}") == found


STATUS_PARSERS: list[Row] = [
    (
        "parse_ocsp_request",
        "asked again in our own words, it is the same request",
        _request,
        (MalformedRequest,),
        lambda: [format_ocsp_request(_IDS[:1]), format_ocsp_request(_IDS, b"n" * 32)],
        "pki.core.ocsp.parse_ocsp_request",
    ),
    (
        "parse_published",
        "written out, it is the same index",
        _published,
        (Malformed,),
        lambda: [
            format_published(Published(1, (PublishedIssuer("city", 1, _OBJECT, (_LIST,), (_ANSWERS,)),))),
            format_published(Published(0, ())),
        ],
        "pki.core.published.parse_published",
    ),
    (
        "status.parse_manifest",
        "written out, it is the same manifest, and each pack is found by its first serial",
        _manifest,
        (Malformed,),
        lambda: [format_manifest(_MANIFEST), format_manifest(Manifest(0, (), ()))],
        "pki.core.published.parse_manifest",
    ),
    (
        "status.parse_pack",
        "written out, it has the same answers",
        _pack,
        (Malformed,),
        lambda: [
            format_pack(P256, b"certificate", []),
            format_pack(P256, b"c", [(one, "7f" * 20, SignedAnswer(b"data", b"signature")) for one in HASHES]),
        ],
        "pki.core.published.parse_pack",
    ),
    (
        "parse_list_name",
        "written out, it is the same list",
        _list_name,
        (),
        lambda: [b"city-1-0", b"city-north-12-4095-delta"],
        "pki.status.base.parse_list_name",
    ),
]
