"""The schemas for editors: fresh, right about every pack of this repository, and about every mistake they can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fhir_bridge.mapping_tools.schema import rules_schema, source_schema
from fhir_bridge.normalize.pack import SOURCE, rule_files
from fhir_bridge.normalize.yaml_text import load
from tests.unit.normalize.bench import MAPPINGS, RULE

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schema"
PACKS = sorted(path.parent for path in MAPPINGS.rglob(SOURCE))
RULES = jsonschema.Draft202012Validator(rules_schema())
SOURCES = jsonschema.Draft202012Validator(source_schema())


@pytest.mark.parametrize(("name", "made"), [("rules", rules_schema()), ("source", source_schema())])
def test_the_schemas_that_ship_are_fresh_and_are_schemas(name: str, made: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(made)
    kept = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    assert kept == made, f"run: fhir-bridge map schema {name} > docs/schema/{name}.json"


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_every_pack_of_the_repository_validates(pack: Path) -> None:
    SOURCES.validate(load(pack / SOURCE, SOURCE).plain())
    for path in rule_files(pack):
        RULES.validate(load(path, path.name).plain())


WRONG = [
    RULE + "do:\n  - sett: {path: status, value: final}\n",
    RULE + "do:\n  - set: {path: status}\n",
    RULE + "do:\n  - set: {path: status, value: final, valu: x}\n",
    RULE + "do:\n  - set: {path: status, value: a}\n    remove: {path: code}\n",
    RULE + "do:\n  - coerce: {path: status, to: decimals}\n",
    RULE + "do:\n  - call: {function: fit-to-r5}\n",
    RULE + "do:\n  - tag: {code: x}\n",
    RULE + "do:\n  - translate: {path: code, map: labs, unmapped: drop}\n",
    RULE + "wen: status = 'final'\ndo: []\n",
    RULE + "stage: lable\ndo: []\n",
    RULE + "version: one\ndo: []\n",
    RULE.replace("Observation", "Observaton") + "do: []\n",
    RULE.replace("why: test", "why: ''") + "do: []\n",
    "rule: r\non: Patient\ndo: []\n",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_that_a_schema_can_see_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    assert not RULES.is_valid(load(tmp_path / "r.yaml", "r.yaml").plain())


@pytest.mark.parametrize(
    "text",
    ["instituton: x\n", "fhir_version: R6\n", "extends: other\n", "maps: {a: {columns: {cod: x}, file: a.csv}}\n",
     "maps: {a: {}}\n", "labels: {a: {file: a.csv}}\n", "profiles: [{package: a, mode: eror, apply: declared}]\n"],
)  # fmt: skip
def test_a_mistake_in_source_yaml_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert not SOURCES.is_valid(load(tmp_path / "s.yaml", "s.yaml").plain())
