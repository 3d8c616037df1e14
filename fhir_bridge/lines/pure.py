"""Rooms 1 and 2 as one plain function on values, so that it can run in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.intake import Limits, receive, receive_in_turn
from fhir_bridge.lines.trying import tried
from fhir_bridge.model.ingest import (
    ChartRef,
    Normalized,
    Processed,
    Received,
    Reception,
    Refusal,
    SourceContext,
    Validated,
)
from fhir_bridge.normalize import InTurn, Ruleset, load_ruleset, normalize


def process(received: Received, source: SourceContext, limits: Limits) -> Processed:
    """Decode, validate and normalise one message; pure but for reading rule packs and value sets once.

    A refused entry of a batch leaves its neighbours alone; a refused entry of
    a transaction refuses the whole (``refused``). One ruleset makes the whole
    of it: the one in force, or a canary's.

    Raises:
        RulesetBroken: The institution's rule pack does not load.
    """
    done = _made(received, source, limits)
    trial = source.trial
    if trial is None:
        return done
    other = replace(source, ruleset_dir=trial.ruleset_dir, ruleset=trial.ruleset, trial=None)
    return tried(trial, received, done, lambda: _made(received, other, limits))


def _made(received: Received, source: SourceContext, limits: Limits) -> Processed:
    ruleset = _ruleset(source.ruleset_dir, source.ruleset)
    reception = receive(received, limits, ruleset.profiles, ruleset.formats, ruleset.zone)
    return _normalized(reception, received, source, ruleset)


def _normalized(reception: Reception, received: Received, source: SourceContext, ruleset: Ruleset) -> Processed:
    if reception.refused:
        return Processed(reception.kind, refused=reception.refused, rules=source.ruleset)
    refusals = tuple(entry for entry in reception.entries if isinstance(entry, Refusal))
    if not any(isinstance(entry, Validated) for entry in reception.entries):
        return Processed(reception.kind, refusals=refusals, rules=source.ruleset)
    sets = _sets(source.sets_file, source.sets)
    done = normalize(
        reception,
        source,
        ruleset,
        sets,
        same_as=dict(received.same_as),
        patients=dict(received.patients),
        may_edit=True,
    )
    return Processed(
        reception.kind,
        done.records,
        done.quarantined,
        refusals,
        sets=source.sets,
        wanted=done.wanted,
        rules=source.ruleset,
    )


class Flow:
    """A large message on its way through rooms 1 and 2: its records as they come, none held, then the rest.

    When all were taken, ``done`` is what :func:`process` returns, but for the records, and ``charts`` says whose
    those are that could not say it themselves (:class:`fhir_bridge.normalize.InTurn`). What cannot be taken entry
    by entry is taken whole: what is not a bundle, and what is not strict JSON.
    """

    def __init__(self, received: Received, source: SourceContext, limits: Limits) -> None:
        self._received = received
        self._source = source
        self._limits = limits
        self.done = Processed("single")
        self.charts: Mapping[int, ChartRef | None] = {}

    def __iter__(self) -> Iterator[Normalized]:
        """Yield the records, once.

        Raises:
            RulesetBroken: The institution's rule pack does not load.
        """
        received, source = self._received, self._source
        ruleset = _ruleset(source.ruleset_dir, source.ruleset)
        reception = receive_in_turn(received, self._limits, ruleset.profiles, ruleset.formats, ruleset.zone)
        if reception is None or not any(isinstance(entry, Validated) for entry in reception.entries):
            if reception is None:
                received = replace(received, body=received.content)
                reception = receive(received, self._limits, ruleset.profiles, ruleset.formats, ruleset.zone)
            done = _normalized(reception, received, source, ruleset)
            self.done = replace(done, records=())
            yield from done.records
            return
        sets = _sets(source.sets_file, source.sets)
        in_turn = InTurn(
            reception,
            source,
            ruleset,
            sets,
            same_as=dict(received.same_as),
            patients=dict(received.patients),
        )
        yield from in_turn.records()
        self.charts = in_turn.charts
        self.done = Processed(
            reception.kind,
            quarantined=in_turn.quarantined,
            refusals=tuple(entry for entry in reception.entries if isinstance(entry, Refusal)),
            sets=source.sets,
            wanted=in_turn.wanted,
            rules=source.ruleset,
        )


@lru_cache(maxsize=32)
def _ruleset(directory: str, registered: str) -> Ruleset:
    """Load a pack, and the profiles that it names, once for each content.

    Raises:
        IntegrityBroken: A copy, which lies in a folder named by its hash, holds something else.
    """
    ruleset = load_ruleset(Path(directory))
    if Path(directory).parent.name == registered != ruleset.hash:
        raise IntegrityBroken("the copy of a ruleset holds another: restart the service")
    return ruleset


@lru_cache(maxsize=4)
def _sets(file: str, digest: str) -> LabelSets:
    """Read the value sets in force once; a file that holds others labels nothing."""
    if not digest:
        return packaged_sets()
    sets = LabelSets.decode(Path(file).read_bytes())
    if sets.digest.hex() != digest:
        raise IntegrityBroken("the file of the value sets in force holds others: restart the service")
    return sets
