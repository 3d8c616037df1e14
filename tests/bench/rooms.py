"""Where the time of a bundle goes, room by room; and how fast the validators are alone. Processor time, one core.

A whole bridge runs in this process without workers, one bundle at a time, so that whatever is spent between two
points was spent there. What crosses between processes in a real service is measured beside it.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, TypeVar

from fhir_bridge.fhir.bundles import cut
from fhir_bridge.fhir.compile import Compiled, compile_release
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.run import Run
from fhir_bridge.fhir.tables import Element, TypeRow, r4
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.intake import Limits
from fhir_bridge.intake.bundles import receive_bundle
from fhir_bridge.lines.keeping import decode, encode
from fhir_bridge.model.ingest import FhirVersion, Processed, Received, SourceContext
from fhir_bridge.normalize import load_ruleset, normalize
from tests.bench.feeding import FEED, Figures
from tests.bench.hapi_ingest import transactions
from tests.support.bridge_world import World, fresh, running
from tests.support.hospitals import FOLDER, MAPPINGS

AIMS = {
    "validators.structural_per_s": "15,000 or more",
    "validators.with_invariants_per_s": "5,000 or more",
}
_WARM_UP = 2
_GC_THRESHOLDS = (50_000, 20, 50)
T = TypeVar("T")


@dataclass(slots=True)
class _Shares:
    """Processor seconds by room."""

    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def of(self, room: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.spent[room] += time.process_time() - begun

    async def during(self, room: str, work: Awaitable[T]) -> T:
        with self.of(room):
            return await work

    def around(self, owner: Any, method: str, room: str) -> None:
        """Count what a method of an object spends, be it a coroutine or not."""
        inner: Callable[..., Any] = getattr(owner, method)
        if asyncio.iscoroutinefunction(inner):
            setattr(owner, method, lambda *args, **named: self.during(room, inner(*args, **named)))
            return

        def counted(*args: Any, **named: Any) -> Any:
            with self.of(room):
                return inner(*args, **named)

        setattr(owner, method, counted)


def rooms(bundles: int) -> dict[str, Figures]:
    """Return µs of processor time a resource in each room, and its share of all."""
    sent = list(itertools.islice(transactions(), _WARM_UP + bundles))
    with TemporaryDirectory(prefix="fhir-bridge-bench-") as folder:
        shares, resources = asyncio.run(_walked(Path(folder), sent))
    whole = sum(shares.spent.values())
    figures: Figures = {"resources": resources, "us_per_resource": round(whole / resources * 1e6)}
    for room, seconds in sorted(shares.spent.items(), key=lambda each: -each[1]):
        bar = "#" * round(seconds / whole * 60)
        figures[room] = f"{seconds / resources * 1e6:4.0f} us {seconds / whole * 100:5.1f} % {bar}"
    return {"rooms": figures}


async def _walked(folder: Path, sent: list[bytes]) -> tuple[_Shares, int]:
    async with running(fresh(folder)) as world:
        source, before_us = world.bridge.services.ingest._registry.source(FEED), gc.get_threshold()
        for body in sent[:_WARM_UP]:
            await world.bridge.services.ingest.push_processed(*_through_rooms(body, source, _Shares()))
        shares, resources = _Shares(), 0
        _count_stores(world, shares)
        # As server and workers have it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        for body in sent[_WARM_UP:]:
            received, processed = _through_rooms(body, source, shares)
            with shares.of("crossing between processes"):
                processed = replace(processed, records=tuple(decode(encode(processed.records))))
            before, begun = sum(shares.spent.values()), time.process_time()
            anchored = await world.bridge.services.ingest.push_processed(received, processed)
            assert not anchored.refused
            counted = sum(shares.spent.values()) - before
            shares.spent["deciding, index, keys, the rest"] += time.process_time() - begun - counted
            resources += len(processed.records)
        gc.set_threshold(*before_us)
        gc.unfreeze()
    return shares, resources


def _count_stores(world: World, shares: _Shares) -> None:
    ingest = world.bridge.services.ingest
    # The batch is signed inside the vault's commit.
    shares.around(ingest, "_seal", "seal: envelopes, commitments, segments")
    shares.around(ingest._vault, "commit", "vault: rows, journal, sync, batch")
    shares.around(ingest._notary, "submit_anchor", "ledger: anchor")


def _through_rooms(body: bytes, source: SourceContext, shares: _Shares) -> tuple[Received, Processed]:
    received = Received(FEED, FhirVersion.R4, body, datetime.now(UTC))
    limits = Limits()
    with shares.of("decode and cut"):
        value = parse(body, max_depth=limits.max_depth, max_bytes=limits.max_bytes)
        parts = cut(body, value)
    with shares.of("validate"):
        reception = receive_bundle(parts, FhirVersion.R4, limits)
    assert not reception.refused
    with shares.of("normalise, label, index values"):
        done = normalize(reception, source, _ruleset(source.ruleset_dir), may_edit=True)
    return received, Processed(reception.kind, done.records, done.quarantined)


def _ruleset(folder: str) -> Any:
    if folder not in _RULESETS:
        _RULESETS[folder] = load_ruleset(Path(folder) if folder else MAPPINGS / FEED)
    return _RULESETS[folder]


_RULESETS: dict[str, Any] = {}


def validators(rounds: int) -> dict[str, Figures]:
    """Return resources a second on one core, for what northgate sends: without invariants, and with all of them."""
    bodies = gzip.decompress((FOLDER / FEED / "events.ndjson.gz").read_bytes()).splitlines()[::4]
    resources = [
        entry["resource"] for body in bodies for entry in parse(body, max_depth=64, max_bytes=1 << 26)["entry"]
    ]
    bare = _without_invariants()

    def structural() -> None:
        for each in resources:
            run = Run(each, bare.known_keys, True, None)
            bare.types[each["resourceType"]](each, (None, each["resourceType"]), run)
            assert not run.found

    def whole() -> None:
        for each in resources:
            assert not is_refused(validate_r4(each))

    return {
        "validators": {
            "resources": len(resources),
            "structural_per_s": _rate(structural, len(resources), rounds),
            "with_invariants_per_s": _rate(whole, len(resources), rounds),
        }
    }


def _without_invariants() -> Compiled:
    """The same validators, compiled from definitions that have no invariants."""
    definitions = r4()
    types = {name: _Bare(name, row.kind, row.is_abstract, (), row.written) for name, row in definitions.types.items()}
    return compile_release(replace(definitions, types=MappingProxyType(types)))


class _Bare(TypeRow):
    """A type whose elements have no invariants."""

    @cached_property
    def elements(self) -> Mapping[str, Element]:
        return {key: replace(element, invariants=()) for key, element in super().elements.items()}


def _rate(work: Callable[[], None], size: int, rounds: int) -> int:
    work()
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return round(size / median(times))


if __name__ == "__main__":
    print(json.dumps(rooms(8) | validators(3), indent=2))
