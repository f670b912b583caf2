"""What a site holds and was sent, in objects and bytes, as stores with and without versions would keep it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.store.base import ObjectStore, Tag
from ledger.store.forwarding import ForwardingObjectStore


@dataclass
class Account:
    """`objects` by key with their sizes; of versions, which a lock keeps, the number and bytes of all ever written."""

    objects: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    objects_max: int = 0
    bytes_max: int = 0
    versions: int = 0
    versions_bytes: int = 0
    deleted: int = 0

    def write(self, key: str, size: int) -> None:
        self.versions += 1
        self.versions_bytes += size
        self.bytes += size - self.objects.get(key, 0)
        self.objects[key] = size
        self.objects_max = max(self.objects_max, len(self.objects))
        self.bytes_max = max(self.bytes_max, self.bytes)

    def remove(self, key: str) -> None:
        if key in self.objects:
            self.deleted += 1
            self.bytes -= self.objects.pop(key)


class AccountedStore(ForwardingObjectStore):
    """An `ObjectStore` that keeps an account of itself."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.account = Account()

    async def put_immutable(self, key: str, data: bytes) -> None:
        await super().put_immutable(key, data)
        if key not in self.account.objects:
            self.account.write(key, len(data))

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        tag = await super().replace(key, data, expected=expected)
        self.account.write(key, len(data))
        return tag

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self.account.remove(key)

    async def purge(self, key: str) -> None:
        await super().purge(key)
        self.account.remove(key)
