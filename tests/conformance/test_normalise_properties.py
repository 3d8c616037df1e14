"""Of all that the three hospitals send: the same bytes in any process, nothing left to do, no number retyped.

The quick part, over examples and changed examples, is tests/unit/normalize/test_normalise_invariants.py.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256

import pytest

from fhir_bridge.fhir.json import parse
from fhir_bridge.intake import Limits, receive
from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, Reception, SourceContext, Validated
from fhir_bridge.normalize import Normalization, Ruleset, explain_changes, load_ruleset, normalize
from tests.support.hospitals import FOLDER, MAPPINGS, ROOT, VERSIONS, directory
from tests.support.texts import unexplained

KEY = bytes(range(32))
SAMPLE = 12
"""One message of so many is normalised in other processes and a second time."""
_PACKED = re.compile(r"<msgspec\.Raw object at 0x[0-9a-f]+>")
_FILES = {"northgate": "events", "harbor": "bundles", "cedar": "bundles-stu3"}


def messages(hospital: str) -> list[bytes]:
    lines = gzip.decompress((FOLDER / hospital / f"{_FILES[hospital]}.ndjson.gz").read_bytes()).splitlines()
    return [directory(hospital), *lines]


def normalised(hospital: str, message: bytes) -> Normalization:
    version = FhirVersion(VERSIONS[hospital])
    reception = receive(Received(hospital, version, message, datetime(2026, 1, 1, tzinfo=UTC)), Limits())
    assert not reception.refused
    return normalize(reception, SourceContext(hospital, hospital, version, KEY), pack(hospital))


@cache
def pack(hospital: str) -> Ruleset:
    return load_ruleset(MAPPINGS / hospital)


def digests(hospital: str) -> Iterator[str]:
    """A digest of everything that comes of each message of the sample, but for what a log might show."""
    for message in messages(hospital)[::SAMPLE]:
        made = normalised(hospital, message)
        # What is still packed tells only where it lies.
        told = _PACKED.sub("", repr(made)) + repr([bytes(record.row.search) for record in made.records])
        yield sha256(told.encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("hospital", VERSIONS)
def test_a_process_that_hashes_otherwise_makes_the_same_bytes(hospital: str) -> None:
    script = f"from {__name__} import digests\nprint(*digests({hospital!r}))"
    others = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert others == [list(digests(hospital))] * 2


@pytest.mark.slow
@pytest.mark.parametrize("hospital", VERSIONS)
def test_what_comes_out_stays_as_it_is_when_it_is_sent_again(hospital: str) -> None:
    source = SourceContext(hospital, hospital, FhirVersion.R4, KEY)
    ruleset = pack(hospital)
    for message in messages(hospital)[::SAMPLE]:
        first = normalised(hospital, message)
        entries = tuple(
            Validated(r.index, Interaction("PUT", r.type, r.id), None, r.content, parse(r.content))
            for r in first.records
        )
        again = normalize(Reception("transaction", entries), source, ruleset)
        assert again.quarantined == ()
        assert [(r.content, r.row.search, r.chart) for r in again.records] == [
            (r.content, r.row.search, r.chart) for r in first.records
        ]


@pytest.mark.slow
@pytest.mark.parametrize("hospital", VERSIONS)
def test_every_number_and_date_keeps_its_text_unless_the_lineage_says_otherwise(hospital: str) -> None:
    judged = 0
    for message in messages(hospital):
        for record in normalised(hospital, message).records:
            assert unexplained(record.original, record.content, explain_changes(record)) == {}, record.type
            judged += 1
    assert judged > 12_000
