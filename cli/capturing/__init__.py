"""Captures and restores of assets, as commands and `jinshi serve` run them; each kind's work is in ledger/capture."""
