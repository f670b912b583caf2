"""Trees of files: what is in them into entries and content, and what they were at a point (docs/files.md).

Bringing a tree back is `restore/rebuild/files`.
"""

from ledger.capture.files.capture import FilesCapture
from ledger.capture.files.names import ROOT
from ledger.capture.files.record import Extent, Kind, Record
from ledger.capture.files.sealed import SEALED, Seal
from ledger.capture.files.tree import Item, Tree

__all__ = ["ROOT", "SEALED", "Extent", "FilesCapture", "Item", "Kind", "Record", "Seal", "Tree"]
