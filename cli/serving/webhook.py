"""Posts CloudEvents to a webhook, one after the other, with growing pauses while it does not take them.

Whoever hands one over never waits: the queue is bounded, and what falls out of it is logged.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Final
from urllib.parse import urlsplit

import requests

from cli.display.logs import get_logger
from ledger.core.event import Event
from ledger.errors import InvalidRequest

CONTENT_TYPE: Final = "application/cloudevents+json"
QUEUE_MAX: Final = 256
PAUSE_S: Final = 1.0
PAUSE_S_MAX: Final = 300.0
TIMEOUT_S: Final = (5.0, 10.0)
"""To connect, and to wait for the answer."""


class Webhook:
    """One URL. An event is delivered at least once, in order, unless the receiver refuses it for good (4xx)."""

    def __init__(self, url: str, *, pause_s: float = PAUSE_S) -> None:
        """Raises InvalidRequest: it is no http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest("the webhook is no URL", hint="give https://HOST/PATH")
        self._url = url
        self._host = parts.hostname  # all of it that is logged: the rest may be a secret
        self._pause_s = pause_s
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def offer(self, event: Event, time: str) -> None:
        """Take an event to deliver, with the time it happened."""
        if len(self._queue) >= QUEUE_MAX:
            self._queue.popleft()
            get_logger().error("the webhook takes nothing, its oldest alarm is dropped", host=self._host)
        self._queue.append(structured(event, time))
        self._filled.set()

    async def run(self) -> None:
        """Deliver for ever."""
        pause_s, told = self._pause_s, ""
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            body = self._queue[0]
            trouble, final = await asyncio.to_thread(self._post, body)
            if not trouble or final:
                if final:
                    get_logger().error("the webhook refuses an alarm", host=self._host, why=trouble)
                pause_s, told = self._pause_s, ""
                if self._queue and self._queue[0] is body:
                    self._queue.popleft()
                continue
            if trouble != told:
                get_logger().warning(
                    "the webhook does not take an alarm, it is sent again", host=self._host, why=trouble
                )
                told = trouble
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _post(self, body: bytes) -> tuple[str, bool]:
        """What kept it from being delivered ('': nothing), and whether that is for good."""
        try:
            answer = requests.post(
                self._url, data=body, headers={"content-type": CONTENT_TYPE}, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:
            return type(error).__name__, False
        if answer.ok and not answer.is_redirect:
            return "", False
        return f"status {answer.status_code}", 300 <= answer.status_code < 500 and answer.status_code not in (408, 429)


def structured(event: Event, time: str) -> bytes:
    """An event with JSON data as a CloudEvent in structured mode."""
    value = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": time,
        "datacontenttype": "application/json",
        "data": event.json_data,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
