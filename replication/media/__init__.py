"""Increments of a ledger on offline media, for a site that no line leads to; and the receipts that come back."""
