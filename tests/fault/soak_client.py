"""A process that writes to a served ledger, or follows it, made to be killed at any moment and started again.

    python soak_client.py write URL FILE NAME SEED
    python soak_client.py follow URL FILE

All that is remembered is FILE. A writer adds a line (event number, index) for every event that was acknowledged, and
begins after the last one: whatever was sent and not acknowledged is sent again, under the same ids. A subscriber adds
a line (index, id) for every event it was sent, and goes on after the last. When `FILE.stop` is there, a writer ends.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

SOURCE = "urn:soak"
TIMEOUT_S = 20.0
RETRY_S = 0.05


def event(writer: str, number: int) -> dict[str, object]:
    """The same content, whenever it is sent."""
    return {
        "specversion": "1.0",
        "id": f"{writer}-{number}",
        "source": SOURCE,
        "type": "soak.written.v1",
        "subject": writer,
        "data": {"n": number, "note": "石" * (number % 50)},
    }


def lines_of(file: Path) -> list[str]:
    """The whole lines of a file; what a kill left of one is cut off."""
    if not file.exists():
        return []
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(file, len(whole))
    return whole.decode().splitlines()


def write(url: str, file: Path, name: str, seed: str) -> None:
    """Send batches of random sizes, some with receipts, until told to stop."""
    draw = random.Random(seed)
    known = lines_of(file)
    number = int(known[-1].split()[0]) + 1 if known else 0
    # What was sent before a kill, and not acknowledged, may be recorded: that is sent again before this ends.
    caught_up = False
    with file.open("a") as log, httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        while not (caught_up and Path(f"{file}.stop").exists()):
            size = draw.choice((1, 1, 2, 5, 20))
            batch = [event(name, n) for n in range(number, number + size)]
            receipt = draw.choices(("false", "log", "cosigned"), (8, 1, 1))[0]
            places = send(client, batch, receipt)
            log.write("".join(f"{number + n} {place['index']}\n" for n, place in enumerate(places)))
            log.flush()
            number += size
            caught_up = not places[-1]["duplicate"]
            time.sleep(draw.uniform(0, 0.15))


def send(client: httpx.Client, batch: list[dict[str, object]], receipt: str) -> list[dict[str, object]]:
    """Repeat a batch until it is acknowledged. Raises AssertionError: it was refused."""
    headers = {"content-type": "application/cloudevents-batch+json"}
    while True:
        try:
            answer = client.post("/events", params={"receipt": receipt}, content=json.dumps(batch), headers=headers)
        except httpx.TransportError:  # killed, or not there yet
            time.sleep(RETRY_S)
            continue
        if answer.status_code == 503:
            time.sleep(RETRY_S)
            continue
        assert answer.status_code in (200, 201), answer.text
        places: list[dict[str, object]] = answer.json()["events"]
        assert all(("receipt" in place) == (receipt != "false") for place in places)
        return places


def follow(url: str, file: Path) -> None:
    """Keep every event that is sent, for ever."""
    known = lines_of(file)
    last = int(known[-1].split()[0]) if known else None
    with file.open("a") as log, httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        while True:
            try:
                for index, id_ in messages(client, last):
                    log.write(f"{index} {id_}\n")
                    log.flush()
                    last = index
            except httpx.TransportError:
                pass
            time.sleep(RETRY_S)


def messages(client: httpx.Client, last: int | None) -> Iterator[tuple[int, str]]:
    headers = {} if last is None else {"last-event-id": str(last)}
    with client.stream("GET", "/events/stream", headers=headers) as answer:
        if answer.status_code != 200:
            return
        index = -1
        for line in answer.iter_lines():
            if line.startswith("id: "):
                index = int(line[4:])
            elif line.startswith("data: "):
                yield index, json.loads(line[6:])["id"]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", url, file, name, seed]:
            write(url, Path(file), name, seed)
        case ["follow", url, file]:
            follow(url, Path(file))
