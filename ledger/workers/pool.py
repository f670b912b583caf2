"""A pool of worker processes: started, handed work, watched, started again, ended with whoever has it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from ledger.errors import InvalidRequest, Pushback, Unavailable
from ledger.workers.frames import SIZE_MAX, Incoming, Kind, Message, raised

JOBS_MAX: Final = 4_096
CONTEXTS_MAX: Final = 256
"""How many contexts a worker keeps; one that comes beyond takes the place of the one not used for longest."""
JOB_TIMEOUT_S: Final = 30.0
RESTART_AFTER_S: Final = 1.0
RESTART_AFTER_MAX_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 5.0


@dataclass(eq=False)
class Workers:
    """Processes that do jobs. For one event loop; `async with`, which ends them. None runs before `start`.

    `entry` is `module:function`: a function that opens a context (bytes) and gives what does several jobs in it (each
    bytes to bytes, or what it has raised); it has to know everything from these bytes. A worker that ends is started
    again, later each time; `on_fault` is told. Nothing that is done in it has an effect elsewhere, so whoever gets an
    error may ask again.
    """

    entry: str
    processes: int = 1
    on_fault: Callable[[Exception], None] = lambda error: None
    job_timeout_s: float = JOB_TIMEOUT_S
    restart_after_s: float = RESTART_AFTER_S
    _ready: list[_Worker] = field(default_factory=list, init=False)
    _all: set[_Worker] = field(default_factory=set, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _started: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _failed: int = field(default=0, init=False)

    async def __aenter__(self) -> Workers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Have them started, if that was not done; they take jobs some tenths of a second later."""
        if not self._started and not self._closed:
            self._started = True
            for _ in range(self.processes):
                self._spawn(0.0)

    @property
    def ready(self) -> bool:
        """Whether there is one to give work to: not while the first one starts, or one that has ended does again, nor
        once they are being ended."""
        return bool(self._ready) and not self._closed

    @property
    def running(self) -> list[int]:
        """The ids of its processes."""
        return [one.pid for one in self._all]

    @property
    def pending(self) -> int:
        """How many jobs are being done, or wait."""
        return sum(len(one.jobs) for one in self._ready)

    async def do(self, context: bytes, job: bytes) -> bytes:
        """What the job gives.

        Raises:
            JinshiError: what the job has raised, of our own errors.
            Pushback: too many wait.
            InvalidRequest: the job is larger than any that is sent.
            Unavailable: there is no worker now, or it ended over this job or one before it.
            RuntimeError: the job failed in another way.
        """
        if not self.ready:
            raise Unavailable("no worker process is running", hint="try again")
        if len(job) > SIZE_MAX or len(context) > SIZE_MAX:
            raise InvalidRequest(f"a job of {len(job)} bytes is too large for a worker process")
        worker = self._ready[0] if len(self._ready) == 1 else min(self._ready, key=lambda one: len(one.jobs))
        return await worker.submit(context, job)

    async def close(self) -> None:
        """End them, once they have done what they are doing."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self._all))

    # -- the processes --

    def _spawn(self, after_s: float) -> None:
        task = asyncio.create_task(self._start(after_s), name="worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        try:
            await _start(self)
        except OSError as error:
            self.ended(None, f"a worker process cannot be started ({error.strerror})")

    def made(self, worker: _Worker) -> None:
        """It was started."""
        self._all.add(worker)

    def began(self, worker: _Worker) -> None:
        """It takes jobs from now on."""
        self._ready.append(worker)

    def ended(self, worker: _Worker | None, why: str) -> None:
        """It has ended by itself; another one is started."""
        if worker is not None:
            self._all.discard(worker)
            if worker in self._ready:
                self._ready.remove(worker)
                self._failed = 0 if worker.done else self._failed
        if self._closed:
            return
        after_s = min(self.restart_after_s * 2**self._failed, RESTART_AFTER_MAX_S)
        self._failed = min(self._failed + 1, 16)
        self.on_fault(Unavailable(why, hint=f"it is started again in {after_s:g} s"))
        self._spawn(after_s)


class _Job(NamedTuple):
    answer: asyncio.Future[bytes]
    begun_s: float


class _Worker(asyncio.Protocol):
    """One process, and the connection to it."""

    def __init__(self, pool: Workers, process: subprocess.Popen[bytes]) -> None:
        self.jobs: dict[int, _Job] = {}
        self.done = 0
        self._pool = pool
        self._process = process
        self.pid = process.pid
        self._loop = asyncio.get_running_loop()
        self._incoming = Incoming()
        self._contexts: OrderedDict[bytes, int] = OrderedDict()
        self._unsent: list[bytes] = []
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self._why = "a worker process has ended"

    # -- asking --

    def submit(self, context: bytes, job: bytes) -> asyncio.Future[bytes]:
        """As `Workers.do`; what is answered will be there."""
        if len(self.jobs) >= JOBS_MAX:
            raise Pushback("too much waits for the worker processes", retry_after_s=1.0)
        self._numbers = (self._numbers + 1) & 0xFFFF_FFFF
        number, answer = self._numbers, asyncio.Future[bytes](loop=self._loop)
        if not self._unsent:
            self._loop.call_soon(self._send)  # with all that comes in this round of the loop
        slot = self._slot(context)
        self._unsent.append(Message(Kind.JOB, number, slot, job).framed())
        self.jobs[number] = _Job(answer, self._loop.time())
        if self._timer is None:
            self._timer = self._loop.call_later(self._pool.job_timeout_s, self._look)
        return answer

    def _slot(self, context: bytes) -> int:
        """The number that a context has there; it is told once."""
        slot = self._contexts.get(context)
        if slot is None:
            full = len(self._contexts) >= CONTEXTS_MAX
            slot = self._contexts.popitem(last=False)[1] if full else len(self._contexts)
            self._contexts[context] = slot
            self._unsent.append(Message(Kind.CONTEXT, slot, 0, context).framed())
        else:
            self._contexts.move_to_end(context)
        return slot

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None:
            self._transport.write(b"".join(unsent))

    def _look(self) -> None:
        """End it, where the oldest job takes too long."""
        self._timer = None
        if not self.jobs:
            return
        oldest = next(iter(self.jobs.values()))
        left_s = oldest.begun_s + self._pool.job_timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
            return
        self._why = f"a worker process did not answer within {self._pool.job_timeout_s:g} s and was ended"
        self._process.kill()

    # -- hearing --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        self._transport = transport
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        for kind, number, _, content in self._incoming.feed(data):
            if kind == Kind.READY:
                self._pool.began(self)
                continue
            job = self.jobs.pop(number, None)
            if job is None or job.answer.done():
                continue
            if kind == Kind.DONE:
                self.done += 1
                job.answer.set_result(content)
            elif kind == Kind.REFUSED:
                job.answer.set_exception(raised(content))
            else:
                job.answer.set_exception(RuntimeError(f"a worker process failed: {content.decode()}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()
        self._process.wait()  # at once: it has ended, or ends now
        jobs, self.jobs = self.jobs, {}
        for job in jobs.values():
            if not job.answer.done():
                job.answer.set_exception(Unavailable(self._why, hint="try again"))
        self._ended.set()
        self._pool.ended(self, self._why)

    async def close(self) -> None:
        """End it; what it does not end within some seconds is killed."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), CLOSE_TIMEOUT_S)
            return
        self._process.kill()
        await self._ended.wait()


async def _start(pool: Workers) -> None:
    """Raises OSError."""
    ours, theirs = socket.socketpair()
    process: subprocess.Popen[bytes] | None = None
    try:
        with theirs:
            process = _process(pool.entry, theirs.fileno())
        ours.setblocking(False)
        made = partial(_Worker, pool, process)
        await asyncio.get_running_loop().create_connection(made, sock=ours)
    except BaseException:
        ours.close()
        if process is not None:
            process.kill()
            process.wait()
        raise


def _process(entry: str, descriptor: int) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-P", "-m", "ledger.workers", entry, str(descriptor)]
    return subprocess.Popen(command, pass_fds=(descriptor,), stdin=nothing, stdout=nothing, stderr=nothing)  # noqa: S603
