"""A worker: takes jobs from the process that has started it, for as long as that lives.

python -P -m ledger.workers MODULE:FUNCTION DESCRIPTOR. The function opens a context: bytes in, and what does jobs in
it; several at a time, of each of which it gives bytes, or what the job has raised.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Final

from ledger.errors import JinshiError
from ledger.workers.frames import Incoming, Kind, Message, refused

RECEIVED_SIZE: Final = 256 * 2**10
TOGETHER_MAX: Final = 8
"""How many jobs are done, and answered, together: whoever asked goes on while the rest is being done."""

Work = Callable[[Sequence[bytes]], Sequence[bytes | Exception]]


def main() -> None:
    """Until the other end is closed. What the terminal or a supervisor says is for the server to hear."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    module, _, name = sys.argv[1].partition(":")
    opened: Callable[[bytes], Work] = getattr(import_module(module), name)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    with socket.socket(fileno=int(sys.argv[2])) as connection:
        threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
        try:
            serve(connection, opened)
        except (BrokenPipeError, ConnectionResetError):
            return  # nobody waits for it


def _end_with(descriptor: int) -> None:
    """End this process with the other one, in the middle of a job, too: nobody else would end one that goes on and on.

    Where the other one only closes its side, jobs are done to their end first.
    """
    gone = select.poll()
    gone.register(descriptor, 0)  # that both sides are closed is always told
    gone.poll()
    os._exit(0)


def serve(connection: socket.socket, opened: Callable[[bytes], Work]) -> None:
    """Do what is sent, in order."""
    connection.sendall(Message(Kind.READY).framed())
    incoming, contexts = Incoming(), dict[int, bytes]()
    works: dict[int, Work] = {}
    while data := connection.recv(RECEIVED_SIZE):
        for jobs in _together(incoming.feed(data), contexts, works):
            number = jobs[0].context
            try:
                if number not in works:
                    works[number] = opened(contexts[number])
                answers = works[number]([job.content for job in jobs])
            except Exception as error:
                answers = [error] * len(jobs)
            connection.sendall(b"".join(_framed(job, one) for job, one in zip(jobs, answers, strict=True)))


def _together(
    messages: Iterable[Message], contexts: dict[int, bytes], works: dict[int, Work]
) -> Iterator[list[Message]]:
    """Jobs that follow on each other in one context; contexts are taken in."""
    jobs: list[Message] = []
    for message in messages:
        if jobs and (message.context != jobs[0].context or len(jobs) == TOGETHER_MAX or message.kind != Kind.JOB):
            yield jobs
            jobs = []
        if message.kind == Kind.JOB:
            jobs.append(message)
        else:
            contexts[message.number] = message.content
            works.pop(message.number, None)
    if jobs:
        yield jobs


def _framed(job: Message, answer: bytes | Exception) -> bytes:
    """The answer to a job; an error of it is that job's alone."""
    if isinstance(answer, JinshiError):
        return Message(Kind.REFUSED, job.number, 0, refused(answer)).framed()
    if isinstance(answer, Exception):
        return Message(Kind.FAULT, job.number, 0, f"{type(answer).__name__}: {answer}"[:500].encode()).framed()
    return Message(Kind.DONE, job.number, 0, answer).framed()


if __name__ == "__main__":
    main()
