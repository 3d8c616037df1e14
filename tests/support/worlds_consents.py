"""Make up consents of every shape that is evaluated: nested provisions, periods, actors, purposes, labels, codes …

For the two-world harness. Records and institutions are named symbolically
(see :class:`tests.support.worlds.Sign`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

from tests.support.worlds import ASKED_AT, ASKING, INSTITUTIONS, Json, Name
from tests.support.worlds_records import (
    ACT_CODE,
    CODES,
    CONFIDENTIALITY,
    DOCTORS,
    FIRST_DAY,
    LOINC,
    SECTION,
    THO,
    TOPICS,
    TYPES,
)

ROLE_SYSTEM = "http://example.org/roles"
ROLES = ("cardiologist", "nurse")
UNHEARD_OF = "http://example.org/unheard-of"
PURPOSES = ("TREAT", "ETREAT", "HRESCH", "HPAYMT")
MEANINGS = ("instance", "related", "dependents", "dependents", "authoredby")
_RECIPIENT = {"coding": [{"system": f"{THO}v3-ParticipationType", "code": "IRCP"}]}


def plain(provision: Json | None, rule: str | None, **more: Any) -> Json:
    """Return a privacy Consent."""
    base: Json = {"policyRule": {"coding": [{"system": ACT_CODE, "code": rule}]}} if rule else {}
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": f"{THO}consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": LOINC, "code": "59284-0"}]}],
        "dateTime": "2026-02-01",
        **(base or {"policy": [{"uri": "http://example.org/policies/base.txt"}]}),
        **({"provision": provision} if provision is not None else {}),
        **more,
    }


def to(institution: str) -> Json:
    """Return an actor: an institution that receives data."""
    return {"role": _RECIPIENT, "reference": {"institution": institution}}


def permit_all(institution: str = ASKING) -> Json:
    """Return a Consent that shows an institution everything."""
    return plain({"type": "permit", "actor": [to(institution)]}, "OPTOUT")


class Consents:
    """Makes consents about given records."""

    def __init__(self, random: Random, records: Sequence[Name]) -> None:
        self._random = random
        self._records = list(records)

    def any(self) -> Json:
        """Return one of any shape; about one in twelve is not understood, as many have ended."""
        pick = self._random.random()
        if pick < 0.08:
            return self.unclear()
        if pick < 0.14:
            return plain(None, self._random.choice(["OPTIN", "OPTOUT"]))
        if pick < 0.3:
            return self._untyped()
        return self._typed()

    def permit_but(self, deny: Json | None = None, **narrowing: Any) -> Json:
        """Return a permit to the asking institution with one thing denied."""
        root: Json = {"type": "permit", "actor": [to(ASKING)], **narrowing}
        if deny is not None:
            root["provision"] = [{"type": "deny", **deny}]
        return plain(root, self._random.choice(["OPTOUT", None]))

    def restriction(self) -> Json:
        """Return what an institution records about its own chart: only denials count."""
        return plain({"type": "deny", **self.conditions(1)}, "OPTIN")

    def denial_to_asking(self) -> Json:
        """Return a denial that reaches the asking institution by a provision or by its base rule."""
        base = plain(None, "OPTOUT")
        whole: Json = {"type": "deny", "actor": [to(ASKING)]}
        narrow = whole | self.condition()
        excepted = whole | {"provision": [{"type": "permit", **self.condition()}]}
        bodies = [
            base,
            base,
            base,
            plain(narrow, "OPTIN"),
            plain(narrow, None),
            plain(excepted, "OPTIN"),
            plain(excepted, "OPTOUT"),
        ]
        return self._random.choice(bodies)

    def _typed(self) -> Json:
        root = self._provision(0)
        if root["type"] == "permit" and self._random.random() < 0.6:
            root["actor"] = [to(ASKING)]
        if self._random.random() < 0.25:
            root["period"] = self._period()
        status = self._random.choice(["active"] * 9 + ["inactive", "rejected"])
        return plain(root, self._random.choice(["OPTIN", "OPTOUT", None]), status=status)

    def _untyped(self) -> Json:
        rule = self._random.choice(["OPTIN", "OPTOUT"])
        nested = [self._provision(1) for _ in range(self._random.randrange(1, 3))]
        root: Json = {"provision": nested}
        if self._random.random() < 0.2:
            root["period"] = self._period()
        return plain(root, rule)

    def unclear(self) -> Json:
        """Return a valid Consent whose meaning is not known: docs/consent.md, "Not understood"."""
        body = self._typed()
        pick = self._random.randrange(3)
        if pick == 0:
            body["verification"] = [{"verified": False}]
        elif pick == 1:
            body["provision"]["action"] = [self._concept(UNHEARD_OF, ("look",))]
        else:
            body["provision"]["actor"] = [{"role": _RECIPIENT, "reference": {"display": "somebody"}}]
        return body | {"status": "active"}

    def _provision(self, depth: int) -> Json:
        made: Json = {"type": self._random.choice(["permit", "permit", "deny"])} | self.conditions(2)
        if depth < 2 and self._random.random() < 0.5:
            made["provision"] = [self._provision(depth + 1) for _ in range(self._random.randrange(1, 3))]
        return made

    def conditions(self, most: int) -> Json:
        """Return up to ``most`` conditions of one provision."""
        return self._conditions(self._random.randrange(most + 1))

    def condition(self) -> Json:
        """Return exactly one condition."""
        return self._conditions(1)

    def one_condition(self) -> Json:
        """Return a Consent that turns on one condition, as a permit, a denial, an exception or a tie."""
        to_asking: Json = {"actor": [to(ASKING)]}
        first, second = self.condition(), self.condition()
        permits, denies = {"type": "permit", **to_asking}, {"type": "deny", **first}
        inner = {"type": "permit"} | second
        roots: list[Json] = [
            {**permits, **first},
            {**permits, "provision": [denies]},
            {**permits, "provision": [{**denies, "provision": [inner]}]},
            {**permits, "provision": [inner, denies]},
            {**permits, **first, "provision": [inner]},
            {**permits, "actor": [to("eastlake")], "provision": [inner]},
            {"type": "deny", **to_asking, "provision": [{**inner, "provision": [denies]}]},
        ]
        return plain(self._random.choice(roots), self._random.choice(["OPTIN", "OPTOUT", None]))

    def _conditions(self, count: int) -> Json:
        makers: dict[str, Callable[[], Any]] = {
            "actor": lambda: [self._actor()],
            "purpose": lambda: [self._coding(f"{THO}v3-ActReason", PURPOSES)],
            "action": lambda: [self._concept(f"{THO}consentaction", ("access", "disclose", "collect"))],
            "securityLabel": lambda: [self._label()],
            "class": lambda: self._classes(),
            "code": lambda: [self._code()],
            "dataPeriod": lambda: self.data_period(),
            "data": lambda: [self._data()],
            "period": lambda: self._period(),
        }
        # Labels and references have most to say (levels, topics, free text; four meanings): they come more often.
        names = sorted(makers) if count != 1 else [*sorted(makers), "securityLabel", "securityLabel", "data"]
        return {name: makers[name]() for name in self._random.sample(names, count)}

    def _actor(self) -> Json:
        pick = self._random.random()
        if pick < 0.5:
            return to(self._random.choice([ASKING, ASKING, *INSTITUTIONS]))
        if pick < 0.75:
            return {"role": _RECIPIENT, "reference": {"practitioner": self._random.choice(DOCTORS)}}
        role = self._concept(ROLE_SYSTEM, ROLES)
        return {"role": role, "reference": {"institution": ASKING}}

    def _label(self) -> Json:
        if self._random.random() < 0.5:
            return {"system": CONFIDENTIALITY, "code": self._random.choice(["N", "R", "V"])}
        return self._coding(ACT_CODE, TOPICS)

    def _classes(self) -> list[Json]:
        system = "http://hl7.org/fhir/resource-types"
        picked = self._random.sample([*TYPES, "Patient"], self._random.randrange(1, 4))
        return [{"system": system, "code": each} for each in picked]

    def _code(self) -> Json:
        if self._random.random() < 0.15:
            return self._concept(SECTION, ("LAB",))
        return self._concept(LOINC, CODES)

    def _data(self) -> Json:
        meaning = self._random.choice(MEANINGS)
        # Most records refer to an encounter or a condition, if to anything but their patient; and what the asking
        # institution wrote itself stays open to it anyway.
        often = [each for each in self._records if each[1] in ("Encounter", "Condition") and each[0] != ASKING]
        name = self._random.choice(often if often and self._random.random() < 0.7 else self._records)
        if meaning == "authoredby":
            name = (name[0], "Practitioner", self._random.choice(DOCTORS))
        return {"meaning": meaning, "reference": {"record": list(name)}}

    def data_period(self) -> Json:
        """Return a span of clinical time."""
        start = FIRST_DAY + timedelta(days=self._random.randrange(500))
        return {"start": str(start), "end": str(start + timedelta(days=self._random.randrange(60, 400)))}

    def _period(self) -> Json:
        """Return a period that is over, to come, or now, by minutes or by months."""
        today = ASKED_AT.date()
        choices: list[Json] = [
            {"end": "2026-02-27"},
            {"start": "2026-02-01", "end": "2026-03-02T09:29:59Z"},
            {"start": "2026-02-01", "end": "2026-03-02T09:30:00Z"},
            {"start": "2026-03-02T09:31:00Z"},
            {"start": "2026-01-01", "end": str(today)},
            {"start": "2026-01"},
        ]
        return self._random.choice(choices)

    def _coding(self, system: str, codes: Sequence[str]) -> Json:
        return {"system": system, "code": self._random.choice(codes)}

    def _concept(self, system: str, codes: Sequence[str]) -> Json:
        return {"coding": [self._coding(system, codes)]}
