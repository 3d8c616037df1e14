"""The ConceptMaps that HL7 publishes with R4: all of them load, and become what they were again.

Needs ``make profiles`` (npm package ``hl7.fhir.r4.examples``); what is missing is a failure.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.normalize.concept_maps import NoConceptMap, concept_map, read_concept_map
from fhir_bridge.normalize.map_exchange import imported

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@cache
def published() -> dict[str, dict[str, Any]]:
    path = ROOT / ".build/profiles/hl7.fhir.r4.examples-4.0.1.tgz"
    assert path.is_file(), "HL7's packages are missing: make profiles"
    found = {}
    with tarfile.open(path) as package:
        for member in package:
            name = member.name.rpartition("/")[2]
            if name.startswith("ConceptMap-") and name.endswith(".json"):
                file = package.extractfile(member)
                assert file is not None
                found[name] = json.loads(file.read())
    return found


def said(body: dict[str, Any]) -> Counter[tuple[str, ...]]:
    """What a ConceptMap says of codes, read without our code."""
    return Counter(
        (
            group.get("source", ""),
            group.get("target", ""),
            element.get("code", ""),
            element.get("display", ""),
            target.get("code", ""),
            target.get("display", ""),
            target["equivalence"],
            target.get("comment", ""),
        )
        for group in body.get("group", ())
        for element in group["element"]
        for target in element.get("target", ())
    )


def test_every_map_loads_and_comes_back_as_it_was() -> None:
    loaded = tables = 0
    for name, body in published().items():
        data = json.dumps(body).encode()
        if is_refused(validate_r4(body)):
            with pytest.raises(NoConceptMap):
                read_concept_map("m", data)
            continue
        codes = read_concept_map("m", data)
        back = concept_map(codes)
        assert said(back) == said(body), name
        assert not is_refused(validate_r4(back)), name
        loaded += 1
        try:
            table = imported("m", data)
        except NoConceptMap:
            continue
        assert table.rows == said(body).total(), name
        tables += 1
    # Four say of their codes what a table cannot hold: modes, dependencies, and what has no code.
    assert (loaded, tables) == (80, 76)
