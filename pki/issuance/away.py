"""Requests read, their templates made and linted, as jobs of a worker process (`ledger.workers`): bytes in, bytes out.

Both ends of it are here. A context is a generation of an authority and a profile; a job in it is a certification
request with the serial that its certificate will have; what comes back is what the request says, and the template, or
why there is none. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.errors import JinshiError
from ledger.workers.frames import raised, refused
from ledger.workers.steps import in_steps
from pki.core.algorithms import algorithm_named
from pki.core.draft import check_template
from pki.core.issuing import Issuing, issuing_of
from pki.core.keys import SUBJECT_KEYS
from pki.core.profile import Profile, read_profile
from pki.core.request import CertificationRequest, parse_request
from pki.core.settings import read_authority_settings
from pki.core.template import SERIAL_BYTES, Instead, Template, make_template

ENTRY: Final = "pki.issuance.away:opened"
_JOB: Final = struct.Struct(f"!{SERIAL_BYTES}sQQ")
"""The serial, the time of signing, and when it ends (0: as the profile says); the request follows."""


# -- in the process that issues --


def context_of(issuing: Issuing, profile: Profile) -> bytes:
    """A context."""
    return orjson.dumps(
        {
            "authority": issuing.authority,
            "generation": issuing.generation,
            "algorithm": issuing.algorithm.name,
            "settings": issuing.settings.recorded(),
            "chain": [above.certificate.public_bytes(Encoding.DER).hex() for above in issuing.chain],
            "profile": profile.recorded(),
            "version": profile.version,
        }
    )


def job_of(data: bytes, serial: bytes, *, now: int, not_after: int | None) -> bytes:
    """A job: `data` is read, and a template is made of what it says."""
    return _JOB.pack(serial, now, not_after or 0) + data


def drafted(data: bytes, answer: bytes) -> tuple[CertificationRequest, Template | JinshiError]:
    """What a worker made of `data`; nothing of it is checked once more."""
    said: dict[str, Any] = orjson.loads(answer)
    der = bytes.fromhex(said["der"]) if said["der"] else data
    request = CertificationRequest(
        der,
        bytes.fromhex(said["public"]),
        said["key_id"],
        SUBJECT_KEYS[said["key"]],
        x509.load_der_x509_csr(der).subject,
        tuple(said["names"]),
    )
    made: dict[str, Any] | None = said["template"]
    if made is None:
        return request, raised(said["refused"].encode())
    made["tbs"], made["names"] = bytes.fromhex(made["tbs"]), tuple(made["names"])
    return request, Template(**made)


# -- in the worker --


@dataclass(slots=True)
class _Draft:
    """A request on its way to its template, or to why there is none."""

    data: bytes
    serial: bytes
    now: int
    not_after: int | None
    request: CertificationRequest
    template: Template | None = None
    refused: JinshiError | None = None


def opened(context: bytes) -> Callable[[Sequence[bytes]], list[Any]]:
    """What does jobs in a context. Raises InvalidRequest: it is none of `context_of`."""
    said = orjson.loads(context)
    issuing = issuing_of(
        said["authority"],
        said["generation"],
        algorithm_named(said["algorithm"]),
        read_authority_settings(said["settings"]),
        [x509.load_der_x509_certificate(bytes.fromhex(one)) for one in said["chain"]],
    )
    profile = read_profile(said["profile"], version=said["version"])
    made, checked = partial(_made, issuing, profile), partial(_checked, issuing, profile)
    return lambda jobs: in_steps(jobs, _read, made, checked, _told)


def _read(job: bytes) -> _Draft:
    serial, now, end = _JOB.unpack_from(job)
    data = job[_JOB.size :]
    return _Draft(data, serial, now, end or None, parse_request(data))


def _made(issuing: Issuing, profile: Profile, draft: _Draft) -> _Draft:
    try:
        draft.template = make_template(
            issuing,
            profile,
            draft.request,
            draft.serial,
            now=draft.now,
            instead=Instead(not_after=draft.not_after),
        )
    except JinshiError as error:  # for whoever makes the certificate: others come before that
        draft.refused = error
    return draft


def _checked(issuing: Issuing, profile: Profile, draft: _Draft) -> _Draft:
    try:
        if draft.template is not None:
            check_template(draft.template, issuing, profile, now=draft.now)
    except JinshiError as error:
        draft.template, draft.refused = None, error
    return draft


def _told(draft: _Draft) -> bytes:
    request, made = draft.request, draft.template
    return orjson.dumps(
        {
            "der": "" if request.der == draft.data else request.der.hex(),
            "public": request.public.hex(),
            "key_id": request.key_id,
            "key": request.key.name,
            "names": request.names,
            "template": None
            if made is None
            else {
                "serial": made.serial,
                "subject": made.subject,
                "names": made.names,
                "not_before": made.not_before,
                "not_after": made.not_after,
                "shard": made.shard,
                "tbs": made.tbs.hex(),
            },
            "refused": "" if draft.refused is None else refused(draft.refused).decode(),
        }
    )
