"""How an authority issues, as its events record it: where its certificates point to, how long its lists hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ledger.errors import InvalidRequest

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """Periods are in seconds. URLs end without a slash; "" leaves the extension out.

    `status_url` is where CRLs, CA certificates and OCSP answers are served (`<status_url>/crl/…`, `/ca/…`, `/ocsp`).
    `shards`: over how many CRLs its certificates are spread (1: one CRL names them all).
    """

    status_url: str = ""
    shards: int = 1
    crl_every_s: int = DAY_S
    crl_valid_s: int = 7 * DAY_S
    delta_every_s: int = 0
    """How often a delta CRL comes out between; 0: none."""
    ocsp_valid_s: int = DAY_S
    publish_within_s: int = 60
    """What is revoked, held or released is on a list, and in the answers of every place, within so long."""
    backdate_s: int = 3_600
    """How long before its signing a certificate begins to hold, for clocks that go wrong."""
    reuse_keys: str = "holder"
    """Who may have a public key certified that is certified already: "holder" (the same one), "nobody", "anybody"."""

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 4_096:
            raise InvalidRequest(f"{self.shards} shards", hint="1 to 4,096")
        if self.reuse_keys not in ("holder", "nobody", "anybody"):
            raise InvalidRequest(f"reuse_keys is {self.reuse_keys!r}", hint="holder, nobody or anybody")
        if self.publish_within_s < 1:
            raise InvalidRequest(f"nothing is published within {self.publish_within_s} s", hint="1 s or more")
        if (
            self.crl_valid_s < self.crl_every_s
            or min(self.crl_every_s, self.ocsp_valid_s) < 1
            or self.delta_every_s < 0
        ):
            raise InvalidRequest("a CRL has to hold at least until the next one", hint="crl_valid_s >= crl_every_s > 0")

    def recorded(self) -> dict[str, Any]:
        """As events record it."""
        return asdict(self)


def read_authority_settings(recorded: Mapping[str, Any]) -> AuthoritySettings:
    """The inverse of `AuthoritySettings.recorded`. Raises InvalidRequest: a member is unknown or of another type."""
    known = {one.name: type(one.default) for one in fields(AuthoritySettings)}
    for name, value in recorded.items():
        if name not in known:
            raise InvalidRequest(f"an authority has no setting {name!r}", hint=f"one of {', '.join(known)}")
        if type(value) is not known[name]:
            raise InvalidRequest(f"{name} is {value!r}", hint=f"give {known[name].__name__}")
    return AuthoritySettings(**recorded)
