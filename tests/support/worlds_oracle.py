"""Say what a requester may see of a made-up world, from docs/consent.md alone, plainly and slowly.

For the two-world harness; the judge of the evaluator, so it shares nothing with
it. It walks the JSON of each Consent for each record version, and knows what a
record says from whoever made it up, not from an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

from tests.support.worlds import (
    ASKED_AT,
    Attested,
    Delegate,
    EndGuardian,
    Enrol,
    Guardian,
    Json,
    Link,
    Name,
    Open,
    Paper,
    Script,
    Send,
    Sign,
    Version,
    Warm,
    Who,
    instant_of,
)
from tests.support.worlds_consents import UNHEARD_OF
from tests.support.worlds_records import ACT_CODE, CONFIDENTIALITY, SECTION

LEVELS = "ULMNRV"
PARENTS = {"BTG": "ETREAT", "ERTREAT": "ETREAT", "ETREAT": "TREAT"}
EMERGENCIES = ("ETREAT", "BTG", "ERTREAT")
FREE_TEXT = {"DocumentReference", "Composition"}
ROLE_PREFIX = "http://example.org/roles|"
Chart = tuple[str, str]
"""Institution and person."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A Consent as it counts for one chart; ``adds`` is True for the patient's own."""

    body: Json
    step: int
    adds: bool
    reaches: bool


@dataclass(slots=True)
class Facts:
    """A chart when the questions are asked.

    Attributes:
        records: Versions by record.
        consents: By id.
        linked: Institutions of the charts that count as the same person's, its own among them.
        opened: Who opened emergency access to it, and until when.
        guardian_until: When the time of the guardian ends whom the chart's institution attested.
    """

    records: dict[Name, list[tuple[int, Version]]] = field(default_factory=dict)
    consents: dict[str, Signed] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)
    opened: list[tuple[Who, datetime]] = field(default_factory=list)
    guardian_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One requester before one chart, and what beside consents decides there."""

    who: Who
    institution: str
    consents: Sequence[Signed]
    every: Sequence[Version]
    in_emergency: bool = False
    denial_stands: bool = True
    bases: Sequence[Json] = ()
    defaults: Sequence[Json] = ()
    own_records: str = "open"


def visible(script: Script) -> set[tuple[int, Name]]:
    """Return ``(step, record)`` of every version in the script that the requester may see when asking."""
    charts = charts_of(script)
    found: set[tuple[int, Name]] = set()
    for (institution, person), chart in charts.items():
        every = [v for (_, p), c in charts.items() if p == person for h in c.records.values() for _, v in h]
        asked = _asked(script, (institution, person), chart, every)
        for name, history in chart.records.items():
            if script.who.guardian is not None:
                seen = history if _is_guarded(script, (institution, person), chart) else []
            elif script.who.person is None:
                seen = _of_record(asked, history)
            else:
                is_open = script.who.types is None or name[1] in script.who.types
                seen = history if person == script.who.person and is_open else []
            found |= {(step, name) for step, _ in seen}
    return found


def _asked(script: Script, place: Chart, chart: Facts, every: Sequence[Version]) -> Asked:
    network = script.policies or {}
    rules = network.get("emergency", {})
    admitted = rules.get("roles", ())
    who = script.who
    is_entitled = bool(who.practitioner and who.purpose in EMERGENCIES and who.role in admitted)
    opened = any(_is_same_clinician(who, by) and until > ASKED_AT for by, until in chart.opened)
    policies = [each for each in network.get("policies", ()) if _is_about(each, place, chart)]
    return Asked(
        who,
        place[0],
        list(chart.consents.values()),
        every,
        is_entitled and opened,
        rules.get("patient_denial") != "yields",
        [each for each in policies if each["kind"] == "basis"],
        [each for each in policies if each["kind"] == "default"],
        network.get("own_records", "open"),
    )


def _is_guarded(script: Script, place: Chart, chart: Facts) -> bool:
    """Tell whether the guardian who asks sees a chart: the attesting institution's, or all that are linked to it."""
    institution, person = place
    if person != script.who.person or script.who.guardian not in chart.linked:
        return False
    return institution == script.who.guardian or _attestation(script).get("guardians") == "person"


def _attestation(script: Script) -> Json:
    found: Json = (script.policies or {}).get("attestation", {})
    return found


def _is_same_clinician(one: Who, other: Who) -> bool:
    return (one.institution, one.practitioner) == (other.institution, other.practitioner)


def _is_about(policy: Json, place: Chart, chart: Facts) -> bool:
    if policy.get("institution", place[0]) != place[0] or not _in_period(policy.get("provision", {}).get("period")):
        return False
    if "patient" not in policy:
        return True
    institution, person = policy["patient"]["patient"]
    return person == place[1] and institution in chart.linked


def charts_of(script: Script) -> dict[Chart, Facts]:
    """Play the script on paper."""
    charts: dict[Chart, Facts] = {(i, person): Facts() for person, homes in script.homes.items() for i, _ in homes}
    linked: dict[str, set[str]] = {person: set() for person in script.homes}
    home: dict[str, str] = {}
    covered: dict[tuple[str, str], set[str]] = {}
    for number, step in enumerate(script.steps):
        if isinstance(step, Send):
            for version in step.versions:
                chart = charts[version.institution, version.person]
                chart.records.setdefault(version.name, []).append((number, version))
                if version.type == "Consent":
                    body = version.body or {"status": "inactive"}
                    chart.consents[f"own/{version.id}"] = Signed(body, number, False, True)
        elif isinstance(step, Link):
            linked[step.person] |= {institution for institution, _ in step.charts}
        elif isinstance(step, Enrol):
            home[step.person] = step.institution
        elif isinstance(step, Sign):
            reached = linked[step.person] or {home[step.person]}
            for institution in reached | covered.get((step.person, step.id), set()):
                body = step.body or {"status": "inactive"}
                signed = Signed(body, number, True, institution in reached)
                charts[institution, step.person].consents[step.id] = signed
            covered[step.person, step.id] = reached
        elif isinstance(step, Open):
            until = ASKED_AT + timedelta(minutes=step.minutes - step.earlier_min)
            for institution in _around(linked[step.person], step.institution):
                charts[institution, step.person].opened.append((step.who, until))
        elif not isinstance(step, Delegate | Warm):
            _attest(script, charts[step.institution, step.person], number, step)
    for (institution, person), chart in charts.items():
        chart.linked = _around(linked[person], institution)
        if chart.guardian_until is not None and chart.guardian_until <= ASKED_AT:
            # What a guardian signed permits nothing any more; what it denies stays denied.
            chart.consents = {
                name: replace(each, adds=False) if name.startswith("guardian/") else each
                for name, each in chart.consents.items()
            }
    return charts


def _attest(script: Script, chart: Facts, number: int, step: Attested) -> None:
    """Play what rests on an institution's word; it counts for that institution's chart and no other."""
    allowed = _attestation(script)
    if isinstance(step, Guardian):
        chart.guardian_until = _end(step.until)
    elif isinstance(step, EndGuardian):
        chart.guardian_until = instant_of(number)
    else:
        is_paper = isinstance(step, Paper)
        counts = allowed.get("paper") == "counts" if is_paper else allowed.get("guardians", "refused") != "refused"
        name = f"{'paper' if is_paper else 'guardian'}/{step.id}"
        chart.consents[name] = Signed(step.body or {"status": "inactive"}, number, counts, True)


def _around(linked: set[str], institution: str) -> set[str]:
    return set(linked) if institution in linked else {institution}


def _of_record(asked: Asked, history: list[tuple[int, Version]]) -> list[tuple[int, Version]]:
    shown, is_seen = [], False
    for step, version in history:
        if version.body is not None:
            is_seen = may_see(asked, version)
        if is_seen:
            shown.append((step, version))
    return shown if is_seen else []


def may_see(asked: Asked, version: Version) -> bool:
    """Judge one version as docs/consent.md has it, "Several Consents" and "Policies beside consents"."""
    is_own = asked.who.institution == asked.institution
    if (is_own and asked.own_records == "open") or _is_lawful(asked, version):
        return True
    if asked.in_emergency and not (asked.denial_stands and _is_kept_from_emergencies(asked, version)):
        return True
    live, unclear = _counting(asked.consents)
    by_provision: list[str | None] = []
    by_base: list[str | None] = []
    for each in live:
        may_permit = each.adds and each.reaches and not (unclear and each.step <= max(unclear))
        verdict, is_base = _one(asked.who, version, each.body, may_permit, asked.every)
        (by_base if is_base else by_provision).append(verdict)
    if "deny" in by_provision:
        return False
    if "permit" in by_provision:
        return True
    if is_own and (asked.own_records != "closed-by-any" or "deny" not in by_base):
        return True
    if "deny" in by_base or "permit" in by_base:
        return "deny" not in by_base
    return not unclear and _by_default(asked, version)


def _counting(consents: Sequence[Signed]) -> tuple[list[Signed], list[int]]:
    """Return the consents in force that are understood, and when those were signed that are not."""
    live = [each for each in consents if each.body["status"] == "active" and _in_period(_root(each).get("period"))]
    unclear = [each.step for each in consents if each.body["status"] == "active" and _is_unclear(each.body)]
    return [each for each in live if not _is_unclear(each.body)], unclear


def _is_lawful(asked: Asked, version: Version) -> bool:
    return any(_one(asked.who, version, each, True, asked.every) == ("permit", False) for each in asked.bases)


def _is_kept_from_emergencies(asked: Asked, version: Version) -> bool:
    live, unclear = _counting(asked.consents)
    return any(
        _denies_emergency(replace(asked.who, purpose=purpose), version, each, suspended, asked.every)
        for each in live
        for suspended in [bool(unclear) and each.step <= max(unclear)]
        for purpose in EMERGENCIES
    )


def _denies_emergency(who: Who, version: Version, signed: Signed, suspended: bool, every: Sequence[Version]) -> bool:
    """Tell whether a denial that names an emergency purpose is the deepest that matches."""
    found: list[tuple[int, str]] = []
    for chain in _chains(_root(signed), []):
        kind = chain[-1].get("type")
        named = {each["code"] for node in chain for each in node.get("purpose", ())} & set(EMERGENCIES)
        counts = bool(named) if kind == "deny" else signed.reaches and not suspended
        if (
            kind
            and counts
            and all(_holds(who, version, chain, place, signed.body, every) for place in range(len(chain)))
        ):
            found.append((len(chain), kind))
    return (max((depth for depth, _ in found), default=0), "deny") in found


def _by_default(asked: Asked, version: Version) -> bool:
    """Judge by the policies of the chart's institution, then by those of the network."""
    for is_networks in (False, True):
        level = [each for each in asked.defaults if ("institution" not in each) is is_networks]
        said = [_one(asked.who, version, each, True, asked.every) for each in level]
        for rank in (False, True):
            verdicts = {verdict for verdict, is_base in said if is_base is rank and verdict}
            if verdicts:
                return "deny" not in verdicts
    return False


def _root(signed: Signed) -> Json:
    root: Json = signed.body.get("provision", {})
    return root


def _is_unclear(body: Json) -> bool:
    if any(not each["verified"] for each in body.get("verification", ())):
        return True
    root = body.get("provision", {})
    if any(a["coding"][0]["system"] == UNHEARD_OF for a in root.get("action", ())):
        return True
    actors = [a for chain in _chains(root, []) for a in chain[-1].get("actor", ())]
    return any("display" in actor["reference"] for actor in actors)


def _one(
    who: Who, version: Version, body: Json, may_permit: bool, every: Sequence[Version]
) -> tuple[str | None, bool]:
    found = [
        (len(chain), chain[-1]["type"])
        for chain in _chains(body.get("provision", {}), [])
        if "type" in chain[-1]
        and (may_permit or chain[-1]["type"] == "deny")
        and all(_holds(who, version, chain, place, body, every) for place in range(len(chain)))
    ]
    if found:
        deepest = max(depth for depth, _ in found)
        kinds = {kind for depth, kind in found if depth == deepest}
        return ("deny" if "deny" in kinds else "permit"), False
    rule = _rule(body)
    root = body.get("provision", {})
    top = [root] if "type" in root else root.get("provision", [])
    if rule == "OPTOUT":
        return "deny", True
    narrowed = any(each["type"] == "permit" for each in top)
    return ("permit" if rule == "OPTIN" and may_permit and not narrowed else None), True


def _rule(body: Json) -> str | None:
    return str(body["policyRule"]["coding"][0]["code"]) if "policyRule" in body else None


def _chains(node: Json, above: list[Json]) -> list[list[Json]]:
    chain = [*above, node]
    return [chain] + [each for child in node.get("provision", []) for each in _chains(child, chain)]


def _holds(who: Who, version: Version, chain: list[Json], place: int, body: Json, every: Sequence[Version]) -> bool:
    node, deciding = chain[place], chain[-1]["type"]
    stated = node.get("type") or ("permit" if _rule(body) == "OPTIN" else "deny")
    if not _in_period(node.get("period")):
        return False
    if "actor" in node and not _is_actor(who, node["actor"], deciding):
        return False
    if "purpose" in node and not _has_purpose(who, node["purpose"]):
        return False
    if "action" in node and not any(a["coding"][0]["code"] in ("access", "disclose", "use") for a in node["action"]):
        return False
    replaced = any("securityLabel" in later for later in chain[place + 1 :])
    if "securityLabel" in node and not replaced and not _has_label(version, node["securityLabel"], stated):
        return False
    if "code" in node and not _has_code(version, node["code"], stated):
        return False
    if "class" in node and version.type not in [each["code"] for each in node["class"]]:
        return False
    if "data" in node and not any(_is_data(version, each, stated, every) for each in node["data"]):
        return False
    return "dataPeriod" not in node or _is_of(version, node["dataPeriod"], stated)


def _is_actor(who: Who, actors: list[Json], deciding: str) -> bool:
    answers = []
    for each in actors:
        reference = each["reference"]
        tests: list[bool | None] = []
        if "institution" in reference:
            tests.append(reference["institution"] == who.institution)
        else:
            tests.append(None if who.practitioner is None else reference["practitioner"] == who.practitioner)
        coding = each["role"]["coding"][0]
        if coding["code"] != "IRCP":
            tests.append(None if who.role is None else f"{coding['system']}|{coding['code']}" == who.role)
        answers.append(False if False in tests else None if None in tests else True)
    return True in answers or (deciding == "deny" and None in answers)


def _has_purpose(who: Who, purposes: list[Json]) -> bool:
    name: str | None = who.purpose
    while name:
        if name in [each["code"] for each in purposes]:
            return True
        name = PARENTS.get(name)
    return False


def _has_label(version: Version, wanted: list[Json], stated: str) -> bool:
    levels = [LEVELS.index(each.split("|")[1]) for each in version.labels if each.startswith(CONFIDENTIALITY)]
    for each in wanted:
        if each["system"] == CONFIDENTIALITY:
            mark = LEVELS.index(each["code"])
            if levels and (max(levels) <= mark if stated == "permit" else max(levels) >= mark):
                return True
        elif f"{each['system']}|{each['code']}" in version.labels:
            return True
    return stated == "deny" and _is_free_text(version)


def _has_code(version: Version, wanted: list[Json], stated: str) -> bool:
    names = {f"{c['system']}|{c['code']}" for each in wanted for c in each["coding"]}
    return bool(names & version.codes) or (stated == "deny" and _is_free_text(version))


def _is_free_text(version: Version) -> bool:
    report = version.type == "DiagnosticReport" and not any(code.startswith(SECTION) for code in version.codes)
    if not report and version.type not in FREE_TEXT:
        return False
    return not any(label.startswith((CONFIDENTIALITY, ACT_CODE)) for label in version.labels)


def _is_data(version: Version, data: Json, stated: str, every: Sequence[Version]) -> bool:
    name: Name = tuple(data["reference"]["record"])
    is_it, refers = version.name == name, name in version.refers
    if data["meaning"] == "instance":
        return is_it
    if data["meaning"] == "dependents":
        return is_it or refers
    if data["meaning"] == "authoredby":
        return name in (version.authors if stated == "permit" else version.refers)
    named = any(version.name in each.refers for each in every if each.name == name)
    return is_it or refers or (stated == "deny" and named)


def _is_of(version: Version, period: Json, stated: str) -> bool:
    if version.days is None:
        return stated == "deny"
    low, high = date.fromisoformat(period["start"]), date.fromisoformat(period["end"])
    first, last = version.days
    return (low <= first and last <= high) if stated == "permit" else (first <= high and low <= last)


def _in_period(period: Json | None) -> bool:
    if period is None:
        return True
    return _start(period.get("start")) <= ASKED_AT and _end(period.get("end")) > ASKED_AT


def _start(text: str | None) -> datetime:
    if text is None:
        return datetime(1, 1, 1, tzinfo=UTC)
    if len(text) > 10:
        return datetime.fromisoformat(text)
    return datetime.fromisoformat(text if len(text) == 10 else f"{text}-01").replace(tzinfo=UTC)


def _end(text: str | None) -> datetime:
    """The first instant after the end; an end is included to the precision it is written in."""
    if text is None:
        return datetime(9999, 1, 1, tzinfo=UTC)
    return _start(text) + (timedelta(seconds=1) if len(text) > 10 else timedelta(days=1))
