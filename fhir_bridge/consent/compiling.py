"""Turn a FHIR Consent into a policy, or say exactly why it cannot be.

For whoever stores or evaluates a Consent. Nothing is skipped silently: an
element that could change the outcome and is not known here makes the Consent
"not understood", which grants nothing (docs/consent.md has every reading).

Invariants:
    * never raises for any JSON object: what cannot be read is a problem;
    * problems name places, never values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fhir_bridge.consent.conditions import read_conditions
from fhir_bridge.consent.policy import Clause, Conditions, Policy
from fhir_bridge.consent.reading import KNOWN_TOP, Problems, codings, refuse_unknown
from fhir_bridge.consent.releases import consent_in_r4
from fhir_bridge.consent.vocabulary import ACT_CODE, ACT_REASON, CONSENT_SCOPE, PCF_POLICY
from fhir_bridge.fhir.dates import ALWAYS, period
from fhir_bridge.model.ingest import FhirVersion

MAX_DEPTH = 40
"""Nesting beyond this is not understood; the deepest one seen in the wild is 3."""

MAX_PROVISIONS = 2_000

_PRIVACY_SCOPES = frozenset({"patient-privacy", "research"})
_OTHER_SCOPES = frozenset({"adr", "treatment"})

_PCF_BASES: dict[str, Conditions | bool] = {
    "Policy-all-normal": True,
    "Policy-deny": False,
    "Policy-break-glass-only": False,
    "Policy-basic-normal": Conditions(True, purposes=frozenset({f"{ACT_REASON}|TREAT"})),
}


def compile_consent(
    body: dict[str, Any], *, base_url: str | None = None, release: FhirVersion = FhirVersion.R4
) -> Policy:
    """Compile a decoded Consent of R4, R4B or R5.

    Args:
        release: How ``body`` is to be read; R4B is read as R4, and a release without a reading is not understood.
        base_url: Our own FHIR base, without a slash at its end.
        body: The resource as decoded JSON. Its status is not looked at: whether a
            Consent is in force is a matter of its entry in the chart's list.
    """
    problems = Problems(base_url)
    if release is FhirVersion.R5:
        body = consent_in_r4(body)
    elif release is FhirVersion.STU3:
        problems.add("Consent", "is of a release that is not evaluated")
    refuse_unknown(body, KNOWN_TOP, "Consent", problems)
    if body.get("resourceType") != "Consent":
        problems.add("Consent", "is no Consent")
    scope = _scope(body, problems)
    _check_sides(body, problems)
    compiled = _Compiler(problems).run(body)
    if problems.found:
        return Policy(understood=False, problems=tuple(problems.found))
    return compiled if scope else Policy(understood=True, valid=compiled.valid)


def _scope(body: dict[str, Any], problems: Problems) -> bool:
    """Return False for a Consent to something else than the flow of data (treatment, advance directive)."""
    names = {
        code for system, code in codings(body.get("scope"), "Consent.scope", problems) if system == CONSENT_SCOPE
    }
    if names & _PRIVACY_SCOPES:
        return True
    if names and names <= _OTHER_SCOPES:
        return False
    problems.add("Consent.scope", "is not a known scope")
    return False


def _check_sides(body: dict[str, Any], problems: Problems) -> None:
    for item in body.get("verification") or ():
        if not (isinstance(item, dict) and item.get("verified") is True):
            problems.add("Consent.verification", "says that the Consent is not verified")
        elif "modifierExtension" in item:
            problems.add("Consent.verification.modifierExtension", "is not understood")
    for item in body.get("policy") or ():
        if isinstance(item, dict) and "modifierExtension" in item:
            problems.add("Consent.policy.modifierExtension", "is not understood")


@dataclass(slots=True)
class _Compiler:
    problems: Problems
    clauses: list[Clause] = field(default_factory=list)

    def run(self, body: dict[str, Any]) -> Policy:
        base = self._base(body)
        root = body.get("provision")
        if root is None:
            root = {}
            if base is None:
                self.problems.add("Consent", "has no base rule that is known and no provision")
        if not isinstance(root, dict):
            self.problems.add("Consent.provision", "is not an object")
            return Policy(understood=False)
        stated = root.get("type")
        polarity = stated == "permit" if stated else base is not None and base.permits
        conditions = read_conditions(root, polarity, "Consent.provision", self.problems)
        if stated is None:
            base = self._untyped_root(base, conditions, root)
        self._provision(root, conditions, (), 0, "Consent.provision")
        self.clauses.sort(key=lambda clause: (-clause.depth, clause.permits))
        return Policy(
            understood=True,
            clauses=tuple(self.clauses),
            base=self._reach(base, stated),
            valid=period(root.get("period")) or ALWAYS,
        )

    def _base(self, body: dict[str, Any]) -> Clause | None:
        """Return the base rule from ``policyRule`` or, failing that, from a policy of IHE PCF."""
        rule = body.get("policyRule")
        if rule is not None:
            known = {c for s, c in codings(rule, "Consent.policyRule", self.problems) if s == ACT_CODE}
            if known == {"OPTIN"}:
                return Clause(True, 0, "Consent.policyRule", ())
            if known == {"OPTOUT"}:
                return Clause(False, 0, "Consent.policyRule", ())
            self.problems.add("Consent.policyRule", "is neither OPTIN nor OPTOUT of v3-ActCode")
            return None
        return self._base_of_policies(body)

    def _base_of_policies(self, body: dict[str, Any]) -> Clause | None:
        root = body.get("provision")
        is_typed = isinstance(root, dict) and root.get("type") is not None
        policies = body.get("policy") or ()
        uris = {item["uri"] for item in policies if isinstance(item, dict) and isinstance(item.get("uri"), str)}
        # With a typed root (IHE PCF) the provisions say all that is granted, whatever
        # text the URI stands for: PCF's notes on each example read it so.
        if is_typed:
            return None
        names = {uri.removeprefix(PCF_POLICY) for uri in uris}
        if len(names) != 1 or not (names <= _PCF_BASES.keys()):
            self.problems.add("Consent.policy", "names no base rule that is known, and the root states no type")
            return None
        base = _PCF_BASES[names.pop()]
        if isinstance(base, Conditions):
            return Clause(True, 0, "Consent.policy", (base,))
        return Clause(base, 0, "Consent.policy", ())

    def _untyped_root(self, base: Clause | None, conditions: Conditions, root: dict[str, Any]) -> Clause | None:
        """Return the base rule within the conditions of a root that states no type.

        HL7's own examples use such conditions in both senses, as the scope of the
        base rule and as an exception to it. Only where the nested provisions make
        sense in one of them alone is it clear that they are the scope.
        """
        if base is None:
            return None
        if not conditions.is_empty:
            nested = [item.get("type") for item in _objects(root.get("provision"))]
            opposite = "deny" if base.permits else "permit"
            if not nested or any(kind != opposite for kind in nested):
                self.problems.add("Consent.provision.type", "is absent, so its conditions could mean either way")
        return replace(base, conditions=(*base.conditions, conditions))

    def _reach(self, base: Clause | None, root_type: object) -> Clause | None:
        """Drop a permitting base rule that top provisions narrow.

        Under a base that permits, a permit at the top could say nothing at all; so
        whoever writes one names those who are meant, and nobody else is.
        """
        top = 0 if root_type is not None else 1
        narrowed = any(clause.permits and clause.depth == top for clause in self.clauses)
        return None if base is not None and base.permits and narrowed else base

    def _provision(
        self, item: dict[str, Any], own: Conditions, above: tuple[Conditions, ...], depth: int, path: str
    ) -> None:
        kind = item.get("type")
        if kind not in ("permit", "deny") and not (kind is None and depth == 0):
            self.problems.add(f"{path}.type", "is neither permit nor deny")
        if len(self.clauses) >= MAX_PROVISIONS or depth > MAX_DEPTH:
            self.problems.add(path, "is beyond the number or depth of provisions that are read")
            return
        held = _with_nearest_labels(above, own)
        if kind in ("permit", "deny"):
            self.clauses.append(Clause(kind == "permit", depth, path, held))
        children = item.get("provision")
        if children is not None and not isinstance(children, list):
            self.problems.add(f"{path}.provision", "is not a list")
            return
        for index, child in enumerate(children or ()):
            self._child(child, held, depth + 1, f"{path}.provision[{index}]")

    def _child(self, child: object, held: tuple[Conditions, ...], depth: int, path: str) -> None:
        if not isinstance(child, dict):
            self.problems.add(path, "is not an object")
            return
        own = read_conditions(child, child.get("type") == "permit", path, self.problems)
        self._provision(child, own, held, depth, path)


def _with_nearest_labels(above: tuple[Conditions, ...], own: Conditions) -> tuple[Conditions, ...]:
    """Join a provision's conditions to its ancestors'; labels that it states replace theirs.

    IHE PCF permits "normal" data at the root and restricted data to somebody in a
    nested provision; were the root's label to hold for that one too, it would
    never apply (53.2.4 and the notes on its advanced examples).
    """
    if own.labels:
        above = tuple(replace(each, labels=frozenset()) for each in above)
    return (*above, own)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield item
