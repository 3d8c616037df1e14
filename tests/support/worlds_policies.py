"""Make up what decides beside consents: default policies, legal bases, emergencies, and what consents say of them.

For the two-world harness; docs/consent.md ("Policies beside consents") and
docs/access.md ("Emergency access") say what they mean. Everything is named
symbolically (see :class:`tests.support.worlds.Sign`).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.support.worlds import ASKING, Json, Open, Who
from tests.support.worlds_consents import ROLE_SYSTEM, ROLES, Consents, plain, to
from tests.support.worlds_records import DOCTORS, THO

LONGEST_MINUTES = 24 * 60
ADMITTED = f"{ROLE_SYSTEM}|{ROLES[1]}"
"""The one role that may open emergency access."""

_REASON = f"{THO}v3-ActReason"
Homes = dict[str, tuple[tuple[str, str], ...]]


class Policies:
    """Makes policies, and what belongs to them, about given persons."""

    def __init__(self, random: Random, homes: Homes, consents: Consents) -> None:
        self._random = random
        self._homes = homes
        self._consents = consents

    def network(self, policies: Sequence[Json] = ()) -> Json:
        """Return the content of a policies file."""
        denial = self._random.choice(["stands", "stands", "stands", "yields"])
        rules = {"roles": [ADMITTED], "max_minutes": LONGEST_MINUTES, "patient_denial": denial}
        return {"format": 1, "own_records": "open", "emergency": rules, "policies": list(policies)}

    def defaults(self) -> list[Json]:
        """Return one to three default policies, of institutions and of the network."""
        return [self._default(number) for number in range(self._random.randrange(1, 4))]

    def bases(self) -> list[Json]:
        """Return one or two legal bases."""
        return [self._basis(number) for number in range(self._random.randrange(1, 3))]

    def _default(self, number: int) -> Json:
        pick = self._random.random()
        if pick < 0.3:
            body = plain(None, self._random.choice(["OPTIN", "OPTIN", "OPTOUT"]))
        elif pick < 0.55:
            body = self._consents.permit_but(self._consents.condition())
        else:
            body = self._consents.one_condition()
        rules: Json = {name: body[name] for name in ("policyRule", "provision") if name in body}
        made: Json = {"id": f"default-{number}", "kind": "default", "citation": "of the network", **rules}
        return made | self._scope(0.6, 0.1)

    def _basis(self, number: int) -> Json:
        actor = to(ASKING) if self._random.random() < 0.75 else _doctor(self._random.choice(DOCTORS))
        purpose = self._random.choice(["TREAT", "TREAT", "ETREAT", "HRESCH"])
        root: Json = {"type": "permit", "actor": [actor], "purpose": [{"system": _REASON, "code": purpose}]}
        # Its own actors and purposes are what makes it a basis; what else it turns on may be anything.
        also = {k: v for k, v in self._consents.conditions(2).items() if k not in ("actor", "purpose")}
        if self._random.random() < 0.5:
            inner = [{"type": "permit", **self._consents.condition()}] if self._random.random() < 0.3 else []
            root["provision"] = [{"type": "deny", **self._consents.condition(), "provision": inner}]
            if not inner:
                del root["provision"][0]["provision"]
        made: Json = {"id": f"law-{number}", "kind": "basis", "citation": "of the law", "provision": root | also}
        return made | self._scope(0.25, 0.4)

    def _scope(self, of_institution: float, of_person: float) -> Json:
        person = self._random.choice(sorted(self._homes))
        institution = self._random.choice(self._homes[person])[0]
        found: Json = {}
        if self._random.random() < of_institution:
            found["institution"] = institution
        elif self._random.random() < of_person:
            found["patient"] = {"patient": [institution, person]}
        return found

    # --- emergencies

    def denial(self) -> Json:
        """Return a Consent that keeps something from emergencies too, or seems to."""
        purpose = self._random.choice(["ETREAT", "ETREAT", "BTG", "TREAT"])
        denied: Json = {"type": "deny", "purpose": [{"system": _REASON, "code": purpose}]}
        denied |= self._of_records()
        if self._random.random() < 0.35:
            denied["provision"] = [{"type": "permit", **self._of_records()}]
        if self._random.random() < 0.5:
            return plain(denied, self._random.choice(["OPTIN", "OPTOUT", None]))
        named = denied.pop("purpose")
        return plain({"type": "permit", "purpose": named, "provision": [denied]}, "OPTOUT")

    def _of_records(self) -> Json:
        """Return a condition, most often one of records: who asks and when is settled by the emergency."""
        for _ in range(4):
            found = self._consents.condition()
            if not found.keys() & {"actor", "action", "period", "purpose"}:
                return found
        return {k: v for k, v in self._consents.condition().items() if k != "purpose"}

    def opened(self, who: Who) -> Open:
        """Return the step that opens emergency access at some time, by the requester or by somebody else."""
        person = self._random.choice(["P", "P", "P", *sorted(self._homes)])
        institution = self._random.choice(self._homes[person])[0]
        by = self._random.choice([who] * 7 + [Who("harbor", who.practitioner, "BTG", ADMITTED)])
        if self._random.random() < 0.15:
            by = Who(ASKING, "dr-b" if who.practitioner == "dr-a" else "dr-a", "ETREAT", ADMITTED)
        if not by.practitioner or by.role != ADMITTED or by.purpose not in ("ETREAT", "BTG"):
            by = Who(by.institution, by.practitioner or "dr-a", self._random.choice(["ETREAT", "BTG"]), ADMITTED)
        earlier = self._random.choice([1, 30, 90])
        minutes = earlier + self._random.choice([1, 1, 30, 30, 60, -1, -29])
        return Open(by, person, institution, earlier, max(1, minutes))

    def emergency_requester(self) -> Who:
        """Return who opens emergency access, or states all but one thing that it needs."""
        pick = self._random.random()
        return Who(
            ASKING,
            None if pick < 0.03 else self._random.choice(DOCTORS),
            "TREAT" if pick > 0.95 else self._random.choice(["ETREAT", "BTG"]),
            None if 0.03 < pick < 0.06 else f"{ROLE_SYSTEM}|{ROLES[0]}" if 0.06 < pick < 0.12 else ADMITTED,
        )


def _doctor(local: str) -> Json:
    return {"role": to(ASKING)["role"], "reference": {"practitioner": local}}
