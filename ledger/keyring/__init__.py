"""Keys as they lie in `keyring/` at every site: the log's own, and the data keys of what is sealed."""

from ledger.keyring.audit import KeyringAudit, check_keyring
from ledger.keyring.data import KEYRING
from ledger.keyring.logkey import announced_keys, announcement, keyring_object, log_keyid, recover_log_key
from ledger.keyring.recovery import (
    FORMAT,
    RecoveryKey,
    generate_recovery_key,
    open_from_recovery,
    seal_to_recovery,
)

__all__ = [
    "FORMAT",
    "KEYRING",
    "KeyringAudit",
    "RecoveryKey",
    "announced_keys",
    "announcement",
    "check_keyring",
    "generate_recovery_key",
    "keyring_object",
    "log_keyid",
    "open_from_recovery",
    "recover_log_key",
    "seal_to_recovery",
]
