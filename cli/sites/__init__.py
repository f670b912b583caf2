"""What a command does with the sites of a ledger: adding, replicating, acknowledging, scrubbing, asking witnesses."""
