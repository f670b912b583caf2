"""What a log asks of a witness: a cosignature on a published checkpoint, over C2SP tlog-witness."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.cosignature import Cosignature, verify_cosignature
from ledger.core.note import Note, VerifierKey
from ledger.errors import InvalidRequest, Malformed, SiteUnavailable, Tampered, Untrusted
from ledger.reader import Reader
from replication.http.wire import SIZE_TYPE, AddCheckpoint, format_add_checkpoint, parse_signatures, parse_size

TIMEOUT_S = 30.0
ANSWER_SIZE_MAX = 512 * 2**10
ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class WitnessAt:
    """A witness: its submission prefix, and what verifies its cosignatures."""

    url: str
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint with a witness's verified cosignature behind the signatures it had."""

    opened: OpenedCheckpoint
    cosignature: Cosignature


async def submit(reader: Reader, opened: OpenedCheckpoint, witness: WitnessAt, *, old_size: int = 0) -> Witnessed:
    """Ask a witness to cosign a published checkpoint; `old_size` is what it is believed to have cosigned last.

    Raises:
        InvalidRequest: the URL is none, or the witness refuses what it was sent.
        SiteUnavailable: it cannot be reached, or does not answer as it should.
        Untrusted: the cosignature is not by the key that was named, or does not verify.
        Tampered: it has cosigned more than is published here.
    """
    if urlsplit(witness.url).scheme not in ("http", "https"):
        raise InvalidRequest(
            f"{witness.url!r} is no URL of a witness", hint="give its submission prefix, http or https"
        )
    size, old = opened.checkpoint.size, old_size
    for _ in range(ATTEMPTS_MAX):
        proof = tuple(await reader.prove_consistency(old, size)) if old else ()
        body = format_add_checkpoint(AddCheckpoint(old, proof, opened))
        status, kind, answer = await asyncio.to_thread(_post, f"{witness.url.rstrip('/')}/add-checkpoint", body)
        if status == 200:
            return _merge(opened, answer, witness)
        if status != 409 or kind != SIZE_TYPE:
            raise _refused(witness.url, status)
        try:
            old = parse_size(answer)
        except Malformed as error:
            raise SiteUnavailable(f"{witness.url} answers 409 without a size", hint="is it a witness?") from error
        if old > size:
            published = (await reader.published()).checkpoint.size
            if old <= published:
                raise SiteUnavailable(f"{witness.url} has cosigned more than {size} entries", hint="ask for the newest")
            raise Tampered(
                f"{witness.url} has cosigned {old} entries of {opened.checkpoint.origin}, only {published} are here",
                hint="this is an older copy of the ledger, or its key was used elsewhere: find out before going on",
            )
    raise SiteUnavailable(f"{witness.url} is told other checkpoints meanwhile", hint="run it again")


def _post(url: str, body: bytes) -> tuple[int, str, bytes]:
    import requests  # it takes a while to import, and most ledgers have no witness

    try:
        with requests.post(url, data=body, timeout=TIMEOUT_S, stream=True, allow_redirects=False) as answer:
            data = answer.raw.read(ANSWER_SIZE_MAX + 1, decode_content=True)
            if len(data) > ANSWER_SIZE_MAX:
                raise SiteUnavailable(f"{url} answers more than {ANSWER_SIZE_MAX} bytes", hint="is it a witness?")
            return answer.status_code, answer.headers.get("content-type", "").partition(";")[0].strip(), data
    except (requests.RequestException, OSError) as error:
        raise SiteUnavailable(f"{url} cannot be reached ({type(error).__name__})", hint="try again later") from error


def _refused(url: str, status: int) -> InvalidRequest | SiteUnavailable:
    why = {
        400: "says that the request is not well formed",
        403: "does not accept the log's signature",
        404: "does not know this log",
        422: "does not accept the proof: it may have seen another history",
    }
    if status in why:
        return InvalidRequest(f"{url} {why[status]}", hint="ask its operator")
    return SiteUnavailable(f"{url} answers {status}", hint="try again later")


def _merge(opened: OpenedCheckpoint, answer: bytes, witness: WitnessAt) -> Witnessed:
    """C2SP tlog-witness: cosignatures of unknown keys are ignored; the known one must verify."""
    key = witness.key
    try:
        signatures = [one for one in parse_signatures(answer) if (one.name, one.key_id) == (key.name, key.key_id)]
    except Malformed as error:
        raise SiteUnavailable(f"{witness.url} answers no signature lines ({error.what})", hint="is it one?") from error
    merged = OpenedCheckpoint(opened.checkpoint, Note(opened.note.text, (*opened.note.signatures, *signatures)))
    cosignature = verify_cosignature(merged, key)
    if cosignature is None:
        raise Untrusted(f"{witness.url} has not cosigned as {key.name}", hint="check --vkey with its operator")
    return Witnessed(merged, cosignature)
