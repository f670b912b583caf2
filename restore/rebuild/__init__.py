"""Rebuilders: verified entries in, a working system out."""
