"""Golden bytes of the content store, read by the page (docs/formats.md section 11) and written by the code."""

from __future__ import annotations

import hashlib
import struct

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ledger.core.chunks import ChunkRef, ContentKeys, open_chunk
from ledger.core.manifest import Dataref, Manifest, encode_manifest, parse_dataref, parse_manifest
from ledger.core.packs import Blob, PackTable, encode_segment, encode_trailer, open_segment, open_table

SECRET = bytes(range(32))
TEXT = b"Jinshi, bronze and stone. " * 40
ID = bytes.fromhex("0386087156ed6fff1eb1599df9b023ba6da420f85e1d6e6f3378f4b175e56eb4")
KEY = bytes.fromhex("9912613f7dc79cd0d25e429e4a2a2422bfef7199eb700c69276573dbde6c8b25")
BLOB = bytes.fromhex(
    "000102030405060708090a0bfa747bdb8a88d52434c40b77b57a1476102bca47a27353a2d72f5db871124228bbfc4b6b"
    "f73c22884e07e6a6a818a92552dc339e6ee996f5c1f0d9b6"
)
TRAILER = bytes.fromhex(
    "010c0d0e0f1011121314151617539c7b60f6be98915afee7b0802dd252535e8b88d15f3a2509ac329fef563470fea2b5"
    "2f8ffce2e1a1ba13ce12707ae2cab91c15e4e285b3000000454a504b31"
)
PACK = b"jinshi pack 1\n" + BLOB + TRAILER
PACK_NAME = "52bf70b26db70259682e4a1ae60033d0adb2b4f6a62eb389ef10c81b33e2f592"
SEGMENT = bytes.fromhex(
    "6a696e73686920696e64657820310a01000102030405060708090a0bfa7c82c363719ad5f40a760ee86528175c9dd738"
    "c97bdbf54ed76a583e681c5960cd27a9995af704356b3c22f3550319e1716aeb4f070b151cc0691fb65ccc4b55781d8e"
    "f996614027cc3dfeeab928ea3245d4c6a8b60cc95f3e6060"
)
MANIFEST = bytes.fromhex(
    "01000000000000000410d42967d881c50f0442d2738df51331572ec1cf62889f5848b29e1450be85210d000000010386"
    "087156ed6fff1eb1599df9b023ba6da420f85e1d6e6f3378f4b175e56eb49912613f7dc79cd0d25e429e4a2a2422bfef"
    "7199eb700c69276573dbde6c8b2500000410"
)
BOUNDARIES = 7968969646006770835
DATAREF = "jinshi-content:1/52bf70b26db70259682e4a1ae60033d0adb2b4f6a62eb389ef10c81b33e2f592"

KEYS = ContentKeys.derive(SECRET)
REF = ChunkRef(ID, KEY, len(TEXT))
BLOBS = (Blob(ID, 14, len(BLOB), len(TEXT)),)


def _derived(info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(SECRET)


def test_a_pack_is_read_by_the_page_alone() -> None:
    assert hashlib.sha256(PACK).hexdigest() == PACK_NAME
    (table_size,) = struct.unpack(">I", PACK[-8:-4])
    table = PACK[-8 - table_size : -8]
    end = len(PACK) - 8 - table_size
    tables = AESGCMSIV(_derived(b"jinshi content tables v1", 32))
    assert table[0] == 1
    plain = tables.decrypt(table[1:13], table[13:], b"jinshi pack 1\n" + struct.pack(">Q", end))
    id_, size, length = struct.unpack(">32sII", plain)
    blob = PACK[14 : 14 + size]
    assert 14 + size == end
    key = MANIFEST[46 + 32 : 46 + 64]
    text = zstandard.decompress(AESGCM(key).decrypt(blob[:12], blob[12:], id_))
    assert text == TEXT
    assert length == len(text)
    assert blake3(text, key=_derived(b"jinshi content chunks v1", 32)).digest(length=64) == id_ + key


def test_the_code_reads_and_writes_the_same_bytes() -> None:
    assert KEYS.boundaries == BOUNDARIES
    assert KEYS.identify(TEXT) == REF
    assert open_chunk(KEYS, REF, BLOB) == TEXT  # zstd may pack the same text otherwise: it is read only
    assert encode_trailer(KEYS, bytes(range(12, 24)), BLOBS) == TRAILER
    assert open_table(KEYS, PACK) == BLOBS
    tables = (PackTable(bytes.fromhex(PACK_NAME), BLOBS),)
    assert encode_segment(KEYS, bytes(range(12)), tables) == SEGMENT
    assert open_segment(KEYS, SEGMENT) == tables
    manifest = Manifest(len(TEXT), hashlib.sha256(TEXT).digest(), (REF,))
    assert encode_manifest(manifest) == MANIFEST
    assert parse_manifest(MANIFEST) == manifest
    assert parse_dataref(DATAREF) == Dataref((bytes.fromhex(PACK_NAME),))
    assert str(Dataref((bytes.fromhex(PACK_NAME),))) == DATAREF
