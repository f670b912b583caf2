"""What the authority issues by (`pki.ca`): orders, one-use tokens, and what is under way."""
