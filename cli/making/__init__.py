"""Making a ledger, new or out of a copy: everything of it, or nothing that looks like one."""
