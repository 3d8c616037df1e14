"""What an import's sender is told: progress, manifest, and the two NDJSON files that the manifest names.

The manifest has the names of the Bulk Data family (HL7 Bulk Data Access IG,
"Response - Complete Status"); what that family has no name for stands under
``extension``, as it asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.lines.import_book import LineResult, Totals, is_problem
from fhir_bridge.lines.import_run import ImportJob
from fhir_bridge.lines.notices import in_entry
from fhir_bridge.lines.reply import NO_STORE, Reply, outcome_reply
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.write import response_bundle
from fhir_bridge.model.ingest import instant

NDJSON: Final = "application/fhir+ndjson"
LINE_SYSTEM: Final = "urn:fhir-bridge:import-line"
"""Names the line that an OperationOutcome (extension) or a response Bundle (identifier) is about."""
FETCHES_NOTHING: Final = (
    "this service fetches nothing: addresses in a request (inputSource, input.url, exportUrl) could make it reach "
    "what only it can reach. Send the lines themselves in the body, with Content-Type: application/fhir+ndjson"
)

_STAYS = "what was taken stays, as if it had been sent by itself"
_UNREAD = Issue(
    "error",
    "exception",
    "the lines behind the last one counted could not be read any more; send the body again: what is there already "
    "changes nothing",
)


def progress(job: ImportJob, totals: Totals) -> Reply:
    """Return the answer while a job runs."""
    wait_s = max(1, min(60, (job.lines - totals.lines) // 1_000))
    headers = (("X-Progress", f"{totals.lines} of {job.lines} lines"), ("Retry-After", str(wait_s)), *NO_STORE)
    return Reply(202, b"", headers)


def manifest(job: ImportJob, totals: Totals, base_url: str, address: str) -> dict[str, Any]:
    """Return what a job has come to."""
    counts = [
        {"outcome": outcome, "type": name, "count": count}
        for outcome, types in sorted(totals.counts.items())
        for name, count in sorted(types.items())
    ]
    said: dict[str, Any] = {
        "received": instant(instant_of(job.received_at_us)),
        "lines": job.lines,
        "linesDone": totals.lines,
        "counts": counts,
        "height": job.height,
    }
    if job.is_broken:
        said["problem"] = operation_outcome([_UNREAD])
    return {
        "transactionTime": instant(instant_of(job.ended_at_us)),
        "request": f"{base_url}/fhir/$import",
        "requiresAccessToken": True,
        "output": _files("Bundle", f"{address}/answers", totals.answers),
        "error": _files("OperationOutcome", f"{address}/problems", totals.problems),
        "extension": {"urn:fhir-bridge:import": said},
    }


def removed(job: ImportJob, totals: Totals) -> Reply:
    """Return the answer to who cancels a job or removes one that has ended."""
    done = f"{totals.lines} of {job.lines} lines were done"
    text = f"cancelled: {done}; {_STAYS}" if job.state == "running" else f"removed: {done}; {_STAYS}"
    return outcome_reply(202, [Issue("information", "informational", text)])


async def problems_of(results: AsyncIterator[LineResult]) -> AsyncIterator[bytes]:
    """Yield an OperationOutcome for each line refused whole, and for each entry refused or quarantined."""
    async for each in results:
        if each.refused:
            yield _problem(each.line, each.refused)
            continue
        for outcome in each.outcomes:
            if is_problem(outcome):
                issues = outcome.issues
                if each.kind != "single":
                    issues = tuple(in_entry(issue, outcome.index) for issue in issues)
                yield _problem(each.line, issues)


async def answers_of(results: AsyncIterator[LineResult], base_url: str) -> AsyncIterator[bytes]:
    """Yield a response Bundle for each line of which something was taken, with locations and receipts."""
    async for each in results:
        if not each.refused and any(outcome.status.startswith("2") for outcome in each.outcomes):
            bundle = response_bundle(each.kind, each.outcomes, base_url)
            line = {"identifier": {"system": LINE_SYSTEM, "value": str(each.line)}}
            yield render({"resourceType": bundle["resourceType"], **line, **bundle}) + b"\n"


def _files(kind: str, url: str, count: int) -> list[dict[str, Any]]:
    return [{"type": kind, "url": url, "count": count}] if count else []


def _problem(line: int, issues: tuple[Issue, ...]) -> bytes:
    told = [replace(each, diagnostics=f"line {line}: {each.diagnostics}") for each in issues]
    outcome = operation_outcome(told)
    where = {"extension": [{"url": LINE_SYSTEM, "valuePositiveInt": line}]}
    return render({"resourceType": outcome["resourceType"], **where, **outcome}) + b"\n"
