"""From a seed to a world's script, and from a script to the script of the world that never held what is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from random import Random

from tests.support.worlds import (
    ASKING,
    INSTITUTIONS,
    Attested,
    Delegate,
    Enrol,
    Json,
    Link,
    Name,
    Open,
    Script,
    Send,
    Sign,
    Step,
    Version,
    Warm,
    Who,
)
from tests.support.worlds_consents import ROLE_SYSTEM, ROLES, Consents, permit_all, plain
from tests.support.worlds_policies import Policies
from tests.support.worlds_records import DOCTORS, TYPES, Chart, Maker
from tests.support.worlds_words import Words

Numbered = tuple[int, Step]
Homes = dict[str, tuple[tuple[str, str], ...]]
_FLAVOURS = ("any", "any", "any", "ended", "silent", "missing", "conditions", "conditions", "revoked", "unlinked")
_BESIDE = ("emergency", "emergency", "emergency", "defaults", "defaults", "bases", "bases", "delegate", "delegate")
"""Worlds where more than consents decides: every fifth."""

_ATTESTED = ("closed", "closed", "papers", "papers", "guardians", "guardians", "guarding")
"""Worlds where an institution's own records can be closed, or where something rests on its word: every tenth."""

_CHANNEL_OF = {"revoked": 7, "ended": 9, "unlinked": 11, "silent": 14, "missing": 15, "conditions": 16} | {
    # A time box is a period; a default policy speaks where no consent does; a basis turns on its conditions;
    # includes reach for types that a delegate may not read.
    "emergency": 9,
    "defaults": 14,
    "bases": 16,
    "delegate": 3,
    # What is closed, and what papers and guardians say, turns on conditions; a guardian's time ends; one who asks
    # must not learn what is linked to the chart.
    "closed": 16,
    "papers": 16,
    "guardians": 9,
    "guarding": 11,
}


def make_script(seed: int) -> Script:
    """Return a world of one to three persons at up to three institutions, with 10 to 60 records."""
    return _Maker(seed).script()


class _Maker:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = Random(seed)
        flavours = _ATTESTED if seed % 10 == 8 else _BESIDE if seed % 5 == 4 else _FLAVOURS
        self._flavour = self._random.choice(flavours)

    def script(self) -> Script:
        homes = self._homes()
        makers = [
            Maker(Chart(institution, person, patient), self._random)
            for person, charts in homes.items()
            for institution, patient in charts
        ]
        steps: list[Step] = [self._first(maker) for maker in makers]
        late = self._random.random() < (0.6 if self._flavour == "unlinked" else 0.2)
        steps += [] if late else self._links(homes)
        enrolled = {person: self._home(charts) for person, charts in homes.items()}
        steps += [Enrol(person, institution) for person, institution in enrolled.items()]
        names = sorted({version.name for maker in makers for version in maker.made})
        consents = Consents(self._random, names)
        signed = [step for person in homes for step in self._signs(person, consents)]
        cut = self._random.randrange(len(signed) + 1)
        steps += signed[:cut]
        steps += [step for maker in makers for step in self._later(maker, consents)]
        steps += self._links(homes) if late else []
        steps += signed[cut:]
        if self._flavour == "revoked":
            steps += [Warm(), *self._revocation(homes, signed)]
        channel = _CHANNEL_OF.get(self._flavour)
        flavours = frozenset([channel] if channel else [])
        if self._flavour in _BESIDE:
            return self._beside(Policies(self._random, homes, consents), steps, homes, flavours)
        if self._flavour in _ATTESTED:
            return self._attested(Words(self._random, homes, consents), steps, homes, flavours)
        return Script(self._seed, self._who(), tuple(steps), homes, flavours)

    def _beside(self, made: Policies, steps: list[Step], homes: Homes, flavours: frozenset[int]) -> Script:
        """Finish a world where a policy, an emergency or a delegate counts."""
        who, policies = self._who(), None
        if self._flavour == "delegate":
            types = tuple(self._random.sample(TYPES, self._random.choice([3, 6, len(TYPES)])))
            types = ("Patient", *types)
            who = Who(None, person="P", purpose="PATRQT", types=types)
            steps.append(Delegate("P", types))
        elif self._flavour == "emergency":
            who = made.emergency_requester()
            if self._random.random() < 0.85:
                steps.append(Sign("P", "c8", made.denial()))
            policies = made.network(made.bases() if self._random.random() < 0.15 else ())
            steps += [made.opened(who) for _ in range(self._random.choice([1, 1, 2]))]
        else:
            who = who if who.person is None else Who(ASKING, "dr-a")
            has_both = self._random.random() < 0.2
            bases = made.bases() if self._flavour == "bases" or has_both else []
            defaults = made.defaults() if self._flavour == "defaults" or has_both else []
            policies = made.network(bases + defaults)
        return Script(self._seed, who, tuple(steps), homes, flavours, policies)

    def _attested(self, made: Words, steps: list[Step], homes: Homes, flavours: frozenset[int]) -> Script:
        """Finish a world where own records can be closed or something rests on an institution's word."""
        who = self._who()
        if self._flavour == "guarding":
            steps = [s for s in steps if not (isinstance(s, Enrol | Sign) and s.person == "P")]
            attested, policies = made.guarding()
            who = Who(None, person="P", purpose="PATRQT", guardian=attested[0].institution)
        else:
            who = who if who.person is None else Who(ASKING, "dr-a")
            attested, policies = {"closed": made.closed, "papers": made.papers, "guardians": made.guardians}[
                self._flavour
            ]()
        return Script(self._seed, who, (*steps, *attested), homes, flavours, policies)

    def _homes(self) -> Homes:
        places = [ASKING, *self._random.sample([name for name in INSTITUTIONS if name != ASKING], 2)]
        homes = {"P": tuple((name, f"pat-p-{name[0]}") for name in places[: self._random.choice([2, 2, 3])])}
        if self._random.random() < 0.7 or self._flavour == "unlinked":
            homes["Q"] = ((places[1], f"pat-q-{places[1][0]}"),)
        if self._random.random() < 0.25 or self._flavour == "unlinked":
            homes["R"] = ((ASKING, "pat-r-n"), (places[1], f"pat-r-{places[1][0]}"))
        return homes

    def _who(self) -> Who:
        if self._random.random() < 0.15:
            return Who(None, person="P", purpose="PATRQT")
        silent = self._flavour == "missing"
        return Who(
            ASKING,
            None if silent else self._random.choice([None, *DOCTORS]),
            self._random.choice(["TREAT", "TREAT", "ETREAT", "BTG", "HRESCH"]),
            None if silent else self._random.choice([None, *(f"{ROLE_SYSTEM}|{role}" for role in ROLES)]),
        )

    def _home(self, charts: Sequence[tuple[str, str]]) -> str:
        return charts[0][0] if self._random.random() < 0.7 else self._random.choice(list(charts))[0]

    def _links(self, homes: Homes) -> list[Step]:
        linked = [person for person, charts in homes.items() if len(charts) > 1 and person != "R"]
        return [Link(person, homes[person]) for person in linked]

    # --- records

    def _first(self, maker: Maker) -> Step:
        made = [maker.patient()]
        made += [maker.record() for _ in range(self._random.randrange(4, 16))]
        return Send(maker.chart.institution, tuple(made))

    def _later(self, maker: Maker, consents: Consents) -> list[Step]:
        """New records, new versions, deletions; never two versions of one record in one message."""
        steps: list[Step] = []
        known = [version for version in maker.made if version.type != "Patient"]
        again = self._random.sample(known, min(len(known), self._random.randrange(1, 6)))
        deleted = [version for version in again if self._random.random() < 0.35]
        changed = [maker.record(version.type, version.id) for version in again if version not in deleted]
        fresh = [maker.record() for _ in range(self._random.randrange(3))]
        first = [*changed, *fresh, *(maker.deleted(version) for version in deleted)]
        if self._random.random() < 0.3 and self._flavour in ("any", "emergency", "defaults"):
            first.append(self._restriction(maker, consents))
        if first:
            steps.append(Send(maker.chart.institution, tuple(first)))
        third = [maker.record(v.type, v.id) for v in [*changed, *deleted] if self._random.random() < 0.3]
        if third:
            steps.append(Send(maker.chart.institution, tuple(third)))
        return steps

    def _restriction(self, maker: Maker, consents: Consents) -> Version:
        """An institution's own Consent about its chart; it says nothing about single records."""
        body: Json = consents.restriction()
        body["provision"].pop("data", None)
        actors = body["provision"].pop("actor", None)
        if actors:
            named = {"identifier": {"system": "urn:fhir-bridge:institution", "value": ASKING}}
            body["provision"]["actor"] = [{"role": actors[0]["role"], "reference": named | {"institution": ASKING}}]
            if actors[0]["role"]["coding"][0]["code"] != "IRCP":
                del body["provision"]["actor"]
        local = f"con-{maker.chart.person.lower()}"
        body |= {"id": local, "patient": {"reference": f"Patient/{maker.chart.patient}"}}
        refers: tuple[Name, ...] = (maker.chart.name("Patient", maker.chart.patient),)
        codes = frozenset(
            f"{c['system']}|{c['code']}" for part in (body["scope"], *body["category"]) for c in part["coding"]
        )
        chart = maker.chart
        days = (date(2026, 2, 1), date(2026, 2, 1))
        return Version(chart.institution, chart.person, "Consent", local, body, (), codes, days, refers)

    # --- consents

    def _signs(self, person: str, consents: Consents) -> list[Step]:
        bodies = self._bodies(person, consents)
        steps: list[Step] = [Sign(person, f"c{number}", body) for number, body in enumerate(bodies)]
        if self._flavour == "any" and steps and self._random.random() < 0.2:
            again = consents.any() if self._random.random() < 0.5 else None
            steps.append(Sign(person, "c0", again))
        return steps

    def _bodies(self, person: str, consents: Consents) -> list[Json]:
        match self._flavour:
            case "silent":
                return [] if person == "P" or self._random.random() < 0.5 else [consents.permit_but()]
            case "ended":
                return [self._ended(consents), *([consents.any()] if self._random.random() < 0.3 else [])]
            case "missing":
                return [self._demanding(consents)]
            case "conditions":
                made = [consents.one_condition()]
                if self._random.random() < 0.15:
                    made.append(consents.unclear())
                return [*made, consents.one_condition()] if self._random.random() < 0.2 else made
            case "revoked" | "unlinked" if person != "Q" or self._random.random() < 0.3:
                wanted = consents.conditions(1) or {"class": [_class("Condition")]}
                narrow = consents.conditions(1) if self._random.random() < 0.3 else {}
                narrow.pop("actor", None)
                return [consents.permit_but(wanted, **narrow)]
            case "any":
                made = [consents.any() for _ in range(self._random.randrange(1, 4))]
                return [
                    *made,
                    *([consents.permit_but(consents.conditions(2))] if self._random.random() < 0.7 else []),
                ]
            case "emergency" | "delegate":
                return [consents.any()] if self._random.random() < 0.6 else []
            case "papers" | "guardians":
                return [consents.any()] if self._random.random() < 0.4 else []
            case "closed":
                said = [consents.any(), consents.one_condition(), consents.denial_to_asking()]
                return self._random.sample(said, self._random.choice([1, 1, 1, 2, 3]))
            case "defaults" | "bases":
                # Denials and silence: what is seen then is what the policies say.
                said = [consents.any(), plain({"type": "deny", **consents.condition()}, "OPTIN")]
                return self._random.sample(said, self._random.choice([0, 0, 1, 1, 2]))
        return []

    def _ended(self, consents: Consents) -> Json:
        """A permit whose period, or that of one provision in it, is over or to come."""
        body = consents.permit_but()
        ended: list[Json] = [
            {"end": "2026-02-27"},
            {"start": "2026-02-01", "end": "2026-03-02T09:29:59Z"},
            {"start": "2026-03-02T09:31:00Z"},
        ]
        period = self._random.choice(ended)
        if self._random.random() < 0.5:
            body["provision"]["period"] = period
            return body
        inner: Json = {"type": "permit", "period": period}
        body["provision"] |= {"class": [_class("Patient"), _class("Encounter")], "provision": [inner]}
        outer = {"type": "permit", "actor": body["provision"]["actor"], "provision": [body["provision"]]}
        body["provision"] = {**outer, "type": "deny"}
        return body

    def _demanding(self, consents: Consents) -> Json:
        """A permit for a practitioner or a role that the token does not state."""
        recipient = consents.permit_but()["provision"]["actor"][0]["role"]
        actors: list[Json] = [
            {"role": recipient, "reference": {"practitioner": "dr-a"}},
            {
                "role": {"coding": [{"system": ROLE_SYSTEM, "code": "nurse"}]},
                "reference": {"institution": ASKING},
            },
        ]
        body = consents.permit_but()
        inner = {"type": "permit", "actor": [self._random.choice(actors)]}
        if self._random.random() < 0.5:
            body["provision"] |= inner
        else:
            denied = {"type": "deny", "actor": inner["actor"], "class": [_class("Observation"), _class("Condition")]}
            body["provision"]["provision"] = [denied]
        return body

    def _revocation(self, homes: Homes, signed: Sequence[Step]) -> list[Step]:
        of_p = [step for step in signed if isinstance(step, Sign) and step.person == "P"]
        if of_p and self._random.random() < 0.5:
            return [Sign("P", of_p[0].id, None)]
        denied: Json = permit_all()
        denied["provision"]["type"] = "deny"
        denied["provision"]["class"] = [_class(name) for name in ("Observation", "Condition", "Encounter")]
        return [Sign("P", "c9", denied)]


def _class(name: str) -> Json:
    return {"system": "http://hl7.org/fhir/resource-types", "code": name}


def without_hidden(script: Script, seen: set[tuple[int, Name]], *, keep_consents: bool) -> list[Numbered]:
    """Return the steps of the world that never held what is not in ``seen``, each with its number.

    What is hidden leaves no trace: no chart, no link to it, no consent of somebody of whom nothing is seen.

    Args:
        keep_consents: Keep the consents as they are where that is possible; else one that permits everything
            stands in their place, because an answer may depend on what may be seen and on nothing else.
    """
    return _Without(script, seen, keep_consents).steps()


class _Without:
    def __init__(self, script: Script, seen: set[tuple[int, Name]], keep_consents: bool) -> None:
        self._script = script
        self._seen = seen
        self._policies: list[Json] = (script.policies or {}).get("policies", [])
        self._first: dict[tuple[str, str], int] = {}
        for number, version in script.versions():
            if (number, version.name) in seen:
                self._first.setdefault((version.institution, version.person), number)
        self._kept = {person for person in script.homes if self._keeps(person, keep_consents)}

    def steps(self) -> list[Numbered]:
        numbered = [(n, kept) for n, step in enumerate(self._script.steps) if (kept := self._of(n, step)) is not None]
        last = len(self._script.steps)
        if self._script.who.person is None:
            for person in self._script.homes:
                numbered += [(last, step) for step in self._permits(person)]
        return numbered

    def _keeps(self, person: str, keep_consents: bool) -> bool:
        if self._script.who.person is not None:
            return person == self._script.who.person
        if not keep_consents or not self._can_open(person) or not self._is_known_to_policies(person):
            return False
        enrolled = [(n, s) for n, s in enumerate(self._script.steps) if isinstance(s, Enrol) and s.person == person]
        words = [(n, s) for n, s in enumerate(self._script.steps) if isinstance(s, Attested) and s.person == person]
        if any(self._first.get((step.institution, person), n) >= n for n, step in words):
            return False
        first = self._first.get((enrolled[0][1].institution, person)) if enrolled else None
        return first is not None and first < enrolled[0][0]

    def _can_open(self, person: str) -> bool:
        """Tell whether all that is left of a person is there whenever emergency access is opened."""
        opened = [n for n, s in enumerate(self._script.steps) if isinstance(s, Open) and s.person == person]
        return all(self._first[place] < number for number in opened for place in self._first if place[1] == person)

    def _is_known_to_policies(self, person: str) -> bool:
        """Tell whether the charts by which policies name a person are left."""
        named = [each["patient"]["patient"] for each in self._policies if "patient" in each]
        return all((institution, p) in self._first for institution, p in named if p == person)

    def _opened(self, step: Open) -> Open:
        """Return how what is left is opened: by the same Patient id, or by that of another chart linked to it."""
        places = [institution for institution, person in self._first if person == step.person]
        if step.institution in places or not places or step.person not in self._kept:
            return step
        return replace(step, institution=places[0])

    def _of(self, number: int, step: Step) -> Step | None:
        if isinstance(step, Send):
            kept = tuple(version for version in step.versions if (number, version.name) in self._seen)
            return replace(step, versions=kept) if kept else None
        if isinstance(step, Link):
            charts = tuple(chart for chart in step.charts if (chart[0], step.person) in self._first)
            return replace(step, charts=charts) if len(charts) > 1 else None
        if isinstance(step, Enrol | Sign | Attested):
            return step if step.person in self._kept else None
        return self._opened(step) if isinstance(step, Open) else step

    def _permits(self, person: str) -> list[Step]:
        """Open what is left of a person's charts elsewhere, chart by chart if they are not linked."""
        if person in self._kept:
            return []
        linked = any(isinstance(s, Link) and s.person == person for s in self._script.steps)
        places = [institution for institution, p in self._first if p == person]
        elsewhere = [place for place in places if place != self._script.who.institution]
        if not elsewhere:
            return []
        return [
            step
            for place in (elsewhere[:1] if linked else elsewhere)
            for step in (Enrol(person, place), Sign(person, f"open-{place}", permit_all()))
        ]
