"""STU3 and R5 to R4, from text to text: ours beside HL7's version converter, by turns, both warm, one core each.

What is converted are HL7's official examples of both releases and what cedar sends, as far as both convert it: the
converter refuses some types (docs/versions.md). Ours keeps an account of every change, and an extension for what R4
has no element for; the converter keeps neither. Time is processor time of the whole process, so that Java's compiler
and collector count, as Python's collector does; starting Java and warming it up does not.
"""

from __future__ import annotations

import gzip
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.draft import Unconvertible
from fhir_bridge.normalize.message import shaped
from tests.bench.feeding import Figures
from tests.conformance.version_report import core
from tests.support.hospitals import FOLDER
from tests.support.release_examples import Json, by_converter, converter_command, converter_lines, official

Pass = Callable[[], float]
"""Convert everything once; return seconds of processor time."""


def versions(warm_up: int, rounds: int, bundles: int) -> dict[str, Figures]:
    """Return resources a second of both, the middle of ``rounds`` passes after ``warm_up``.

    Args:
        bundles: How many people of cedar's.
    """
    sources = {
        "hl7_stu3": ("STU3", official("STU3")),
        "hl7_r5": ("R5", official("R5")),
        "cedar_stu3": ("STU3", _cedar(bundles)),
    }
    figures: Figures = {}
    for name, (release, resources) in sources.items():
        theirs = by_converter(release, resources)
        both = [each for each, made in zip(resources, theirs, strict=True) if type(made) is dict]
        both = [each for each in both if _ours(release, render(each))]
        with _converter(release, both) as converter:
            ours, other = _taking_turns(_passes_of_ours(release, both), converter, warm_up, rounds)
        figures |= {
            f"{name}_resources": f"{len(both)} of {len(resources)}",
            f"{name}_ours_per_s": round(len(both) / ours),
            f"{name}_converter_per_s": round(len(both) / other),
            f"{name}_times": round(other / ours, 2),
        }
    return {"versions": figures}


def _taking_turns(ours: Pass, other: Pass, warm_up: int, rounds: int) -> tuple[float, float]:
    """The middle pass of each; by turns, so that a slow moment of the machine meets both."""
    for _ in range(warm_up):
        other()
    ours()
    times = [(ours(), other()) for _ in range(rounds)]
    return median(one for one, _ in times), median(two for _, two in times)


def _passes_of_ours(release: str, resources: Sequence[Json]) -> Pass:
    texts = [render(each) for each in resources]

    def once() -> float:
        begun = time.process_time()
        for text in texts:
            _ours(release, text)
        return time.process_time() - begun

    return once


def _ours(release: str, text: bytes) -> bytes:
    """A resource in R4; nothing where it is not converted."""
    try:
        return render(shaped(parse(text), FhirVersion[release], core()).body)
    except Unconvertible:
        return b""


@contextmanager
def _converter(release: str, resources: Sequence[Json]) -> Iterator[Pass]:
    with subprocess.Popen([*converter_command(), "rate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout
        orders.write(converter_lines(release, resources) + b"\n")
        order = b"1" * len(resources) + b"\n"

        def once() -> float:
            orders.write(order)
            orders.flush()
            nanoseconds, length = answers.readline().split()
            assert int(length) > len(resources), "the converter made nothing"
            return int(nanoseconds) / 1e9

        yield once


def _cedar(bundles: int) -> list[Json]:
    lines = gzip.decompress((FOLDER / "cedar" / "bundles-stu3.ndjson.gz").read_bytes()).splitlines()[:bundles]
    return [entry["resource"] for line in lines for entry in parse(line)["entry"]]
