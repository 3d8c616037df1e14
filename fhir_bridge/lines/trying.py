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
    key = _whose(done, received) if trial.is_canary else received.body
    if key is None or not _is_drawn(trial, key):
        return done
    try:
        then = candidate()
        entries, lost = worse(done, then)
        found = tuple(
            ((kind.what, kind.rule, kind.path, kind.code), count) for kind, count in differences(done, then).items()
        )
    except Exception as error:
        return replace(
            done, tried=Tried(trial.ruleset, 1, 0, is_used=False, failed=getattr(error, "code", type(error).__name__))
        )
    account = Tried(trial.ruleset, entries, lost, is_used=trial.is_canary, differences=found)
    return replace(then if trial.is_canary else done, tried=account)


def _whose(done: Processed, received: Received) -> bytes | None:
    """Return what a message is drawn by: its patient's chart; None if it is about several patients."""
    charts = {record.chart.chart for record in done.records if not record.chart.is_directory and record.chart.chart}
    if len(charts) > 1:
        return None
    if charts:
        return charts.pop().encode()
    named = [record.interaction for record in done.records] + [each.interaction for each in done.quarantined]
    return f"{named[0].type}/{named[0].id}".encode() if named and named[0].id else received.body


def _is_drawn(trial: Trial, key: bytes) -> bool:
    drawn = blake3(b"fhir-bridge/trial/1" + bytes.fromhex(trial.ruleset) + key).digest()
    return int.from_bytes(drawn[:8]) % WHOLE < trial.share
