"""Sites, followers, mirrors: copies of a ledger that survive its primary."""
