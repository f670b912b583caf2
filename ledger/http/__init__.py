"""The ledger's HTTP API: ASGI over objects it is handed. Status codes are known here and nowhere else."""
