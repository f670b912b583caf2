"""The content store: what does not fit an entry, as sealed chunks in packs (docs/content.md).

It works over any `ObjectStore`; what its bytes look like is in `ledger/core` (chunks, packs, manifest).
"""

from ledger.content.chunker import Chunking
from ledger.content.collector import Collected, Collector, Survey, referenced_packs, survey
from ledger.content.index import ChunkIndex, Synced, synchronise
from ledger.content.leases import CONDEMNED, Lease, Leases, Leasing
from ledger.content.reader import ContentReader, Piece, ReaderLimits
from ledger.content.store import ContentStore
from ledger.content.writer import Content, ContentLimits, ContentWriter

__all__ = [
    "CONDEMNED",
    "ChunkIndex",
    "Chunking",
    "Collected",
    "Collector",
    "Content",
    "ContentLimits",
    "ContentReader",
    "ContentStore",
    "ContentWriter",
    "Lease",
    "Leases",
    "Leasing",
    "Piece",
    "ReaderLimits",
    "Survey",
    "Synced",
    "referenced_packs",
    "survey",
    "synchronise",
]
