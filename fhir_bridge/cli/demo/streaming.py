"""The scene in which records stream in: three feeds side by side, with counts and rates as they go."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import Progress, TaskID

from fhir_bridge.cli import service
from fhir_bridge.cli.demo.cast import Cast, Hospital
from fhir_bridge.cli.demo.pictures import Pictures
from fhir_bridge.cli.demo.stage import Stage, finish
from fhir_bridge.cli.failing import Failure

_LOOK_S = 0.5


def stream(stage: Stage, pictures: Pictures, cast: Cast) -> None:
    """Feed every hospital's directory and bundles, show counts while they go, and tell what came of it."""
    for hospital in cast.hospitals:
        pictures.command("ingest --institution", hospital.name, "directory.json.gz", hospital.bundles.name)
    began = time.monotonic()
    feeds = {hospital.name: _begin(stage, hospital) for hospital in cast.hospitals}
    with pictures.progress() as progress:
        _watch(stage, feeds, progress, _expected(cast.hospitals))
    results = [json.loads(finish(feed, ("ingest", name))) for name, feed in feeds.items()]
    _tell(pictures, results, time.monotonic() - began)


def _begin(stage: Stage, hospital: Hospital) -> subprocess.Popen[str]:
    files = (str(hospital.directory), str(hospital.bundles))
    return stage.begin("ingest", "--institution", hospital.name, "--json", *files)


def _watch(
    stage: Stage, feeds: Mapping[str, subprocess.Popen[str]], progress: Progress, expected: tuple[int, int]
) -> None:
    messages, entries = expected
    totals = {"messages received": messages, "entries normalised": entries, "records sealed": entries}
    bars = {name: progress.add_task(f"{name:<18}", total=totals.get(name), note="") for name in _STAGES}
    began = time.monotonic()
    while any(feed.poll() is None for feed in feeds.values()):
        time.sleep(_LOOK_S)
        if not progress.disable:
            _show(progress, bars, service.get(stage.data, "/status"), time.monotonic() - began)


_STAGES = {
    "messages received": ("counters", "messages"),
    "entries normalised": ("counters", "entries"),
    "records sealed": ("vault", "records"),
    "batches anchored": ("vault", "batches"),
}
"""What the scene shows, each a bar, and where the service's status tells it."""


def _show(progress: Progress, bars: Mapping[str, TaskID], status: Mapping[str, Any], seconds: float) -> None:
    for name, bar in bars.items():
        group, counter = _STAGES[name]
        count = int(status[group][counter])
        progress.update(bar, completed=count, note=f"{count:>6,}  {count / seconds:6,.0f}/s")


def _expected(hospitals: Sequence[Hospital]) -> tuple[int, int]:
    """Return how many messages and entries will be sent."""
    sizes = [len(json.loads(message)["entry"]) for hospital in hospitals for message in _messages(hospital)]
    return len(sizes), sum(sizes)


def _messages(hospital: Hospital) -> list[bytes]:
    return [gzip.decompress(hospital.directory.read_bytes()), *hospital.bundles.read_bytes().splitlines()]


def _tell(pictures: Pictures, results: list[dict[str, Any]], seconds: float) -> None:
    rows = []
    for result in results:
        outcomes = result["outcomes"]
        if result["refused_messages"]:
            raise Failure(f"{result['institution']}: {result['refused_messages']} messages were refused")
        rows.append(
            (
                result["institution"],
                f"{result['messages']:,}",
                f"{result['entries']:,}",
                f"{outcomes.get('201', 0):,}",
                f"{outcomes.get('200', 0):,}",
                f"{outcomes.get('202', 0):,}",
                f"{result['entries_per_second']:,.0f}",
            )
        )
    pictures.table(("institution", "messages", "entries", "created", "unchanged", "quarantined", "entries/s"), rows)
    total = sum(result["entries"] for result in results)
    pictures.proved(f"{total:,} entries received, normalised, sealed and anchored in {seconds:.0f} s")
