"""The trust service's HTTP faces: routes over what they are handed; what stands around them is `ledger.http`'s."""
