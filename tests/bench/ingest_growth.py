"""How ingest grows: with the number of worker processes, and with what the vault holds already.

Bundles of a whole patient, four clients, as beside HAPI. One service is filled on from size to size, and the last
bundles before each size are timed.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pygal  # type: ignore[import-untyped]  # the package has no types
from pygal.style import Style  # type: ignore[import-untyped]  # the package has no types

from tests.bench.feeding import FEED, Figures, server_pid
from tests.bench.gauge import percentile, tree
from tests.bench.hapi_ingest import transactions
from tests.bench.wire import over_tcp, post_all
from tests.support.hospitals import directory
from tests.support.service import FHIR_JSON, Service, running

WORKERS: Final = (1, 2, 3, 4)
SIZES: Final = (10_000, 30_000, 100_000, 300_000, 1_000_000)
_CLIENTS: Final = 4
_TIMED: Final = 12
"""Bundles, of 536 records each."""
_AT_ONCE: Final = 16
_HEADERS: Final = {"Content-Type": FHIR_JSON}
_EXTRAS: Final = re.compile(r"<!--.*?-->|<script.*?</script>", re.DOTALL)
_STYLE: Final = Style(background="white", plot_background="white", opacity=".9", font_family="sans-serif")


def by_workers(rounds: int) -> dict[str, Figures]:
    """Return the rate with each number of worker processes, each on an empty vault."""
    found: dict[str, Figures] = {}
    for workers in WORKERS:
        made = transactions()
        with _service(workers) as service:
            _post(service, list(itertools.islice(made, 4)))
            runs = [_timed(service, made) for _ in range(rounds)]
        middle = sorted(runs, key=lambda run: float(run["resources_per_s"] or 0))[rounds // 2]
        found[f"ingest_workers_{workers}"] = middle
        print(f"  {workers} workers: {middle['resources_per_s']:,} resources/s", file=sys.stderr, flush=True)
    return found


def by_size(sizes: Sequence[int]) -> dict[str, Figures]:
    """Return the rate and the disk taken at each number of records in the vault."""
    found: dict[str, Figures] = {}
    made = transactions()
    with _service(2) as service:
        for size in sorted(sizes):
            while (held := _held(service)) < size:
                _post(service, list(itertools.islice(made, min(_AT_ONCE, (size - held) // 536 + 1))))
                print(f"\r  filled: {held:,}", end="", file=sys.stderr, flush=True)
            figures = _timed(service, made)
            vault = sum(file.stat().st_size for file in service.data.glob("vault.db*"))
            figures["vault_bytes_per_resource"] = round(vault / _held(service))
            figures["resident_mib"] = sum(each.resident for each in tree(server_pid(service)).values()) >> 20
            found[f"ingest_size_{size}"] = figures
            print(f"\r  {size:,} records: {figures['resources_per_s']:,} resources/s", file=sys.stderr, flush=True)
    return found


def draw(found: Mapping[str, Figures], folder: Path) -> list[Path]:
    """Draw the rate over workers and over size, as SVG without scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for prefix, title, below in (
        ("ingest_workers_", "Ingest by worker processes, two cores", "worker processes"),
        ("ingest_size_", "Ingest by what the vault holds", "records in the vault"),
    ):
        points = {int(name.removeprefix(prefix)): row for name, row in found.items() if name.startswith(prefix)}
        if not points:
            continue
        chart = pygal.Line(
            title=title, x_title=below, range=(0, None), js=(), no_prefix=True, style=_STYLE, width=900, height=420,
            legend_at_bottom=True, truncate_legend=-1,
        )  # fmt: skip
        chart.x_labels = [f"{point:,}" for point in sorted(points)]
        chart.add("resources/s", [points[point]["resources_per_s"] for point in sorted(points)])
        target = folder / f"{prefix.strip('_').replace('_', '-')}.svg"
        target.write_text(_EXTRAS.sub("", chart.render(is_unicode=True)) + "\n", encoding="utf-8")
        drawn.append(target)
    return drawn


@contextmanager
def _service(workers: int) -> Iterator[Service]:
    settings = {"FHIR_BRIDGE_INGEST_WORKERS": str(workers)}
    with (
        TemporaryDirectory(prefix="fhir-bridge-bench-") as folder,
        running(Path(folder) / "data", **settings) as made,
    ):
        made.add_institutions([FEED])
        made.ingest(FEED, directory(FEED))
        yield made


def _timed(service: Service, made: Iterator[bytes]) -> Figures:
    sent = list(itertools.islice(made, _TIMED))
    begun = time.perf_counter()
    times = _post(service, sent)
    wall = time.perf_counter() - begun
    resources = sum(body.count(b'"request"') for body in sent)
    return {
        "resources_per_s": round(resources / wall),
        "bundle_p50_ms": round(percentile(times, 0.5) * 1000),
        "bundle_p95_ms": round(percentile(times, 0.95) * 1000),
    }


def _post(service: Service, sent: list[bytes]) -> list[float]:
    headers = _HEADERS | service.token(FEED)
    answers = post_all(over_tcp(service.port), "/fhir", headers, sent, in_flight=_CLIENTS)
    return [answer.seconds for answer in answers]


def _held(service: Service) -> int:
    return int(service.ask("/status")["counters"]["stored"])
