"""Who may do what, and why: roles as events, policies, decisions."""
