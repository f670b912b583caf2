"""Brings a tree of files back: into an empty place, or over what is there (docs/files.md)."""

from restore.rebuild.files.rebuild import rebuild_files

__all__ = ["rebuild_files"]
