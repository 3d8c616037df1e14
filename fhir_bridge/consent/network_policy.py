"""What holds where no consent says anything, and what the law permits beside consent: policies as data.

For deciding, for the operator who opens a file of them, and for an auditor who
was given the opened bytes. Each policy has the form of a Consent's rules
(``policyRule``, ``provision``) with its citation. All of them together with the
rules of emergency access are one value, named by the BLAKE3 hash of its
canonical bytes; that hash stands on the ledger and in every decision.

Invariants:
    * the same bytes give the same policies and the same name on every node;
    * a policy that is not fully understood is refused as a whole file, never skipped;
    * a legal basis permits only to named actors for stated purposes, and cites its source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from blake3 import blake3

from fhir_bridge.consent.attesting import AttestationRules, Reach
from fhir_bridge.consent.compiling import compile_consent
from fhir_bridge.consent.policy import Policy
from fhir_bridge.consent.vocabulary import CONSENT_SCOPE, PRACTITIONER_ROLE
from fhir_bridge.errors import IntegrityBroken, SetupWrong
from fhir_bridge.fhir.json import NotStrictJson, parse, render

MAX_EMERGENCY_MINUTES: Final = 24 * 60
_FORMAT: Final = 1
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_KNOWN: Final = frozenset({"format", "own_records", "emergency", "policies"})
_ATTESTATION: Final = "attestation"
_KNOWN_POLICY: Final = frozenset({"id", "kind", "citation", "institution", "patient", "policyRule", "provision"})
_KNOWN_EMERGENCY: Final = frozenset({"roles", "max_minutes", "patient_denial"})


class OwnRecords(StrEnum):
    """How far a patient's denial reaches into what an institution wrote itself.

    By default a provision that matches does and a mere base rule (OPTOUT) does not:
    opting out of sharing is no order to a hospital to stop reading its own files.
    """

    CLOSED_BY_PROVISION = "closed-by-provision"
    CLOSED_BY_ANY = "closed-by-any"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class EmergencyRules:
    """Who may open emergency access, for how long, and what a patient's explicit denial of it is worth.

    Attributes:
        roles: ``system|code``; the token must state one of them. Without any, emergency access is not offered.
        max_minutes: The longest time box.
        denial_stands: A consent's denial that names an emergency purpose holds in emergencies too.
    """

    roles: frozenset[str] = frozenset({f"{PRACTITIONER_ROLE}|doctor", f"{PRACTITIONER_ROLE}|nurse"})
    max_minutes: int = 60
    denial_stands: bool = True


@dataclass(frozen=True, slots=True)
class StandingPolicy:
    """One policy of the network or of an institution.

    Attributes:
        institution: Whose charts it is about; None for all.
        patient: Canonical Patient id of the one person it is about (a court order); None for all.
    """

    id: str
    citation: str
    policy: Policy
    institution: str | None = None
    patient: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkPolicies:
    """Everything beside consents that a decision rests on.

    Attributes:
        content: The canonical bytes; whoever is given them decides alike.
        bases: Legal bases other than consent; they permit, whatever consents say.
        defaults: What holds where no consent applies: the institution's first, then the network's.
        attestation: Whether an institution's word makes signed papers and guardians count; by default it does not.
    """

    content: bytes
    own_records: OwnRecords
    emergency: EmergencyRules
    bases: tuple[StandingPolicy, ...] = ()
    defaults: tuple[StandingPolicy, ...] = ()
    attestation: AttestationRules = field(default_factory=AttestationRules)
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", blake3(self.content).digest())

    @property
    def version(self) -> str:
        """The digest as it stands in decisions: 64 hex digits."""
        return self.digest.hex()


def load_policies(file: bytes | None = None, own_records: OwnRecords = OwnRecords.OPEN) -> NetworkPolicies:
    """Return the policies of an operator's file, or those of a network that has none.

    Args:
        file: JSON as docs/consent.md describes.
        own_records: Used where the file does not state it.

    Raises:
        SetupWrong: Something in the file is not understood; nothing may be decided by the rest of it.
    """
    try:
        given = {"format": _FORMAT} if file is None else parse(file)
    except NotStrictJson as broken:
        raise SetupWrong("the policies file is not strict JSON") from broken
    stated: dict[str, Any] = {"own_records": own_records.value, "emergency": {}, "policies": []} | given
    return _read(stated)


def open_policies(content: bytes, digest: bytes) -> NetworkPolicies:
    """Return the policies that a digest on the ledger names, from their opened bytes.

    Raises:
        IntegrityBroken: The bytes are not the ones that were registered, or not in their one form.
    """
    if blake3(content).digest() != digest:
        raise IntegrityBroken("the opened policies are not those that the ledger names")
    try:
        found = _read(parse(content))
    except (SetupWrong, NotStrictJson) as broken:
        raise IntegrityBroken("the opened policies cannot be read by this evaluator") from broken
    if found.content != content:
        raise IntegrityBroken("the opened policies are not in their one form")
    return found


def _read(stated: Mapping[str, Any]) -> NetworkPolicies:
    if stated.keys() - {_ATTESTATION} != _KNOWN or stated["format"] != _FORMAT:
        raise SetupWrong(
            "a policies file has format 1, own_records, emergency, policies and attestation, nothing else"
        )
    if stated["own_records"] not in list(OwnRecords):
        raise SetupWrong(f"own_records must be one of {', '.join(OwnRecords)}")
    if not isinstance(stated["policies"], list):
        raise SetupWrong("policies must be a list")
    emergency = _emergency(stated["emergency"])
    read = [(each.get("kind"), _policy(each)) for each in map(_object, stated["policies"])]
    names = [policy.id for _, policy in read]
    if len(set(names)) != len(names):
        raise SetupWrong("two policies have one id")
    content = dict(stated) | {"emergency": _emergency_data(emergency)}
    attestation = AttestationRules()
    if _ATTESTATION in stated:
        # Left out where it is not stated, so that files which say nothing of it keep their name.
        attestation = _attestation(stated[_ATTESTATION])
        content[_ATTESTATION] = _attestation_data(attestation)
    canonical = json.loads(render(content))
    return NetworkPolicies(
        content=json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode(),
        own_records=OwnRecords(stated["own_records"]),
        emergency=emergency,
        bases=tuple(policy for kind, policy in read if kind == "basis"),
        defaults=tuple(policy for kind, policy in read if kind == "default"),
        attestation=attestation,
    )


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SetupWrong("a policy is an object")
    return value


def _emergency(value: object) -> EmergencyRules:
    given = _object(value)
    usual = EmergencyRules()
    roles, minutes = given.get("roles", sorted(usual.roles)), given.get("max_minutes", usual.max_minutes)
    denial = given.get("patient_denial", "stands")
    if given.keys() - _KNOWN_EMERGENCY or denial not in ("stands", "yields"):
        raise SetupWrong("emergency has roles, max_minutes and patient_denial (stands or yields), nothing else")
    if not isinstance(roles, list) or not all(isinstance(role, str) and "|" in role for role in roles):
        raise SetupWrong("emergency.roles must be a list of system|code")
    if not isinstance(minutes, int) or isinstance(minutes, bool) or not 1 <= minutes <= MAX_EMERGENCY_MINUTES:
        raise SetupWrong(f"emergency.max_minutes must be 1 to {MAX_EMERGENCY_MINUTES}")
    return EmergencyRules(frozenset(roles), minutes, denial == "stands")


def _attestation(value: object) -> AttestationRules:
    given = _object(value)
    paper, guardians = given.get("paper", "refused"), given.get("guardians", Reach.REFUSED.value)
    if given.keys() - {"paper", "guardians"} or paper not in ("refused", "counts") or guardians not in list(Reach):
        raise SetupWrong(
            "attestation has paper (refused or counts) and guardians (refused, own-chart or person), nothing else"
        )
    return AttestationRules(paper == "counts", Reach(guardians))


def _attestation_data(rules: AttestationRules) -> dict[str, Any]:
    return {"paper": "counts" if rules.paper else "refused", "guardians": rules.guardians.value}


def _emergency_data(rules: EmergencyRules) -> dict[str, Any]:
    denial = "stands" if rules.denial_stands else "yields"
    return {"roles": sorted(rules.roles), "max_minutes": rules.max_minutes, "patient_denial": denial}


def _policy(given: Mapping[str, Any]) -> StandingPolicy:
    name, kind, citation = given.get("id"), given.get("kind"), given.get("citation")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or given.keys() - _KNOWN_POLICY:
        raise SetupWrong(
            "a policy has an id (a-z, 0-9, '.', '-'), kind, citation and rules, nothing that is not known"
        )
    if kind not in ("basis", "default") or not isinstance(citation, str) or not citation.strip():
        raise SetupWrong(f"policy {name} needs kind basis or default, and a citation")
    for key in ("institution", "patient"):
        if key in given and not (isinstance(given[key], str) and given[key]):
            raise SetupWrong(f"policy {name}: {key} must be a text")
    rules = {key: given[key] for key in ("policyRule", "provision") if key in given}
    scope = {"coding": [{"system": CONSENT_SCOPE, "code": "patient-privacy"}]}
    compiled = compile_consent({"resourceType": "Consent", "scope": scope, **rules})
    if not compiled.understood:
        raise SetupWrong(f"policy {name} is not understood: {'; '.join(compiled.problems[:5])}")
    if kind == "basis" and not _is_narrow(compiled):
        raise SetupWrong(f"policy {name}: a legal basis names the actors and purposes of all that it permits")
    return StandingPolicy(name, citation, compiled, given.get("institution"), given.get("patient"))


def _is_narrow(policy: Policy) -> bool:
    permits = [clause for clause in policy.clauses if clause.permits]
    return (
        bool(permits)
        and not (policy.base is not None and policy.base.permits)
        and all(
            any(each.actors for each in clause.conditions) and any(each.purposes for each in clause.conditions)
            for clause in permits
        )
    )


NO_POLICIES: Final = load_policies()
"""A network without policies of its own: what no consent permits is closed."""
