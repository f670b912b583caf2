"""Roles that stand apart from the primary, as processes of their own: the mirrors of a site, a witness."""
