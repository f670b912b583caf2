"""Audits a ledger's directory, or one site's copy: opens what is audited, runs every check, and makes the report."""

from cli.auditing.common import Wanted
from cli.auditing.directory import audit_directory
from cli.auditing.sites import Place, audit_place, audit_site

__all__ = ["Place", "Wanted", "audit_directory", "audit_place", "audit_site"]
