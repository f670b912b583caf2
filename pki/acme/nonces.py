"""Anti-replay nonces (RFC 8555 §6.5): unpredictable, good for one message, and gone when the process is.

They are no entries: there are too many, and a client that is told badNonce signs again with a fresh one.
"""

from __future__ import annotations

import heapq
import hmac
import secrets
from typing import Final

from pki.acme.jws import decode_base64url, encode_base64url

USED_MAX: Final = 65_536
_COUNTER_SIZE: Final = 8
_TAG_SIZE: Final = 16


class Nonces:
    """A nonce is a counter with a tag under a key of this process; only those that were used take memory.

    So whoever asks for nonces by the million spends none of anybody's. Of the used ones the newest `used_max` are
    remembered; anything older than the oldest of them is refused, used or not.
    """

    def __init__(self, used_max: int = USED_MAX) -> None:
        self._key = secrets.token_bytes(32)
        self._next = 0
        self._floor = 0
        """Counters below are refused."""
        self._used: set[int] = set()
        self._order: list[int] = []
        self._used_max = used_max

    def new(self) -> str:
        """A fresh one."""
        counter = self._next.to_bytes(_COUNTER_SIZE)
        self._next += 1
        return encode_base64url(counter + self._tag(counter))

    def use(self, nonce: str) -> bool:
        """Whether it is one of ours that was not used before; from now on it is used."""
        try:
            data = decode_base64url(nonce)
        except ValueError:
            return False
        counter, tag = data[:_COUNTER_SIZE], data[_COUNTER_SIZE:]
        if not hmac.compare_digest(self._tag(counter), tag):
            return False
        number = int.from_bytes(counter)
        if number < self._floor or number in self._used:
            return False
        self._used.add(number)
        heapq.heappush(self._order, number)
        if len(self._used) > self._used_max:
            lowest = heapq.heappop(self._order)
            self._used.discard(lowest)
            self._floor = lowest + 1
        return True

    def _tag(self, counter: bytes) -> bytes:
        return hmac.digest(self._key, counter, "sha256")[:_TAG_SIZE]
