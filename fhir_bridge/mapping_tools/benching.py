"""How fast a pack is, and which of its rules take the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.intake import receive
from fhir_bridge.mapping_tools.sample import LONG_AGO, Message
from fhir_bridge.mapping_tools.watching import Tally, watched
from fhir_bridge.model.ingest import Received, Validated
from fhir_bridge.normalize import Ruleset, load_ruleset
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.message import faults_of, labelled

INTAKE, RULES, AGAIN = "intake", "rules and labels", "validation again"


@dataclass(frozen=True, slots=True)
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
    steps = dict.fromkeys((INTAKE, RULES, AGAIN), 0.0)
    records = 0
    sets = packaged_sets()
    for number, message in enumerate(messages):
        received = Received("bench", plain.fhir_version, message.body, LONG_AGO)
        if number == 0:
            # Definitions are compiled when they are first needed; a service has done that long ago.
            for warm in receive(received, profiles=plain.profiles).entries:
                if isinstance(warm, Validated) and warm.resource is not None:
                    _shaped(warm, plain, sets)
        started = perf_counter()
        reception = receive(received, profiles=plain.profiles)
        steps[INTAKE] += perf_counter() - started
        entries = [each for each in reception.entries if isinstance(each, Validated) and each.resource is not None]
        started = perf_counter()
        drafts = [_shaped(each, plain, sets) for each in entries]
        steps[RULES] += perf_counter() - started
        started = perf_counter()
        for entry, draft in zip(entries, drafts, strict=True):
            if draft is not None:
                faults_of(draft, plain.fhir_version, entry.flags)
        steps[AGAIN] += perf_counter() - started
        for each in entries:
            _shaped(each, counting, sets)
        records += len(reception.entries)
        progress(len(reception.entries))
    return Speed(records, steps, tallies)


def _shaped(entry: Validated, ruleset: Ruleset, sets: Any) -> Draft | None:
    assert entry.resource is not None
    try:
        return labelled(entry.resource, ruleset.fhir_version, ruleset, sets)
    except Unconvertible:
        return None
