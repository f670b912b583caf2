"""行政许可登记: a register of administrative permits, event-sourced, with a ledger as its store.

An application of the `eventsourcing` library like any other. Two things are worth a look: every event has a frozen name
(`topic=`), and nothing here knows of the ledger, which seals and signs what is recorded. Run it with:

    export JINSHI_PASSPHRASE=...
    jinshi init permits
    JINSHI_LEDGER=permits PERSISTENCE_MODULE=ledger.persistence python approvals.py
    jinshi --ledger permits log --json
"""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class Permit(Aggregate):
    """One permit, from the application to the end of its life."""

    TOPIC = "approvals.permit"

    @event("Created", topic="approvals.permit.applied.v1")
    def __init__(self, number: str, applicant: str, matter: str) -> None:
        self.number = number
        self.applicant = applicant
        self.matter = matter
        self.status = "applied"
        self.valid_until = ""

    @staticmethod
    def create_id(number: str) -> UUID:
        """A number names one permit."""
        return uuid5(NAMESPACE_URL, f"/permits/{number}")

    @event("Granted", topic="approvals.permit.granted.v1")
    def grant(self, officer: str, valid_until: str) -> None:
        """Decide for the applicant."""
        if self.status != "applied":
            raise ValueError(f"permit {self.number} is {self.status}")
        self.status = "granted"
        self.valid_until = valid_until

    @event("Revoked", topic="approvals.permit.revoked.v1")
    def revoke(self, officer: str, reason: str) -> None:
        """Take it back."""
        if self.status != "granted":
            raise ValueError(f"permit {self.number} is {self.status}")
        self.status = "revoked"


class Approvals(Application[UUID]):
    """The register. Who is answerable for an act is recorded with it."""

    def apply(self, number: str, applicant: str, matter: str) -> UUID:
        """Take in an application for a permit. Raises IntegrityError: the number is taken."""
        permit = Permit(number, applicant, matter)
        self.save(permit)
        return permit.id

    def grant(self, number: str, officer: str, valid_until: str) -> None:
        """Grant it."""
        permit: Permit = self.repository.get(Permit.create_id(number))
        permit.grant(officer, valid_until)
        self.save(permit, actor=f"officer:{officer}")

    def revoke(self, number: str, officer: str, reason: str) -> None:
        """Revoke it."""
        permit: Permit = self.repository.get(Permit.create_id(number))
        permit.revoke(officer, reason)
        self.save(permit, actor=f"officer:{officer}")

    def status(self, number: str) -> str:
        """How it stands."""
        permit: Permit = self.repository.get(Permit.create_id(number))
        return permit.status


def main() -> None:
    """A day at the counter."""
    with Approvals() as approvals:
        approvals.apply("东审〔2026〕0001号", "北京东城某餐饮有限公司", "食品经营许可")
        approvals.apply("东审〔2026〕0002号", "北京东城某印刷厂", "印刷经营许可")
        approvals.grant("东审〔2026〕0001号", officer="王敏", valid_until="2031-11-23")
        approvals.revoke("东审〔2026〕0001号", officer="李强", reason="经营者申请注销")
        print(approvals.status("东审〔2026〕0001号"), approvals.status("东审〔2026〕0002号"))  # noqa: T201


if __name__ == "__main__":
    main()
