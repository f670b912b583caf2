"""One file per group of commands; each parses, calls one room below and prints."""
