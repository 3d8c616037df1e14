"""How fast a pack is, and which of its rules take the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.mapping_tools.sample import Message, taken
from fhir_bridge.mapping_tools.watching import Tally, watched
from fhir_bridge.model.ingest import Validated
from fhir_bridge.normalize import Ruleset, load_ruleset
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.message import faults_of, labelled

INTAKE, RULES, AGAIN = "intake", "rules and labels", "validation again"


@dataclass(slots=True)
class Speed:
    """Seconds for a sample, by step and by rule; reading the file is not among them.

    Attributes:
        steps: Step → seconds: decoding and validation, rules and labels, validation of what they reshaped.
        rules: By name; their seconds were measured in a run of their own, since measuring costs time.
    """

    records: int
    steps: dict[str, float]
    rules: dict[str, Tally]

    @property
    def seconds(self) -> float:
        """All steps."""
        return sum(self.steps.values())


def bench(folder: Path, messages: Iterable[Message], progress: Callable[[int], None] = lambda _: None) -> Speed:
    """Measure the pack in ``folder`` on a sample, on one core.

    Raises:
        RulesetBroken: The pack does not load.
    """
    plain = load_ruleset(folder)
    counting, tallies = watched(plain)
    speed = Speed(0, dict.fromkeys((INTAKE, RULES, AGAIN), 0.0), tallies)
    for number, message in enumerate(messages):
        if number == 0:
            # Definitions are compiled when they are first needed; a service has done that long ago.
            _run(message, plain, dict.fromkeys(speed.steps, 0.0))
        entries = _run(message, plain, speed.steps)
        for each in entries:
            _shaped(each, counting)
        speed.records += len(entries)
        progress(len(entries))
    return speed


def _run(message: Message, ruleset: Ruleset, steps: dict[str, float]) -> list[Validated]:
    """Put one message through every step and add what each took."""
    started = perf_counter()
    reception = taken(message, ruleset)
    taken_at = perf_counter()
    entries = [each for each in reception.entries if isinstance(each, Validated) and each.resource is not None]
    drafts = [_shaped(each, ruleset) for each in entries]
    shaped_at = perf_counter()
    for entry, draft in zip(entries, drafts, strict=True):
        if draft is not None:
            faults_of(draft, ruleset.fhir_version, entry.flags, ruleset.profiles)
    steps[INTAKE] += taken_at - started
    steps[RULES] += shaped_at - taken_at
    steps[AGAIN] += perf_counter() - shaped_at
    return entries


def _shaped(entry: Validated, ruleset: Ruleset) -> Draft | None:
    assert entry.resource is not None
    try:
        return labelled(entry.resource, ruleset.fhir_version, ruleset, packaged_sets())
    except Unconvertible:
        return None
