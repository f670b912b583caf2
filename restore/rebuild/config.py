"""Writes recorded configuration back to a directory: the file as it was, or what the command had said."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ledger.capture.base import Restored, Restoring, View
from ledger.capture.config import read_output
from ledger.capture.opened import read_data
from ledger.capture.recorded import RECORDED, Output, difference, parse_output
from ledger.errors import InvalidRequest, RestoreFailed
from ledger.tasks import Report
from restore.rebuild.places import check_free, put_in_place, writing_errors


async def rebuild_config(view: View, what: Restoring, report: Report | None = None) -> Restored:
    """A `Rebuild`: the output, under its own name, in the directory `place`, which is made where it is not there."""
    place = Path(what.place).absolute()
    newest = await view.newest(what.source, RECORDED)
    if newest is None:
        raise InvalidRequest(f"nothing of {what.source} was recorded by then", hint="look with: jinshi log --source")
    output = read_data(newest, parse_output)
    if what.only and output.name not in what.only:
        raise InvalidRequest(f"it holds {output.name} alone, not {what.only[0]}", hint="leave --only out")
    target = place / output.name
    check_free(place if not place.is_dir() else target, replace=what.replace)
    await what.check_kept([newest.index])
    data = await read_output(view, output)
    differences = _compare(target, data)
    if not what.dry_run:
        _write(place, target, output, data)
        if hashlib.sha256(target.read_bytes()).hexdigest() != output.sha256:
            raise RestoreFailed(f"{target} is not what was written to it", hint="check the disk, restore elsewhere")
    if report is not None:
        report(len(data), len(data))
    return Restored(newest.index, {"files": 1, "bytes": len(data)}, {"files": 1, "digest": 1}, differences)


def _write(place: Path, target: Path, output: Output, data: bytes) -> None:
    with writing_errors(place):
        place.mkdir(exist_ok=True)
    with put_in_place(target) as staged, writing_errors(target):
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if output.mode is not None:
                os.fchmod(descriptor, output.mode & 0o777)


def _compare(target: Path, data: bytes) -> tuple[str, ...]:
    """What the restore changes at its place, line by line."""
    if not target.is_file():
        return (f"added {target.name}",)
    with writing_errors(target):
        before = target.read_bytes()
    if before == data:
        return ()
    return (f"changed {target.name}", *difference(before, data).splitlines())
