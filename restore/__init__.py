"""Bring it back: fetch from a site, rebuild, drill. Never imports pki: a drill must work with the CA dead."""
