"""Brings a PostgreSQL cluster back: a base backup, the log after it, and the server's own recovery to a point."""

from restore.rebuild.physical.rebuild import rebuild_cluster

__all__ = ["rebuild_cluster"]
