"""Every example on C2SP's pages that can be checked, and the rules beside them, page by page."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations

import pytest

from ledger.core.checkpoint import OpenedCheckpoint, origin_prefix, parse_checkpoint, parse_checkpoint_text
from ledger.core.cosignature import cosigned_message, verify_cosignature
from ledger.core.encoding import decode_base64
from ledger.core.note import (
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    format_note,
    parse_note,
    parse_vkey,
    verify_signature,
)
from ledger.core.policy import parse_policy
from ledger.core.tiles import ENTRIES, Tile, completed_partials, parse_tile_path, tiles_of
from ledger.errors import MalformedNote, MalformedPolicy, MalformedTile, Untrusted
from tests.support.ledgers import log_signer, mirror_cosigner

# -- signed-note ------------------------------------------------------------------------------------------------------

EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
""".encode()  # noqa: E501
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_NOTE = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
""".encode()  # noqa: E501
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()  # noqa: E501


@pytest.mark.parametrize(("vkey", "data"), [(EXAMPLE_KEY, EXAMPLE_NOTE), (NEUMANN_KEY, NEUMANN_NOTE)])
def test_the_published_keys_verify_the_published_notes(vkey: str, data: bytes) -> None:
    key, note = parse_vkey(vkey), parse_note(data)
    assert str(key) == vkey
    assert format_note(note) == data
    assert verify_signature(note, key)
    edited = Note(note.text.replace(b"example", b"eXample").replace(b"problem", b"Problem"), note.signatures)
    with pytest.raises(Untrusted):
        verify_signature(edited, key)


def test_a_text_may_hold_empty_lines() -> None:
    note = parse_note(POEM)
    assert note.text.endswith("di sole:\n\ned è subito sera.\n".encode())
    (signature,) = note.signatures
    assert (signature.name, len(signature.signature)) == ("quasimodo.example/salvatore", 64)
    assert format_note(note) == POEM


def test_a_signature_by_another_key_of_the_same_name_is_ignored() -> None:
    """ "Verifiers MUST ignore signatures from unknown keys, even if they share a name or ID (but not both)"."""
    note, key = parse_note(EXAMPLE_NOTE), parse_vkey(EXAMPLE_KEY)
    (genuine,) = note.signatures
    for other in (replace(genuine, name="example.com/bar"), replace(genuine, key_id=b"\0\0\0\1")):
        wrong = replace(other, signature=bytes(64))
        assert not verify_signature(Note(note.text, (wrong,)), key)
        assert verify_signature(Note(note.text, (wrong, genuine)), key)


def test_one_wrong_signature_by_a_known_key_spoils_the_note() -> None:
    """ "If a signature from a known key fails to verify, clients SHOULD reject the whole note"."""
    note = parse_note(EXAMPLE_NOTE)
    with pytest.raises(Untrusted):
        verify_signature(note.with_signature(replace(note.signatures[0], signature=bytes(64))), parse_vkey(EXAMPLE_KEY))


def test_signatures_of_strangers_do_not_make_a_note_unreadable() -> None:
    """At least 16 signatures; names of any length, with whatever but spaces and plus; signatures of any kind."""
    strangers = (
        NoteSignature("x" * 300, b"1234", b"s"),
        NoteSignature("名字/\x7f", b"1234", bytes(5_000)),
        *(NoteSignature(f"witness.example/{number}", b"1234", bytes(2_428)) for number in range(16)),
    )
    note = parse_note(EXAMPLE_NOTE)
    full = Note(note.text, (*strangers, *note.signatures))
    assert parse_note(format_note(full)) == full
    assert verify_signature(parse_note(format_note(full)), parse_vkey(EXAMPLE_KEY))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("no signature", b"text\n"),
        ("no blank line", "text\n— example.com/foo AAAAAAA=\n".encode()),
        ("the last line does not end", EXAMPLE_NOTE[:-1]),
        ("a hyphen for the em dash", EXAMPLE_NOTE.replace("—".encode(), b"-")),
        ("two spaces", EXAMPLE_NOTE.replace(b"foo Uw2", b"foo  Uw2")),
        ("something behind the signature", EXAMPLE_NOTE[:-1] + b" x\n"),
        ("a plus in the name", EXAMPLE_NOTE.replace(b"com/foo", b"com+foo")),
        ("an ideographic space in the name", EXAMPLE_NOTE.replace(b"com/foo", "com\u3000foo".encode())),
        ("no name", EXAMPLE_NOTE.replace(b"example.com/foo", b"")),
        ("a carriage return", EXAMPLE_NOTE.replace(b"message.", b"message.\r")),
        ("a tab", EXAMPLE_NOTE.replace(b"example m", b"example\tm")),
        ("a NUL", EXAMPLE_NOTE.replace(b"example m", b"example\0m")),
        ("Latin-1", EXAMPLE_NOTE.replace(b"example m", b"ex\xe4mple m")),
        ("URL-safe base64", EXAMPLE_NOTE.replace(b"Uw2QOkn8", b"Uw2QOk_8")),
        ("base64 without padding", EXAMPLE_NOTE.replace(b"yaQM=", b"yaQM")),
        ("a key id and no signature", "text\n\n— example.com/foo AAAAAA==\n".encode()),
        ("an empty line behind the signatures", EXAMPLE_NOTE + b"\n"),
    ],
)
def test_what_is_no_signed_note_is_refused(what: str, data: bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_note(data)


@pytest.mark.parametrize(
    "vkey",
    [
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("530d903a", "0530d903a"),
        EXAMPLE_KEY.replace("example.com/foo", "example.com/bar"),
        EXAMPLE_KEY.replace("+Aek", "+Bek"),
        EXAMPLE_KEY[:-4],
        EXAMPLE_KEY + "=",
        "example.com/foo+530d903a",
        "",
        "++",
    ],
)
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(MalformedNote):
        parse_vkey(vkey)


# -- tlog-checkpoint --------------------------------------------------------------------------------------------------

CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
""".encode()  # noqa: E501
SUM_GOLANG_ORG = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def test_the_example_checkpoint_is_read_and_written_as_it_is() -> None:
    opened = parse_checkpoint(CHECKPOINT)
    assert opened.checkpoint.origin == "example.com/behind-the-sofa"
    assert opened.checkpoint.size == 20852163
    assert opened.checkpoint.root == decode_base64("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert opened.checkpoint.text == opened.note.text
    assert format_note(opened.note) == CHECKPOINT


def test_the_checkpoint_behind_the_example_is_verified_although_its_origin_has_spaces() -> None:
    """The page's example is a checkpoint of Go's checksum database under another name: given its own origin back, that
    log's key verifies it. "The origin ... SHOULD be a schema-less URL ... clients MUST NOT assume" it is.
    """
    head, _, _ = CHECKPOINT.partition("— witness".encode())
    real = head.replace(b"example.com/behind-the-sofa\n", b"go.sum database tree\n", 1)
    opened = parse_checkpoint(real.replace(b"example.com/behind-the-sofa", b"sum.golang.org"))
    assert opened.checkpoint.origin == "go.sum database tree"
    assert verify_signature(opened.note, parse_vkey(SUM_GOLANG_ORG))


@pytest.mark.parametrize(
    "text",
    [
        b"a\n1\n",
        b"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        b"\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"a\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"a\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"a\n+1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "a\n\uff11\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n".encode(),
        b"a\n9223372036854775808\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        b"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2==\n",
        b"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n",
        b"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n",
        b"a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\nextension\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedNote):
        parse_checkpoint_text(text)


def test_extension_lines_are_kept_for_the_signature() -> None:
    text = b"a b+c\n0\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nfirst extension\n second\n"
    checkpoint = parse_checkpoint_text(text)
    assert checkpoint.extensions == ("first extension", " second")
    assert checkpoint.text == text


# -- tlog-cosignature -------------------------------------------------------------------------------------------------


def test_an_ed25519_cosigner_signs_the_message_on_the_page() -> None:
    opened = parse_checkpoint(CHECKPOINT)
    cosignature = opened.note.signatures[1]
    timestamp_s = int.from_bytes(cosignature.signature[:8], "big")
    assert len(cosignature.signature) == 8 + 64
    key = VerifierKey("witness.example.com/w1", SignatureType.COSIGNATURE_ED25519, bytes(32))
    assert cosigned_message(key, opened.checkpoint, timestamp_s) == (
        b"cosignature/v1\n"
        b"time 1679315147\n"
        b"example.com/behind-the-sofa\n"
        b"20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_an_ml_dsa_44_cosigner_signs_the_structure_on_the_page() -> None:
    checkpoint = parse_checkpoint(CHECKPOINT).checkpoint
    key = VerifierKey("witness.example.com/w1", SignatureType.COSIGNATURE_ML_DSA_44, bytes(1312))
    message = cosigned_message(key, replace(checkpoint, extensions=("not signed",)), 1679315147)
    assert message == b"".join(
        (
            b"subtree/v1\n\0",  # uint8 label[12]
            b"\x16witness.example.com/w1",  # opaque cosigner_name<1..2^8-1>
            bytes.fromhex("00000000641850cb"),  # uint64 timestamp
            b"\x1bexample.com/behind-the-sofa",  # opaque log_origin<1..2^8-1>
            bytes(8),  # uint64 start
            bytes.fromhex("00000000013e2dc3"),  # uint64 end
            checkpoint.root,  # uint8 hash[32]
        )
    )


@pytest.mark.parametrize(("type_", "size"), [(0x04, 32), (0x06, 1312)])
def test_a_cosigners_key_id_is_computed_as_on_the_page(type_: int, size: int) -> None:
    key = VerifierKey("example.com/w", SignatureType(type_), b"\7" * size)
    digest = hashlib.sha256(b"example.com/w" + b"\n" + bytes([type_]) + b"\7" * size).digest()
    assert key.key_id == digest[:4]
    assert parse_vkey(str(key)) == key


def test_an_origin_too_long_for_ml_dsa_44_is_not_cosigned_by_it() -> None:
    """log_origin<1..2^8-1>: such a cosignature cannot exist, so one that claims to be there is wrong."""
    cosigner = mirror_cosigner("example.com/m")
    text = b"o" * 256 + b"\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    claimed = NoteSignature(cosigner.key.name, cosigner.key.key_id, bytes(8 + 2420))
    opened = OpenedCheckpoint(parse_checkpoint_text(text), Note(text, (claimed,)))
    with pytest.raises(Untrusted):
        verify_cosignature(opened, cosigner.key)
    with pytest.raises(MalformedNote):
        cosigner.cosign(text, 1)


# -- tlog-tiles -------------------------------------------------------------------------------------------------------


def test_paths_are_written_as_on_the_page() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(3, 0, 17).path == "tile/3/000.p/17"
    assert Tile(ENTRIES, 999).path == "tile/entries/999"
    assert Tile(ENTRIES, 1000, 255).path == "tile/entries/x001/000.p/255"
    for tile in (Tile(0, 1234067), Tile(63, 0, 1), Tile(ENTRIES, 1000, 255)):
        assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000",  # "between 0 and 63"
        "tile/00/000",  # "no additional leading zeroes"
        "tile/-1/000",
        "tile/0/1234067",
        "tile/0/001/234/067",
        "tile/0/x000/067",
        "tile/0/x001/x234",
        "tile/0/000.p/0",  # "between 1 and 255"
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/0/\uff10\uff10\uff10",
        "tile/entries/../000",
        "tile/8/001/000",
        "tile/0/" + "x999/" * 2_000 + "999",  # more digits than Python converts
        "tile/data/000",
    ],
)
def test_what_is_no_tile_path_is_refused(path: str) -> None:
    with pytest.raises(MalformedTile):
        parse_tile_path(path)


def test_a_tree_of_70_000_has_the_tiles_on_the_page() -> None:
    tiles = list(tiles_of(70_000))
    assert [tile for tile in tiles if tile.level == 0] == [*(Tile(0, n) for n in range(273)), Tile(0, 273, 112)]
    assert [tile for tile in tiles if tile.level == 1] == [Tile(1, 0), Tile(1, 1, 17)]
    assert [tile for tile in tiles if tile.level == 2] == [Tile(2, 0, 1)]
    assert [replace(tile, level=0) for tile in tiles if tile.level == ENTRIES] == [
        tile for tile in tiles if tile.level == 0
    ]
    assert max(tile.level for tile in tiles) == 2


def test_a_tree_of_256_has_one_full_tile_and_a_partial_one_above() -> None:
    assert list(tiles_of(256)) == [Tile(ENTRIES, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert list(completed_partials(255, 256)) == [Tile(ENTRIES, 0, 255), Tile(0, 0, 255)]


# -- tlog-mirror ------------------------------------------------------------------------------------------------------


def test_a_ledger_lies_under_the_digest_of_its_origin() -> None:
    """ "the SHA-256 hash of the log's origin, hex encoded, in lowercase"."""
    assert origin_prefix("example.com/log") == hashlib.sha256(b"example.com/log").hexdigest() + "/"


# -- tlog-policy ------------------------------------------------------------------------------------------------------

LOG = log_signer("example.com/log")
WITNESSES = {name: mirror_cosigner(f"example.com/{name}").key for name in ("X1", "X2", "X3", "Y1", "Y2", "Y3")}
POLICY = """
# The page's example, with keys.
log {log}

witness X1 {X1}
witness X2 {X2}
witness X3 {X3}
group X-witnesses 2 X1 X2 X3

witness Y1 {Y1}
witness Y2 {Y2}
witness Y3 {Y3}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
""".format(log=LOG.vkey, **WITNESSES)


def test_the_example_policy_asks_for_two_x_and_one_y() -> None:
    policy = parse_policy(POLICY.encode())
    text = b"example.com/log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    signed = NoteSignature(LOG.key.name, LOG.key.key_id, LOG.sign(text))
    cosigned = {
        name: NoteSignature(key.name, key.key_id, mirror_cosigner(key.name).cosign(text, 1))
        for name, key in WITNESSES.items()
    }
    for count in range(len(WITNESSES) + 1):
        for present in combinations(WITNESSES, count):
            opened = parse_checkpoint(format_note(Note(text, (signed, *(cosigned[name] for name in present)))))
            xs, ys = sum(name[0] == "X" for name in present), sum(name[0] == "Y" for name in present)
            if xs >= 2 and ys >= 1:
                assert {one.key for one in policy.check(opened).cosignatures} == {WITNESSES[name] for name in present}
            else:
                with pytest.raises(Untrusted):
                    policy.check(opened)


def test_white_space_comments_urls_and_octets_are_taken_as_the_page_says() -> None:
    names = {b"K": WITNESSES["X1"], b"\xe2\x84\xaa": WITNESSES["X2"], b"\xff\xfe": WITNESSES["X3"]}
    lines = [
        b"  \t ",
        b" # comment \xff\xe9",
        b"\tlog \t " + LOG.vkey.encode() + b"\thttps://log.example/\xc3\xa9 ",
        *(b"witness " + name + b" " + str(key).encode() + b" https://w.example/" for name, key in names.items()),
        b"group both all K \xe2\x84\xaa",
        b"group more 1 both \xff\xfe",
        b"quorum more",
    ]
    policy = parse_policy(b"".join(line + b"\n" for line in lines))
    assert [one.name for one in policy.witnesses] == list(names)
    assert policy.logs[0].url == b"https://log.example/\xc3\xa9"
    assert policy.groups[1].members == (b"both", b"\xff\xfe")


def test_a_logs_key_may_be_of_the_type_the_page_recommends() -> None:
    """tlog-checkpoint: "Logs SHOULD use ML-DSA-44 cosignatures to sign the checkpoint"."""
    log = mirror_cosigner("example.com/log")
    policy = parse_policy(f"log {log.vkey}\nquorum none\n".encode())
    text = b"example.com/log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    signature = NoteSignature(log.key.name, log.key.key_id, log.cosign(text, 0))
    opened = parse_checkpoint(format_note(Note(text, (signature,))))
    assert policy.check(opened).log == log.key
    with pytest.raises(Untrusted):
        policy.check(replace(opened, note=Note(text, (replace(signature, signature=bytes(2428)),))))
    other = NoteSignature("example.com/other", b"1234", bytes(64))
    with pytest.raises(Untrusted, match="not signed"):
        policy.check(replace(opened, note=Note(text, (other,))))


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("no quorum", "quorum X-and-Y\n", ""),
        ("two quorums", "quorum X-and-Y\n", "quorum X-and-Y\nquorum none\n"),
        ("the last line does not end", "quorum X-and-Y\n", "quorum X-and-Y"),
        ("an unknown quorum", "quorum X-and-Y", "quorum X-or-Y"),
        ("a quorum defined below", "# The page's example, with keys.", "quorum X-and-Y"),
        ("a group used above itself", "# The page's example, with keys.", "group early any X1"),
        ("a group of itself", "group X-witnesses 2 X1 X2 X3", "group X-witnesses 2 X1 X2 X-witnesses"),
        ("none as a member", "group Y-witnesses any Y1 Y2 Y3", "group Y-witnesses any Y1 none"),
        ("none as a name", "witness Y1 ", "witness none "),
        ("the name of a witness for a group", "group Y-witnesses", "group Y1"),
        ("a member of two groups", "group Y-witnesses any Y1", "group Y-witnesses any X1"),
        ("a member twice", "any Y1 Y2 Y3", "any Y1 Y2 Y2"),
        ("k is 0", "group X-witnesses 2", "group X-witnesses 0"),
        ("k is more than n", "group X-witnesses 2", "group X-witnesses 4"),
        ("k is no decimal", "group X-witnesses 2", "group X-witnesses 0x2"),
        ("k is in other digits", "group X-witnesses 2", "group X-witnesses \u0662"),
        ("no member", "all X-witnesses Y-witnesses", "all"),
        ("a carriage return", "quorum X-and-Y\n", "quorum X-and-Y\r\n"),
        ("a DEL", "quorum X-and-Y\n", "quorum X-and-Y\x7f\n"),
        ("an unknown keyword", "quorum X-and-Y\n", "quorum X-and-Y\nmonitor X\n"),
        ("a log's key for a witness", f"witness Y1 {WITNESSES['Y1']}", f"witness Y1 {EXAMPLE_KEY}"),
        ("one key under two names", f"witness Y1 {WITNESSES['Y1']}", f"witness Y1 {WITNESSES['X1']}"),
        ("a log twice", f"log {LOG.vkey}\n", f"log {LOG.vkey}\nlog {LOG.vkey}\n"),
        (
            "one key under two names of logs",
            f"log {LOG.vkey}\n",
            f"log {LOG.vkey}\nlog {replace(LOG.key, name='example.com/other')}\n",
        ),
        ("too many items", f"log {LOG.vkey}\n", f"log {LOG.vkey} https://a https://b\n"),
    ],
)
def test_what_is_no_policy_is_refused(what: str, old: str, new: str) -> None:
    assert POLICY.count(old) == 1
    parse_policy(POLICY.encode())
    with pytest.raises(MalformedPolicy):
        parse_policy(POLICY.replace(old, new).encode())


def test_a_policy_may_be_large() -> None:
    """ "It is strongly recommended that an implementation supports at least up to 32 logs, 32 witnesses, 32 groups"."""
    lines = [f"log {log_signer(f'example.com/log{n}').vkey}" for n in range(40)]
    lines += [f"witness w{n} {mirror_cosigner(f'example.com/w{n}').vkey}" for n in range(40)]
    lines += [f"group g{n} any w{n}{f' g{n - 1}' if n else ''}" for n in range(40)]
    policy = parse_policy("".join(f"{line}\n" for line in [*lines, "quorum g39"]).encode())
    assert (len(policy.logs), len(policy.witnesses), len(policy.groups)) == (40, 40, 40)
