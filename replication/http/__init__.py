"""The HTTP faces of a mirror and a witness: C2SP tlog-mirror and tlog-witness. Nothing of the primary is used here."""
