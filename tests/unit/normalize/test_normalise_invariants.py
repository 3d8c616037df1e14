"""What every pack owes every record: the same output again, nothing left to do, and no number or date retyped."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.validate import is_refused
from fhir_bridge.intake.releases import validator_of
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Preview, Ruleset, load_ruleset, preview
from tests.support.texts import texts_of, unexplained
from tests.unit.normalize.bench import MAPPINGS

PACKS = ("core", "northgate", "harbor", "cedar")
EXAMPLES = [(name, path) for name in PACKS for path in sorted((MAPPINGS / name / "examples").glob("*.input.json"))]
NUMBERS = (
    "0",
    "7",
    "-0",
    "1.0",
    "1.10",
    "98.60",
    "1e2",
    "-0.00000001",
    "120.000",
    "36.6",
    "1234567890123456789012.50",
)
STAND_IN = 776655443300
"""Stands for the first number until the record is written, so that our own reader never sees its text."""
DATES = ("1999", "2020-02", "2020-02-29", "2021-03-04T05:06:07Z", "2021-03-04T05:06:07.100+05:30")


@cache
def pack(name: str) -> Ruleset:
    return load_ruleset(MAPPINGS / name)


@pytest.mark.parametrize(("name", "path"), EXAMPLES, ids=[f"{n}/{p.name.split('.')[0]}" for n, p in EXAMPLES])
def test_an_example_comes_out_alike_twice_and_keeps_its_numbers_and_dates(name: str, path: Path) -> None:
    judge(name, pack(name).fhir_version, path.read_bytes())


edits = st.integers(0, 2**32).map(random.Random)


@settings(max_examples=150)
@given(st.sampled_from(EXAMPLES), st.sampled_from(PACKS), edits)
def test_a_changed_example_under_any_pack_does_too(
    example: tuple[str, Path], other: str, chance: random.Random
) -> None:
    name, path = example
    version = pack(name).fhir_version
    under = other if pack(other).fhir_version is version else name
    body = parse(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        edit(body, chance)
    sent = render(body)
    for index, number in enumerate(NUMBERS):
        sent = sent.replace(str(STAND_IN + index).encode(), number.encode())
    validate = validator_of(version)
    assert validate is not None
    assume(not is_refused(validate(parse(sent))))
    judge(under, version, sent)


def test_the_scanner_sees_a_number_that_was_retyped() -> None:
    sent, stored = b'{"a":1.10,"b":"2020-02","c":"\\"5\\""}', b'{"a":1.1,"b":"2020-02-01","c":"5"}'
    assert texts_of(sent) == {b"1.10": 1, b'"2020-02"': 1}
    assert unexplained(sent, stored, []) == {b"1.1": 1, b"1.10": -1, b'"2020-02-01"': 1, b'"2020-02"': -1}


def judge(name: str, version: FhirVersion, sent: bytes) -> None:
    """Hold a pack to its promises about one resource."""
    first, again = (outcome(parse(sent), version, name) for _ in range(2))
    assert first == again
    if isinstance(first, Preview):
        stored = render(first.body)
        assert unexplained(sent, stored, first.changes) == {}
        after = outcome(parse(stored), FhirVersion.R4, name)
        assert isinstance(after, Preview)
        assert (render(after.body), after.changes) == (stored, ())


def outcome(body: dict[str, Any], version: FhirVersion, name: str) -> Preview | tuple[Any, ...]:
    before = render(body)
    try:
        return preview(body, version, pack(name))
    except RecordRefused as refusal:
        return refusal.issues
    finally:
        assert render(body) == before, "a preview must not touch what it is given"


def edit(body: dict[str, Any], chance: random.Random) -> None:
    """Change one element somewhere: drop it, double it, or give it another number or date."""
    holder: Any = body
    while True:
        keys = [key for key in (holder if type(holder) is dict else range(len(holder))) if key != "resourceType"]
        if not keys:
            return
        key = chance.choice(keys)
        below = holder[key]
        if type(below) in (dict, list) and chance.random() < 0.8:
            holder = below
            continue
        break
    what = chance.random()
    if what < 0.3:
        del holder[key]
    elif what < 0.4 and type(holder) is list:
        holder.append(parse(render({"a": below}))["a"])
    elif type(below) is str and below[:4].isdigit():
        holder[key] = chance.choice(DATES)
    elif type(below) not in (str, bool, dict, list):
        holder[key] = STAND_IN + chance.randrange(len(NUMBERS))
