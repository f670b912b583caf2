"""What `--at` may be: the index of an entry, a time, or a file with a checkpoint or a receipt of this ledger."""

from __future__ import annotations

from pathlib import Path

from cli.wiring.ledgers import OpenLedger, read_newer_file
from ledger.errors import InvalidRequest

MOMENT = "INDEX|TIME|FILE"
AT_HELP = "As it stood then: up to that entry, that time, or the checkpoint or receipt in FILE."


async def size_at(ledger: OpenLedger, at: str) -> int:
    """How many of the ledger's entries there were then. Raises as `find_size`; InvalidRequest: it is none."""
    found = await find_size(ledger, at)
    if found is None:
        raise InvalidRequest(
            f"{at!r} is no index, no time and no checkpoint file",
            hint="give an entry's index, a time such as 2026-11-24T01:53:35Z, or a checkpoint or receipt",
        )
    return found


async def find_size(ledger: OpenLedger, at: str) -> int | None:
    """The same; None: `at` is neither an index nor a time, and there is no such file.

    A checkpoint counts once it is signed by this log, and what is published extends it.

    Raises:
        InvalidRequest: there is no such entry, or the checkpoint is newer than what is published.
        MalformedNote, MalformedProof: the file is no checkpoint and no receipt.
        Untrusted, Forked: it is not this log's, or of another history of it.
        Tampered: what is published is damaged.
    """
    if (size := await ledger.reader.size_of(at)) is not None:
        return size
    if not _is_file(at):
        return None
    opened = read_newer_file(Path(at)).opened
    ledger.policy().check(opened, quorum=False)  # what is proven next needs nobody else's word
    await ledger.reader.extends(opened.checkpoint)
    return opened.checkpoint.size


def _is_file(name: str) -> bool:
    try:
        return Path(name).exists() and not Path(name).is_dir()
    except (OSError, ValueError):  # too long for a name, or no text
        return False
