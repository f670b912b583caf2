"""Ceremonies as code: one reviewed file says what is made and signed; custodians bring shares; the log keeps it all."""
