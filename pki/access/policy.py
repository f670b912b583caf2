"""Policies by attribute, in Cedar: parsed once, checked against a schema, and asked. Nothing here knows an officer.

Cedar passes over a policy that it cannot evaluate, also one that forbids; here that is a refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

import cedarpy

from ledger.errors import InvalidRequest, MalformedPolicy
from pki.access.base import Resource, Value
from pki.core.roles import SECURITY_ADMINISTRATOR

TEXT_SIZE_MAX: Final = 48 * 2**10
"""An amended text goes into one entry."""
DECIDED_MAX: Final = 20_000
NESTING_MAX: Final = 32
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|[()\[\]{}]', re.DOTALL)
"""Strings and comments first: what is in them is no bracket."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_ID_ANNOTATION = re.compile(r'@id\("[\w-]*"\)')
SEE: Final = "see docs/trust/access.md"
ADMINISTRATORS_NEED: Final = ("policy.amend", "officer.appoint", "officer.certificate")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say. `policies` are the ids of those that decided; `wrong` what could not be evaluated."""

    allowed: bool
    policies: tuple[str, ...]
    wrong: str = ""


class Principal:
    """Whoever asks, as Cedar sees them: a name, roles, attributes. Made once for each version of an officer."""

    __slots__ = ("entities", "name", "roles")

    def __init__(self, name: str, roles: Sequence[str], attributes: Mapping[str, Value], *, appointed: bool) -> None:
        self.name = name
        self.roles = tuple(roles)
        parents = [{"type": "Role", "id": role} for role in roles]
        said = {**{key: _plain(value) for key, value in attributes.items()}, "name": name, "appointed": appointed}
        officer = {"uid": {"type": "Officer", "id": name}, "attrs": said, "parents": parents}
        known: list[dict[str, Any]] = [officer, *({"uid": parent, "attrs": {}, "parents": []} for parent in parents)]
        self.entities = cedarpy.Entities.from_json_str(json.dumps(known))


class Policies:
    """The policies in force: the core, and the shipped or amended text beside it. Immutable."""

    def __init__(self, text: str | None = None) -> None:
        """`text` None: the shipped one. Raises MalformedPolicy: it is not of the schema, or not Cedar."""
        self.text = shipped("roles.cedar") if text is None else text
        if len(self.text.encode()) > TEXT_SIZE_MAX:
            raise MalformedPolicy(f"the policies have more than {TEXT_SIZE_MAX:,} bytes", hint="say it shorter")
        _check_nesting(self.text)
        whole = shipped("core.cedar") + "\n" + self.text
        try:
            self._set = cedarpy.PolicySet.from_str(whole)
        except ValueError as error:
            raise MalformedPolicy(f"the policies are not Cedar ({_line(error)})", hint=SEE) from error
        found = cedarpy.validate_policies(whole, shipped("schema.cedarschema"))
        if not found.validation_passed:
            named = found.id_annotations_by_policy_id
            wrong = [f"{named.get(one.policy_id, one.policy_id)}: {_line(one.error)}" for one in found.errors[:3]]
            raise MalformedPolicy(f"the policies are not of the schema ({'; '.join(wrong)})", hint=SEE)
        # An escape could spell a name in another way: then nothing is taken for unnamed.
        self._words = None if "\\" in whole else frozenset(_WORD.findall(_ID_ANNOTATION.sub("", whole)))
        self._decided: dict[object, Verdict] = {}

    def decide(
        self, principal: Principal, action: str, resource: Resource, asking: Mapping[str, str | int | bool]
    ) -> Verdict:
        """What they say to one act. `asking`: the rest of the schema's `Asking`.

        Remembered for everything that they can tell apart: what is nowhere named in their text they do not look at.
        """
        attributes = {name: _plain(value) for name, value in resource.attributes.items() if self._names(name)}
        asked = {name: value for name, value in asking.items() if self._names(name)}
        by_id = self._names("id") or self._names("Thing")
        about = (*_told(attributes), None, *_told(asked))
        key = (principal, action, resource.kind, resource.id if by_id else "", about)
        verdict = self._decided.get(key)
        if verdict is None:
            verdict = self.evaluated(principal, action, replace(resource, attributes=attributes), asking)
            if len(self._decided) >= DECIDED_MAX:
                self._decided.clear()
            self._decided[key] = verdict
        return verdict

    def _names(self, word: str) -> bool:
        """Whether the text may speak of an attribute of that name."""
        return self._words is None or word in self._words

    def evaluated(
        self, principal: Principal, action: str, resource: Resource, asking: Mapping[str, str | int | bool]
    ) -> Verdict:
        """The same, always asked of the engine."""
        attributes = {name: _plain(value) for name, value in resource.attributes.items()}
        thing, _, verb = action.partition(".")
        uid = {"type": "Thing", "id": f"{resource.kind}:{resource.id}"}
        said = {"uid": uid, "attrs": {**attributes, "kind": resource.kind, "id": resource.id}, "parents": []}
        try:
            answer = cedarpy.is_authorized(
                {
                    "principal": {"type": "Officer", "id": principal.name},
                    "action": {"type": "Action", "id": action},
                    "resource": uid,
                    "context": {**asking, "action": action, "thing": thing, "verb": verb},
                },
                self._set,
                principal.entities.with_added_json_str(json.dumps([said])),
            )
        except ValueError as error:
            return Verdict(False, (), _line(error))
        diagnostics = answer.diagnostics
        named = diagnostics.id_annotations_by_reason
        ids = tuple(sorted(named.get(one, one) for one in diagnostics.reasons))
        if diagnostics.errors:
            return Verdict(False, ids, _line(diagnostics.errors[0]))
        return Verdict(answer.allowed, ids)

    def check_usable(self) -> None:
        """That security administrators could amend them again. Raises InvalidRequest: they would lock everybody out."""
        somebody = Principal("somebody", (SECURITY_ADMINISTRATOR,), {}, appointed=True)
        asking: dict[str, str | int | bool] = {"actor": "x509:somebody", "time": 0, "confirmations": 1}
        asking |= dict.fromkeys(("is_requester", "is_holder", "is_self", "has_approved", "could_act", "local"), False)
        for action in ADMINISTRATORS_NEED:
            verdict = self.decide(somebody, action, Resource(action.partition(".")[0], "another"), asking)
            if not verdict.allowed:
                why = ", ".join(verdict.policies) or verdict.wrong or "nothing allows it"
                raise InvalidRequest(
                    f"with these policies nobody could {action} any more ({why})",
                    hint="leave that to security administrators",
                )


def _check_nesting(text: str) -> None:
    """Raises MalformedPolicy: brackets stand so deep in one another that the engine's parser would end the process."""
    depth = 0
    for found in _BRACKET.finditer(text):
        mark = found[0]
        if mark in "([{":
            depth += 1
            if depth > NESTING_MAX:
                raise MalformedPolicy(f"the policies have more than {NESTING_MAX} brackets in one another", hint=SEE)
        elif mark in ")]}":
            depth = max(0, depth - 1)


def shipped(name: str) -> str:
    """A file of `pki/access/policies`."""
    return (files("pki.access.policies") / name).read_text(encoding="utf-8")


def _plain(value: Value) -> str | int | bool | list[str]:
    return value if isinstance(value, str | int | bool) else list(value)


def _told(values: Mapping[str, str | int | bool | list[str]]) -> Iterator[Hashable]:
    """What tells values apart; 1 from true, too."""
    for name, value in values.items():
        yield name, type(value), tuple(value) if isinstance(value, list) else value


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
