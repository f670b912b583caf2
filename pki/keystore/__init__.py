"""Custody of private keys, one file per kind of keeper."""
