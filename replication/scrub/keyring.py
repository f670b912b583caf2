"""The keyring of a site, checked key by key and healed: but never a key that is erased, whenever it was erased.

An erasure may be approved, and carried out at the site, while a cycle is under way. So a key is put back only after the
newest cosigned entries were looked at, the intent is kept first, and what turns out erased afterwards is deleted again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from ledger.core.entry import decode_entry
from ledger.core.merkle import EMPTY_ROOT
from ledger.core.note import parse_note, verify_site_note
from ledger.errors import InvalidRequest, Malformed, MalformedNote, ObjectMissing, StoreUnavailable, Tampered, Untrusted
from ledger.keyring import KEYRING
from ledger.keyring.audit import about_keys
from ledger.keyring.data import (
    BATCH_KEYS_MAX,
    delete_data_key,
    is_data_keyid,
    split_wrap,
    wrap_context,
)
from ledger.keyring.erasures import ERASURE_TYPES, Erasures
from ledger.protocols import KeyEncryptionKey
from ledger.store.base import ObjectStore, Stored
from ledger.tasks import run_bounded
from ledger.verify import verify_growth
from replication.erase import Statement, parse_statement
from replication.scrub.cycle import Cycle, Wanted
from replication.scrub.tree import read_fitting
from replication.site import read_cosigned

ACTS: Final = "acts/"
UPTO: Final = "acts-upto"
HEALING: Final = "healing/"
CHECKED_MAX: Final = 65_536
SUSPECTS_MAX: Final = 1_000_000
PARALLEL: Final = 8
_DIGITS: Final = 16

KnownErased = Callable[[], Awaitable[Collection[str]]]
"""The ids of erased keys that whoever runs the scrub knows of (a primary: from its entries)."""


class ErasedKeys:
    """Which keys are erased: by the verified entries about erasure, kept in `state`, and by what else is known."""

    def __init__(self, state: ObjectStore, known: KnownErased | None) -> None:
        self._state = state
        self._known = known
        self._acts: dict[int, bytes] = {}
        self._fold, self._folded = Erasures(), -1
        self.upto: tuple[int, bytes] = (0, EMPTY_ROOT)
        """The tree (size, root) whose entries about erasure have all been taken."""

    async def load(self) -> None:
        """Take in what earlier cycles have seen."""
        async for key in self._state.list_keys(ACTS):
            index = int(key.removeprefix(ACTS))
            self._acts[index] = (await self._state.get(key)).data
            self._apply(index)
        try:
            size, _, root = (await self._state.get(UPTO)).data.decode("ascii").partition(" ")
            self.upto = (int(size), bytes.fromhex(root))
        except (ObjectMissing, ValueError):
            pass  # then they are looked for from the beginning

    async def seen(self, size: int, root: bytes) -> None:
        """All of them in that tree have been taken; keep that, durably."""
        if size > self.upto[0]:
            try:
                tag = (await self._state.get(UPTO)).tag
            except ObjectMissing:
                tag = None
            await self._state.replace(UPTO, f"{size} {root.hex()}".encode(), expected=tag)
            self.upto = (size, root)

    async def take(self, index: int, entry: bytes) -> None:
        """Keep a verified entry about erasure, durably."""
        if index not in self._acts:
            await self._state.put_immutable(f"{ACTS}{index:0{_DIGITS}d}", entry)
            self._acts[index] = entry
            self._apply(index)

    def _apply(self, index: int) -> None:
        following = [index]
        if index < self._folded:  # an entry that was lost in every copy has turned up: the fold goes by their order
            self._fold, following = Erasures(), sorted(self._acts)
        for one in following:
            self._fold.apply(one, decode_entry(self._acts[one]))
        self._folded = max(self._folded, index)

    async def now(self) -> Collection[str]:
        """Those known at this moment."""
        return self._fold.erased | set(await self._known() if self._known else ())


class KeyringScrub:
    """The keyring's part of a cycle. `kek` opens operating wraps, which nothing else can tell genuine from damaged."""

    def __init__(self, cycle: Cycle, state: ObjectStore, erased: ErasedKeys, kek: KeyEncryptionKey | None) -> None:
        self._cycle = cycle
        self._site = cycle.site
        self._origin = cycle.tree.checkpoint.origin
        self._state = state
        self._erased = erased
        self._kek = kek
        self._checked: OrderedDict[str, None] = OrderedDict()
        self._wraps: list[tuple[str, Stored]] = []

    # -- what the entries say --

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries, `start` being the index of the first: whom they name must be there, or erased.

        Raises:
            Tampered: an entry that was signed for cannot be read.
        """
        named: dict[str, None] = {}
        for index, data, entry, announced in about_keys(start, entries, self._origin):
            for keyid, digest in announced.items():
                self._cycle.progress.announced.setdefault(keyid, digest)
            if entry.event.type in ERASURE_TYPES:
                await self._erased.take(index, data)
            keyid_ = entry.event.keyid
            if keyid_ is not None and is_data_keyid(keyid_) and keyid_ not in self._checked:
                named[keyid_] = None
        await run_bounded((self._look_for(keyid) for keyid in named), parallel=PARALLEL)

    async def _look_for(self, keyid: str) -> None:
        stored = await self._cycle.read(KEYRING + keyid)
        if stored is not None and _is_data_key(keyid, stored.data):
            self._checked[keyid] = None
            while len(self._checked) > CHECKED_MAX:
                self._checked.popitem(last=False)
            return
        if len(self._cycle.suspects) >= SUSPECTS_MAX:
            raise InvalidRequest(
                f"more than {SUSPECTS_MAX:,} keys that entries name are not at site {self._site.name!r}",
                hint="replicate everything to it first: jinshi replicate --once --whole",
            )
        self._cycle.suspects[keyid] = None

    # -- what lies there --

    async def look_at(self, name: str) -> None:
        """Check what lies at `keyring/<name>`, as far as it can be told by itself."""
        if is_data_keyid(name):
            if name not in self._checked:
                stored = await self._cycle.read(KEYRING + name)
                if stored is not None and not _is_data_key(name, stored.data):
                    self._cycle.suspects[name] = None
        elif (wrap := split_wrap(name)) is not None:
            await self._look_at_wrap(name, wrap[1])
        elif name.startswith("log-") and "." not in name:
            if name not in self._cycle.progress.announced:
                self._cycle.progress.unchecked += 1  # nobody has announced it yet
        else:
            await self._cycle.unexpected(KEYRING + name, "it is no key of a keyring", "find out who put it there")

    async def _look_at_wrap(self, name: str, kek: str) -> None:
        stored = await self._cycle.read(KEYRING + name)
        if stored is None:
            return
        if self._kek is None or kek != self._kek.name:
            self._cycle.progress.unchecked += 1
            return
        self._wraps.append((name, stored))
        if len(self._wraps) >= BATCH_KEYS_MAX:
            await self.look_at_wraps()

    async def look_at_wraps(self) -> None:
        """Open the wraps that were read: all at once, and one by one only where that fails."""
        wraps, self._wraps = self._wraps, []
        if not wraps or await self._opens([(name, stored.data) for name, stored in wraps]):
            return
        for name, stored in wraps:
            if await self._opens([(name, stored.data)]):
                continue
            keyid = name.partition(".")[0]
            if keyid not in await self._erased.now():
                await self._heal_key(keyid, await self._wanted_wrap(name), stored)

    async def _opens(self, wraps: Sequence[tuple[str, bytes]]) -> bool:
        assert self._kek is not None
        try:
            await self._kek.unwrap_many([(data, wrap_context(name.partition(".")[0])) for name, data in wraps])
        except Tampered:
            return False
        return True

    async def _wanted_wrap(self, name: str) -> Wanted:
        """A wrap is proven by opening it; which bytes open was looked up beforehand, at every copy."""
        opening: list[bytes] = []
        for copy in self._cycle.copies:
            try:
                data = (await copy.get(KEYRING + name)).data
            except (ObjectMissing, StoreUnavailable):
                continue
            if data not in opening and await self._opens([(name, data)]):
                opening.append(data)

        async def genuine() -> bytes:
            if not opening:
                raise Tampered(f"no copy at hand has {KEYRING}{name} as it opens", key=KEYRING + name)
            return opening[0]

        return Wanted(KEYRING + name, lambda data: data in opening, genuine)

    async def look_at_statement(self, key: str) -> None:
        """Check a site role's statement of an erasure, and that the keys it says are gone are not there again."""
        stored = await self._cycle.read(key)
        wanted = self.wanted_statement(key)
        if stored is None or not await self._cycle.check(wanted, stored):
            return
        said = self._said(stored.data)
        for keyid in filter(is_data_keyid, said.keyids if said else ()):
            for found in [found async for found in self._site.objects.list_keys(KEYRING + keyid)]:
                await self._cycle.unexpected(
                    found,
                    f"{found} is there again after it was erased",
                    "delete every version of it there, and find out who put it back",
                )

    def wanted_statement(self, key: str) -> Wanted:
        """A site role's statement: what its key has signed."""
        hint = "not healed: only the site's role signs it; see what the ledger recorded: jinshi log --type"
        return Wanted(key, lambda data: self._said(data) is not None, None, f"{hint} erasure.confirmed.v1")

    def _said(self, data: bytes) -> Statement | None:
        try:
            note = parse_note(data)
            verify_site_note(note, self._site.mirror)
            return parse_statement(note.text)
        except (MalformedNote, Untrusted):
            return None

    # -- what was missing, or damaged --

    async def settle(self) -> None:
        """Heal announced keys, and those suspects that turn out not to be erased."""
        for keyid in sorted(self._cycle.progress.announced):
            wanted = self._wanted(keyid)
            assert wanted is not None
            await self._cycle.check(wanted, await self._cycle.read(wanted.key))
        erased = await self._erased.now()  # most suspects are: each of the others is asked for once more
        for keyid in [keyid for keyid in self._cycle.suspects if keyid not in erased]:
            wanted = self._wanted(keyid)
            assert wanted is not None
            await self._heal_key(keyid, wanted, None)
        self._cycle.suspects.clear()

    async def wanted(self, key: str) -> Wanted | None:
        """What a keyring object must be; None where it cannot be told."""
        name = key.removeprefix(KEYRING)
        return await self._wanted_wrap(name) if split_wrap(name) and self._kek is not None else self._wanted(name)

    def _wanted(self, keyid: str) -> Wanted | None:
        announced = self._cycle.progress.announced.get(keyid)
        if is_data_keyid(keyid):
            return self._key_that(keyid, lambda data: _is_data_key(keyid, data))
        if announced is None:
            return None
        return self._key_that(keyid, lambda data: hashlib.sha256(data).hexdigest() == announced)

    def _key_that(self, keyid: str, fits: Callable[[bytes], bool]) -> Wanted:
        key = KEYRING + keyid
        return Wanted(key, fits, lambda: read_fitting(self._cycle.copies, key, fits))

    async def _heal_key(self, keyid: str, wanted: Wanted, stored: Stored | None) -> None:
        """Put a data key or a wrap back, unless it is erased, and take it away again if it was erased meanwhile."""
        why = await self._catch_up()
        if keyid in await self._erased.now():
            return
        if why:
            wanted = Wanted(wanted.key, wanted.fits, None, f"not healed: {why}")
        await self._state.put_immutable(HEALING + keyid, b"")
        # A crash from here on: the next run looks whether the key was erased, before anything else.
        await self._cycle.check(wanted, stored)
        await self.undo(keyid)

    async def undo(self, keyid: str) -> None:
        """Delete a key that was put back if it was erased meanwhile; then forget that it was."""
        if await self._catch_up() and keyid not in await self._erased.now():
            return  # it cannot be told yet; the next run asks again
        if keyid in await self._erased.now():
            await delete_data_key(self._site.objects, keyid)
        await self._state.delete(HEALING + keyid)

    async def undo_all(self) -> None:
        """What a killed run may have left: keys it was putting back."""
        for key in [key async for key in self._state.list_keys(HEALING)]:
            await self.undo(key.removeprefix(HEALING))

    async def _catch_up(self) -> str:
        """Take in erasures among the entries that were cosigned since; '' or why nothing may be put back."""
        if self._cycle.progress.lost and self._erased.upto[0] < self._cycle.progress.size:
            return "some entries are lost in every copy at hand, and one of them may have erased it"
        try:
            shown = await read_cosigned(self._site, self._cycle.log)
            if shown is not None and shown.opened.checkpoint.size > self._erased.upto[0]:
                new = shown.opened.checkpoint
                await verify_growth(self._site.objects, self._erased.upto, new, on_bundle=self._take_erasures)
                await self._erased.seen(new.size, new.root)
        except (Tampered, Malformed) as error:
            return f"what was cosigned since cannot be read, and may have erased it ({error})"
        return ""

    async def _take_erasures(self, start: int, entries: Sequence[bytes]) -> None:
        for index, data, entry, _ in about_keys(start, entries, self._origin):
            if entry.event.type in ERASURE_TYPES:
                await self._erased.take(index, data)


def _is_data_key(keyid: str, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest()[:32] == keyid[-32:]
