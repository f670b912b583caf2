"""Serving a ledger as a process: the HTTP server, its followers, what it watches, and who hands events to it."""
