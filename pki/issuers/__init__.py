"""Whoever signs what the registration authority has checked: our own certification authority, or another's."""
