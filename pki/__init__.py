"""RA, CA, key custody, status, time stamps. Knows the ledger only through its protocols."""
