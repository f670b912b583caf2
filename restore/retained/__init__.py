"""Which entries of an asset its kept points need, kind by kind; and what is said where one of them has gone."""
