"""Rehearsed restores: plan, checks, report."""
