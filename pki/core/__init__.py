"""Pure: certificates, requests, profiles, lists and answers as bytes and values; no I/O, no clock."""
