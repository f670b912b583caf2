"""PostgreSQL clusters as they are on disk: base backups and the log (docs/capture-postgresql-physical.md)."""

from ledger.capture.physical.capture import ClusterCapture

__all__ = ["ClusterCapture"]
