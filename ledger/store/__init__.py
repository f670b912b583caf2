"""Where entries and objects are kept. base.py states the guarantees; one file per driver."""
