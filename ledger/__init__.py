"""The append-only event ledger: the log, its stores, capture. Imports nothing of ours."""
