"""The private keys of the trust service, for commands and the server: recorded, and wrapped to the recovery key."""

from __future__ import annotations

import base64

from cli.config import Environment, read_settings
from cli.trust.opening import Trust
from cli.wiring.keystores import open_keystores
from pki.access.base import service_permit
from pki.custody import Custody, RecordedKeys


def custody_of(trust: Trust, environment: Environment, passphrase: str) -> Custody:
    """Who makes keys and brings them back. Close its `keys`."""
    settings = read_settings(trust.paths)
    keys = open_keystores(trust.paths, environment, passphrase)
    return Custody(trust.journal, trust.index, keys, base64.b64decode(settings.recovery))


def recorded_keys(trust: Trust, environment: Environment, passphrase: str) -> RecordedKeys:
    """The same as a `KeyStore`, for what makes keys beside authorities: responders, time stamps, tokens."""
    permit = service_permit(trust.caller.actor, "key.create")
    return RecordedKeys(custody_of(trust, environment, passphrase), permit)
