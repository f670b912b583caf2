"""C2SP tlog-policy: which logs and cosigners are trusted, and how many of them must have spoken. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.cosignature import Cosignature, verify_cosignature, verify_log_signature
from ledger.core.encoding import parse_decimal
from ledger.core.note import SignatureType, VerifierKey, parse_vkey
from ledger.errors import MalformedNote, MalformedPolicy, Untrusted

POLICY_SIZE_MAX = 1_000_000
NONE = b"none"
_COSIGNER_TYPES = (SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_ML_DSA_44)
_LOG_TYPES = (SignatureType.ED25519, SignatureType.COSIGNATURE_ML_DSA_44)


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A trusted log; its key's name is its origin."""

    key: VerifierKey
    url: bytes | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A trusted cosigner. Its name means something within the policy only; names are octets, compared as they are."""

    name: bytes
    key: VerifierKey
    url: bytes | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """At least `threshold` of these members."""

    name: bytes
    threshold: int
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Trusted:
    """A checkpoint the policy accepts, and why."""

    checkpoint: Checkpoint
    log: VerifierKey
    cosignatures: tuple[Cosignature, ...]

    @property
    def last_cosigned_s(self) -> int | None:
        """POSIX seconds of the newest cosignature; None: there is none."""
        return max((one.timestamp_s for one in self.cosignatures), default=None)


@dataclass(frozen=True, slots=True)
class Policy:
    """Logs, cosigners, groups in the order of their definition, and the name that makes the quorum."""

    logs: tuple[PolicyLog, ...]
    witnesses: tuple[PolicyWitness, ...]
    groups: tuple[PolicyGroup, ...]
    quorum: bytes

    def log_for(self, origin: str) -> VerifierKey:
        """The key of the log `origin`. Raises Untrusted: the policy does not list it."""
        for log in self.logs:
            if log.key.name == origin:
                return log.key
        known = ", ".join(log.key.name for log in self.logs) or "no log"
        raise Untrusted(f"the trust policy does not list the log {origin}", hint=f"it lists {known}")

    def witness(self, key: VerifierKey) -> PolicyWitness | None:
        """The cosigner with that key, if it is listed."""
        return next((one for one in self.witnesses if one.key == key), None)

    def check(self, opened: OpenedCheckpoint, *, quorum: bool = True) -> Trusted:
        """The checkpoint, when the policy accepts it. `quorum=False` asks for the log's signature only.

        Raises:
            Untrusted: the log is not listed or has not signed, a listed key's signature is wrong, or too few cosigned.
        """
        checkpoint = opened.checkpoint
        keys = [log.key for log in self.logs if log.key.name == checkpoint.origin] or [self.log_for(checkpoint.origin)]
        signed = [key for key in keys if verify_log_signature(opened, key)]
        if not signed:
            raise Untrusted(f"the checkpoint is not signed by the log {checkpoint.origin}")
        found = [(one, verify_cosignature(opened, one.key)) for one in self.witnesses]
        present = {witness.name for witness, cosignature in found if cosignature is not None}
        if quorum and not self._met(present):
            have = ", ".join(sorted(name.decode("utf-8", "replace") for name in present)) or "nobody listed"
            raise Untrusted(
                f"the checkpoint of size {checkpoint.size} does not meet the quorum "
                f"{self.quorum.decode('utf-8', 'replace')!r} of the trust policy: cosigned by {have}",
                hint="use a copy that more sites have verified, or a policy that asks for less",
            )
        return Trusted(checkpoint, signed[0], tuple(one for _, one in found if one is not None))

    def _met(self, present: set[bytes]) -> bool:
        met = {NONE, *present}
        for group in self.groups:  # members are defined before the group, so one pass is enough
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met


def make_policy(
    log: VerifierKey, witnesses: Mapping[str, VerifierKey], *, threshold: int | Literal["any", "all"]
) -> Policy:
    """One log, these cosigners, and how many of them are asked for; without any, the log's word is enough.

    Raises:
        MalformedPolicy: a cosigner's name is none, a key is listed twice, or more cosigners are asked for than there
            are.
    """
    listed = tuple(PolicyWitness(name.encode("utf-8"), key) for name, key in witnesses.items())
    if not listed:
        return Policy((PolicyLog(log),), (), (), NONE)
    count = {"any": 1, "all": len(listed)}[threshold] if isinstance(threshold, str) else threshold
    name = b"sites"
    while name.decode("ascii") in witnesses:  # witnesses and groups share their names
        name = b"all-" + name
    group = PolicyGroup(name, count, tuple(one.name for one in listed))
    # What cannot be read back is not written: the reader knows every rule.
    return parse_policy(format_policy(Policy((PolicyLog(log),), listed, (group,), group.name)))


def format_policy(policy: Policy) -> bytes:
    """The policy file."""
    lines: list[bytes] = []
    for log in policy.logs:
        lines.append(b" ".join(filter(None, (b"log", str(log.key).encode("utf-8"), log.url))))
    for one in policy.witnesses:
        lines.append(b" ".join(filter(None, (b"witness", one.name, str(one.key).encode("utf-8"), one.url))))
    for group in policy.groups:
        lines.append(b" ".join((b"group", group.name, b"%d" % group.threshold, *group.members)))
    lines.append(b"quorum " + policy.quorum)
    return b"".join(line + b"\n" for line in lines)


def parse_policy(data: bytes) -> Policy:
    """A policy from its file (C2SP tlog-policy). Raises MalformedPolicy, naming the line."""
    if len(data) > POLICY_SIZE_MAX:
        raise MalformedPolicy(f"a trust policy of {len(data)} bytes; the most is {POLICY_SIZE_MAX}")
    if data and not data.endswith(b"\n"):
        raise MalformedPolicy("the trust policy's last line does not end", hint="it may have been cut; get it again")
    reading = _Reading()
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            reading.line(line)
        except (MalformedNote, ValueError) as error:
            raise MalformedPolicy(f"line {number} of the trust policy: {error}") from error
    if reading.quorum is None:
        raise MalformedPolicy("the trust policy has no quorum line", hint="end it with: quorum NAME, or quorum none")
    return Policy(tuple(reading.logs), tuple(reading.witnesses), tuple(reading.groups), reading.quorum)


class _Reading:
    """A policy file being read, line by line. Every method raises ValueError or MalformedNote."""

    def __init__(self) -> None:
        self.logs: list[PolicyLog] = []
        self.witnesses: list[PolicyWitness] = []
        self.groups: list[PolicyGroup] = []
        self.quorum: bytes | None = None
        self._log_keys: set[bytes] = set()
        self._witness_keys: set[bytes] = set()
        self._names: set[bytes] = set()
        self._members: set[bytes] = set()

    def line(self, line: bytes) -> None:
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in line):
            raise ValueError("it holds a control character")
        items = [item for item in line.replace(b"\t", b" ").split(b" ") if item]
        if not items or items[0].startswith(b"#"):
            return
        keyword, *rest = items
        if keyword == b"log" and len(rest) in (1, 2):
            self._log(rest[0], *rest[1:])
        elif keyword == b"witness" and len(rest) in (2, 3):
            self._witness(rest[0], rest[1], *rest[2:])
        elif keyword == b"group" and len(rest) >= 3:
            self._group(rest[0], rest[1], rest[2:])
        elif keyword == b"quorum" and len(rest) == 1:
            if self.quorum is not None:
                raise ValueError("a second quorum line")
            if rest[0] != NONE and rest[0] not in self._names:
                raise ValueError(f"{_shown(rest[0])} is not defined above")
            self.quorum = rest[0]
        else:
            raise ValueError(f"{_shown(keyword)} with {len(rest)} items is none of log, witness, group, quorum")

    def _log(self, vkey: bytes, url: bytes | None = None) -> None:
        key = parse_vkey(vkey.decode("utf-8"))
        if key.type not in _LOG_TYPES:
            raise ValueError(f"the key of {key.name} is no log's key")
        if key.public_key in self._log_keys:  # under whatever names (C2SP tlog-policy, "Public key representation")
            raise ValueError(f"the key of {key.name} is listed twice")
        self._log_keys.add(key.public_key)
        self.logs.append(PolicyLog(key, url))

    def _witness(self, name: bytes, vkey: bytes, url: bytes | None = None) -> None:
        key = parse_vkey(vkey.decode("utf-8"))
        if key.type not in _COSIGNER_TYPES:
            raise ValueError(f"the key of {key.name} cannot cosign")
        if key.public_key in self._witness_keys:
            raise ValueError(f"the key of {key.name} is listed twice")
        self._witness_keys.add(key.public_key)
        self._define(name)
        self.witnesses.append(PolicyWitness(name, key, url))

    def _group(self, name: bytes, threshold: bytes, members: Sequence[bytes]) -> None:
        for member in members:
            if member not in self._names:
                raise ValueError(f"{_shown(member)} is not defined above")
            if member in self._members:
                raise ValueError(f"{_shown(member)} is a member twice")
            self._members.add(member)
        words = {b"any": 1, b"all": len(members)}
        count = words[threshold] if threshold in words else parse_decimal(threshold.decode("utf-8"))
        if not 1 <= count <= len(members):
            raise ValueError(f"a group of {len(members)} cannot need {count}")
        self._define(name)
        self.groups.append(PolicyGroup(name, count, tuple(members)))

    def _define(self, name: bytes) -> None:
        if name == NONE or name in self._names:
            raise ValueError(f"{_shown(name)} is defined already")
        self._names.add(name)


def _shown(name: bytes) -> str:
    return repr(name[:64].decode("utf-8", "replace"))
