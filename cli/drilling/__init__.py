"""Rehearsed restores of assets, as `restore asset` does them, into a scratch place that is removed."""
