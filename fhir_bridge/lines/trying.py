"""Try a ruleset on a message beside the one in force: as a shadow, or for real as a canary.

Pure, in the worker that has just done the message. The rules in force always do it first, so that a canary is
compared with them message by message, and what the candidate does wrong costs time and nothing else.

Invariants:
    * nothing that a candidate raises leaves here;
    * a canary takes whole patients: of one patient's messages it does all or none, as long as its share is the same,
      and none that is about several patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from blake3 import blake3

from fhir_bridge.model.ingest import Processed, Received, Trial, Tried
from fhir_bridge.normalize import differences, worse

WHOLE = 10_000
"""A share of everything."""


def tried(trial: Trial, received: Received, done: Processed, candidate: Callable[[], Processed]) -> Processed:
    """Return ``done``, or what a canary makes where the message falls to it, with the account of the trial."""
    # Whom a quarantined entry is about nobody knows before the candidate has taken it.
    if not (trial.is_canary and done.quarantined) and not _falls_to(trial, received, done):
        return done
    try:
        then = candidate()
        entries, lost = worse(done, then)
        found = tuple(
            ((kind.what, kind.rule, kind.path, kind.code), count) for kind, count in differences(done, then).items()
        )
    except Exception as error:
        code = getattr(error, "code", type(error).__name__)
        return replace(done, tried=Tried(trial.ruleset, 1, 0, is_used=False, failed=code))
    if trial.is_canary and done.quarantined and not _falls_to(trial, received, done, then):
        return done
    account = Tried(trial.ruleset, entries, lost, is_used=trial.is_canary, differences=found)
    return replace(then if trial.is_canary else done, tried=account)


def _falls_to(trial: Trial, received: Received, done: Processed, *then: Processed) -> bool:
    """Tell whether a message falls to a trial, as far as what was made of it tells whom it is about."""
    key = _whose(received, done, *then) if trial.is_canary else received.content
    return key is not None and _is_drawn(trial, key)


def _whose(received: Received, done: Processed, *then: Processed) -> bytes | None:
    """Return what a message is drawn by: its patient's chart; None if it is about several patients."""
    homes = [record.chart for made in (done, *then) for record in made.records]
    charts = {home.chart for home in homes if not home.is_directory and home.chart}
    if len(charts) > 1:
        return None
    if charts:
        return charts.pop().encode()
    named = [record.interaction for record in done.records] + [each.interaction for each in done.quarantined]
    return f"{named[0].type}/{named[0].id}".encode() if named and named[0].id else received.content


def _is_drawn(trial: Trial, key: bytes) -> bool:
    drawn = blake3(b"fhir-bridge/trial/1" + bytes.fromhex(trial.ruleset) + key).digest()
    return int.from_bytes(drawn[:8]) % WHOLE < trial.share
