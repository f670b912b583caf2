"""What is shipped, in Cedar (data files): `core` always holds, `roles` can be amended, `schema` checks both."""
