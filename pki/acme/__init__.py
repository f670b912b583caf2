"""ACME (RFC 8555): accounts bound to keys that officers give out, orders, proofs of control, what is issued on them."""
