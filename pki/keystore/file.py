"""Private keys in passphrase-protected files: the embedded default of key custody. An HSM or OpenBao come beside it.

A file is one JSON object; the private key is encrypted with AES-256-GCM under a key that scrypt (RFC 7914) derives
from the passphrase, and every clear member is authenticated with it.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.checkpoint import parse_checkpoint_text
from ledger.core.cosignature import cosigned_message, timestamped_signature
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.note import SITE_CONTEXT, SignatureType, VerifierKey, check_name, parse_vkey
from ledger.errors import DiskFull, InvalidRequest, Malformed, StoreUnavailable, Tampered
from ledger.files import is_full
from ledger.keyring import RecoveryKey, generate_recovery_key

FORMAT: Final = 1
WORK_FACTOR: Final = 17
"""scrypt's N is 2 to this power: 128 MiB and about half a second."""
WORK_FACTOR_MAX: Final = 20
"""What a key file may ask for: 1 GiB."""

_LOG: Final = "log"
_MIRROR: Final = "mirror"
_RECOVERY: Final = "recovery"
_WITNESS: Final = "witness"
_FILE_SIZE_MAX = 65_536


@dataclass(frozen=True, slots=True)
class LogSigner:
    """The log's Ed25519 key (`ledger.protocols.Signer`)."""

    key: VerifierKey
    _private: Ed25519PrivateKey = field(repr=False)

    @property
    def vkey(self) -> str:
        return str(self.key)

    def sign(self, text: bytes) -> bytes:
        return self._private.sign(text)

    def export(self) -> bytes:
        """The private key, 32 bytes: to be wrapped to the recovery key, and for nothing else."""
        return self._private.private_bytes_raw()


@dataclass(frozen=True, slots=True)
class MirrorCosigner:
    """A mirror's ML-DSA-44 key (`ledger.protocols.Cosigner`)."""

    key: VerifierKey
    _private: MLDSA44PrivateKey = field(repr=False)

    @property
    def vkey(self) -> str:
        return str(self.key)

    def cosign(self, checkpoint_text: bytes, timestamp_s: int) -> bytes:
        message = cosigned_message(self.key, parse_checkpoint_text(checkpoint_text), timestamp_s)
        return timestamped_signature(timestamp_s, self._private.sign(message))

    def sign_site(self, text: bytes) -> bytes:
        return self._private.sign(text, SITE_CONTEXT)


@dataclass(frozen=True, slots=True)
class WitnessCosigner:
    """A witness's key, of either type (`replication.witness.CheckpointCosigner`): it signs nothing but cosignatures."""

    key: VerifierKey
    _private: Ed25519PrivateKey | MLDSA44PrivateKey = field(repr=False)

    @property
    def vkey(self) -> str:
        return str(self.key)

    def cosign(self, checkpoint_text: bytes, timestamp_s: int) -> bytes:
        message = cosigned_message(self.key, parse_checkpoint_text(checkpoint_text), timestamp_s)
        return timestamped_signature(timestamp_s, self._private.sign(message))


Key: TypeAlias = LogSigner | MirrorCosigner | RecoveryKey | WitnessCosigner


def create_log_key(path: Path, origin: str, passphrase: str, *, work_factor: int = WORK_FACTOR) -> LogSigner:
    """A new signing key for the log `origin`.

    Raises:
        InvalidRequest: `path` is there already.
        DiskFull, StoreUnavailable: it cannot be written.
    """
    return import_log_key(path, secrets.token_bytes(32), origin, passphrase, work_factor=work_factor)


def import_log_key(
    path: Path, private: bytes, origin: str, passphrase: str, *, work_factor: int = WORK_FACTOR
) -> LogSigner:
    """Keep an existing signing key (32 bytes) of the log `origin`. Raises as `create_log_key`."""
    signer = _log_signer(origin, private)
    write_key_file(path, _LOG, signer.vkey, private, passphrase, work_factor)
    return signer


def create_mirror_key(path: Path, name: str, passphrase: str, *, work_factor: int = WORK_FACTOR) -> MirrorCosigner:
    """A new cosigning key under `name`. Raises as `create_log_key`."""
    seed = secrets.token_bytes(32)
    cosigner = _mirror_cosigner(name, seed)
    write_key_file(path, _MIRROR, cosigner.vkey, seed, passphrase, work_factor)
    return cosigner


def create_witness_key(
    path: Path, name: str, type_: SignatureType, passphrase: str, *, work_factor: int = WORK_FACTOR
) -> WitnessCosigner:
    """A new cosigning key of a witness called `name`, Ed25519 or ML-DSA-44. Raises as `create_log_key`."""
    seed = secrets.token_bytes(32)
    cosigner = _witness_cosigner(name, type_, seed)
    write_key_file(path, _WITNESS, cosigner.vkey, seed, passphrase, work_factor)
    return cosigner


def create_recovery_key(path: Path, passphrase: str, *, work_factor: int = WORK_FACTOR) -> RecoveryKey:
    """A new offline recovery key. Raises as `create_log_key`."""
    key = generate_recovery_key()
    write_key_file(path, _RECOVERY, encode_base64(key.public), key.private, passphrase, work_factor)
    return key


def load(path: Path, passphrase: str) -> Key:
    """The key in a file. Raises as `read_key_file`."""
    kind, public, private = read_key_file(path, passphrase)
    return _key(path, kind, public, private)


def read_key_file(path: Path, passphrase: str) -> tuple[str, str, bytes]:
    """(kind, public part, private key) in a key file of whatever kind.

    Raises:
        InvalidRequest: there is no such file, or the passphrase is wrong.
        Tampered: the file is damaged or edited.
        StoreUnavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_SIZE_MAX)
    except FileNotFoundError as error:
        raise InvalidRequest(f"the key file {path} is not there", hint="check the path, or restore the key") from error
    except OSError as error:
        raise StoreUnavailable(
            f"the key file {path} cannot be read ({error.strerror})", hint="check permissions"
        ) from error
    try:
        value = json.loads(data)
        clear = {name: value[name] for name in ("format", "kind", "public", "kdf", "salt", "work_factor")}
        work_factor = clear["work_factor"]
        if clear["format"] != FORMAT or clear["kdf"] != "scrypt" or type(work_factor) is not int:
            raise ValueError("its format is unknown")
        if not 1 <= work_factor <= WORK_FACTOR_MAX:
            raise ValueError(f"a work factor of {work_factor} would take more memory than there is")
        salt, nonce, sealed = (decode_base64(str(value[name])) for name in ("salt", "nonce", "private"))
        bound = canonicalize(clear)
    except (ValueError, KeyError, TypeError, RecursionError, Malformed) as error:
        raise Tampered(f"the key file {path} is damaged ({error})", hint="restore it from a copy") from error
    cipher = AESGCM(_derive(passphrase, salt, work_factor))
    try:
        private = cipher.decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError) as error:
        raise InvalidRequest(
            f"the key file {path} does not open", hint="the passphrase is wrong, or the file was edited"
        ) from error
    return str(clear["kind"]), str(clear["public"]), private


def _key(path: Path, kind: str, public: str, private: bytes) -> Key:
    key: Key
    if kind == _RECOVERY:
        return RecoveryKey(private, decode_base64(public))
    if kind not in (_LOG, _MIRROR, _WITNESS):
        raise InvalidRequest(f"the key file {path} holds a key of another kind ({kind[:40]})", hint="name another file")
    said = parse_vkey(public)
    if kind == _WITNESS:
        key = _witness_cosigner(said.name, said.type, private)
    else:
        key = _log_signer(said.name, private) if kind == _LOG else _mirror_cosigner(said.name, private)
    if key.vkey != public:
        raise Tampered(f"the key file {path} holds another key than it says", hint="restore it from a copy")
    return key


def _log_signer(origin: str, private: bytes) -> LogSigner:
    key = Ed25519PrivateKey.from_private_bytes(private)
    return LogSigner(VerifierKey(origin, SignatureType.ED25519, key.public_key().public_bytes_raw()), key)


def _mirror_cosigner(name: str, seed: bytes) -> MirrorCosigner:
    key = MLDSA44PrivateKey.from_seed_bytes(seed)
    public = key.public_key().public_bytes_raw()
    return MirrorCosigner(VerifierKey(name, SignatureType.COSIGNATURE_ML_DSA_44, public), key)


def _witness_cosigner(name: str, type_: SignatureType, seed: bytes) -> WitnessCosigner:
    private: Ed25519PrivateKey | MLDSA44PrivateKey
    if type_ is SignatureType.COSIGNATURE_ED25519:
        private = Ed25519PrivateKey.from_private_bytes(seed)
    else:
        private = MLDSA44PrivateKey.from_seed_bytes(seed)
        type_ = SignatureType.COSIGNATURE_ML_DSA_44
    key = VerifierKey(check_name(name), type_, private.public_key().public_bytes_raw())
    return WitnessCosigner(key, private)


def _derive(passphrase: str, salt: bytes, work_factor: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << work_factor, r=8, p=1).derive(passphrase.encode("utf-8"))


def write_key_file(path: Path, kind: str, public: str, private: bytes, passphrase: str, work_factor: int) -> None:
    """A new key file, whole and durable or not there at all. Raises as `create_log_key`."""
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    clear: dict[str, JsonValue] = {
        "format": FORMAT,
        "kind": kind,
        "public": public,
        "kdf": "scrypt",
        "salt": encode_base64(salt),
        "work_factor": work_factor,
    }
    sealed = AESGCM(_derive(passphrase, salt, work_factor)).encrypt(nonce, private, canonicalize(clear))
    value = {**clear, "nonce": encode_base64(nonce), "private": encode_base64(sealed)}
    _write_new(path, (json.dumps(value, indent=2) + "\n").encode())


def _write_new(path: Path, data: bytes) -> None:
    """A new file, whole and durable or not there at all, readable by its owner only; never overwrites."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            path.hardlink_to(partial)  # unlike a rename, this refuses to overwrite
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise InvalidRequest(
            f"{path} is there already", hint="a key is never overwritten; choose another place"
        ) from error
    except OSError as error:
        full = is_full(error)
        raise (DiskFull if full else StoreUnavailable)(
            f"{path} cannot be written ({error.strerror})",
            hint="free space, then run it again" if full else "check permissions, or choose another place",
        ) from error
