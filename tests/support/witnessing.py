"""The witness of a simulated system: it forgets nothing when it crashes, and never sees a fork."""

from __future__ import annotations

from ledger.errors import CompareFailed, InvalidRequest, Unavailable
from ledger.reader import Reader
from ledger.store.memory import MemoryObjectStore
from replication.http.wire import AddCheckpoint
from replication.witness import OldSizeMismatch, Witness
from tests.support.ledgers import mirror_cosigner
from tests.support.replicas import Replicas
from tests.support.weather import Remote, Weather

WITNESSED = "witnessed"


class Witnessing:
    """A witness, and the texts it has `cosigned`; its memory is behind the weather."""

    def __init__(self, replicas: Replicas, weather: Weather) -> None:
        self.cosigned: list[bytes] = []
        self._replicas = replicas
        self._weather = weather
        self._memory = MemoryObjectStore("memory of the witness")
        self.start()

    def start(self) -> None:
        """Anew, with nothing but its memory."""
        cosigner = mirror_cosigner(f"{self._replicas.origin}/witness")
        state = Remote(self._memory, self._weather)
        self._witness = Witness([cosigner], [self._replicas.log], self._replicas.clock, state, alarm=_fork_seen)

    async def size(self) -> int:
        """How much it has cosigned."""
        return await self._witness.size(self._replicas.origin)

    async def show(self, reader: Reader) -> None:
        """It is shown what is published, with the proof that it extends what it cosigned last."""
        try:
            opened = await reader.published()
            size, old = opened.checkpoint.size, 0
            while old <= size:
                proof = tuple(await reader.prove_consistency(old, size)) if old else ()
                try:
                    await self._witness.add_checkpoint(AddCheckpoint(old, proof, opened))
                except OldSizeMismatch as error:
                    old = error.size
                else:
                    self._weather.met[WITNESSED] += 1
                    self.cosigned.append(opened.note.text)
                    return
        except (Unavailable, CompareFailed):
            return
        except InvalidRequest as error:
            if "not published a checkpoint yet" not in error.what:
                raise


def _fork_seen(line: str) -> None:
    raise AssertionError(line)
