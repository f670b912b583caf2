"""The composition root: drivers are built here and nowhere above or below. What they do is in the rooms below."""
