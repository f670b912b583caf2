"""Pure: bytes in, values out. No I/O, clock, randomness or logging."""
