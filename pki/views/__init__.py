"""Folds of the journal to look things up in: small aggregates in memory, tables in an index that can be rebuilt."""
