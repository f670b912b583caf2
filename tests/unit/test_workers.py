"""Worker processes: what they answer, what becomes of others' jobs when one fails, and that none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRequest, IssuanceRefused, Malformed, Tampered, Unavailable
from ledger.workers.frames import SIZE_MAX, Incoming, Kind, Message, raised, refused
from ledger.workers.pool import Workers

ENTRY = "tests.support.working:opened"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def pool(processes: int = 1, job_timeout_s: float = 30.0) -> AsyncIterator[tuple[Workers, list[Exception]]]:
    faults: list[Exception] = []
    workers = Workers(ENTRY, processes, faults.append, job_timeout_s, restart_after_s=0.01)
    async with workers:
        workers.start()
        await until(lambda: workers.ready)
        yield workers, faults


async def test_many_jobs_are_done_each_in_its_context() -> None:
    async with pool(2) as (workers, faults):
        answers = await asyncio.gather(
            *(workers.do(f"c{number % 300}".encode(), f"job {number}".encode()) for number in range(1_000))
        )
        assert answers == [f"c{number % 300}: job {number}".encode() for number in range(1_000)]
        assert (workers.pending, faults) == (0, [])


async def test_what_one_job_raises_is_that_jobs_alone() -> None:
    async with pool() as (workers, faults):
        refused_, failed, well = await asyncio.gather(
            *(workers.do(b"c", job) for job in (b"refuse its name", b"fail by zero", b"well")), return_exceptions=True
        )
        assert isinstance(refused_, IssuanceRefused)
        assert (refused_.what, refused_.hint) == ("its name", "ask for another")
        assert isinstance(failed, RuntimeError)
        assert "ZeroDivisionError: by zero" in str(failed)
        assert well == b"c: well"
        with pytest.raises(InvalidRequest, match="too large"):
            await workers.do(b"c", bytes(SIZE_MAX + 1))
        assert faults == []


async def test_one_that_dies_fails_what_it_had_and_another_one_goes_on() -> None:
    async with pool() as (workers, faults):
        first = await workers.do(b"", b"pid")
        results = await asyncio.gather(
            *(workers.do(b"c", job) for job in (b"before", b"die", b"after")), return_exceptions=True
        )
        assert all(isinstance(one, Unavailable) for one in results[1:])
        await until(lambda: workers.ready)
        assert await workers.do(b"c", b"again") == b"c: again"
        assert await workers.do(b"", b"pid") != first
        assert [str(one) for one in faults] == ["a worker process has ended; it is started again in 0.01 s"]


async def test_one_that_does_not_answer_is_ended() -> None:
    async with pool(job_timeout_s=0.2) as (workers, faults):
        with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
            await workers.do(b"c", b"hang")
        assert len(faults) == 1


async def test_none_is_left_when_the_pool_is_closed_or_its_process_killed() -> None:
    async with pool() as (workers, _):
        pid = int(await workers.do(b"", b"pid"))
        os.kill(pid, signal.SIGTERM)  # as a supervisor does that ends a whole group: it is for the server
        assert await workers.do(b"c", b"well") == b"c: well"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    for jobs in ((), ("hang",)):  # also one that is at something that does not end
        parent = subprocess.Popen([sys.executable, "-c", _PARENT, *jobs], stdout=subprocess.PIPE)  # noqa: ASYNC220
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        await asyncio.sleep(0.2 * len(jobs))
        parent.kill()
        parent.communicate()
        await until(lambda child=child: not _runs(child))  # type: ignore[misc]


_PARENT = f"""
import asyncio, sys
from ledger.workers.pool import Workers
async def main():
    async with Workers({ENTRY!r}) as workers:
        workers.start()
        while not workers.ready:
            await asyncio.sleep(0.01)
        print((await workers.do(b"", b"pid")).decode(), flush=True)
        await asyncio.gather(*(workers.do(b"", job.encode()) for job in sys.argv[1:]))
        await asyncio.sleep(600)
asyncio.run(main())
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_messages_arrive_in_whatever_pieces(contents: list[bytes], size: int) -> None:
    sent = [Message(Kind.JOB, number, number * 2, content) for number, content in enumerate(contents)]
    data, incoming = b"".join(one.framed() for one in sent), Incoming()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [one for piece in pieces for one in incoming.feed(piece)] == sent


def test_an_error_comes_back_as_itself_or_as_what_it_is_one_of() -> None:
    with pytest.raises(Malformed, match="has 4194305 bytes"):
        list(Incoming().feed(Message(Kind.DONE, content=bytes(SIZE_MAX + 1)).framed()))
    assert type(raised(refused(IssuanceRefused("no")))) is IssuanceRefused
    again = raised(refused(Tampered("edited", key="tile", hint="look")))
    assert str(again) == "edited; look"


async def test_while_it_closes_it_takes_nothing_more_and_ends_what_it_has() -> None:
    async with pool() as (workers, faults):
        done = asyncio.create_task(workers.do(b"c", b"well"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(workers.close())
        await asyncio.sleep(0)
        assert not workers.ready
        with pytest.raises(Unavailable, match="no worker process"):
            await workers.do(b"c", b"late")
        await closing
        assert await done == b"c: well"
        assert (workers.running, faults) == ([], [])
