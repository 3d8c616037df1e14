"""Records that were rows, long after: told where they come from, and made again when a rule was mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.model.ingest import Normalized
from fhir_bridge.normalize import (
    Kind,
    Ruleset,
    StoredVersion,
    explain,
    explain_changes,
    load_ruleset,
    normalize,
    renormalised,
)
from tests.unit.formats.csv_samples import WIDE, WIDE_HEAD, WIDE_ROW, received
from tests.unit.normalize.bench import SOURCE, pack

MAPS = """maps: {labs: {file: codes/labs.csv, constants: {system: 'urn:labs', target_system: 'http://loinc.org'}}}
"""
RULE = "rule: r\non: Observation\nwhy: t\ndo:\n  - translate: {path: code, map: labs}\n"


def rules(folder: Path, sodium: str, source: str = WIDE) -> Ruleset:
    # Both are one analyte after translation: nothing but the sender's id tells the two records of the row apart.
    table = f"code,target_code\nGLU,15074-8\nNa,{sodium}\n"
    return load_ruleset(pack(folder, RULE, source.replace("%s", "") + MAPS, codes__labs_csv=table))


def records(by: Ruleset) -> list[Normalized]:
    return list(normalize(received(by, (WIDE_HEAD + WIDE_ROW).encode()), SOURCE, by).records)


def stored(record: Normalized) -> StoredVersion:
    return StoredVersion(record.row, record.content, record.original, record.lineage, record.ruleset)


def test_a_value_is_led_to_the_columns_of_its_own_cell(tmp_path: Path) -> None:
    by = rules(tmp_path / "x", "15074-8")
    for record, column in zip(records(by), ("Gluc (mmol/l)", "Na"), strict=True):
        told = explain(record.original, parse(record.content), explain_changes(record), "", by.formats)
        assert told.accounts
        found = {each.place: each for each in told.statements}
        value = found["Observation.valueQuantity.value"]
        assert (value.kind, value.part, value.span) == (Kind.CONVERTED, f"column {column!r}", None)
        assert found["Observation.effectiveDateTime"].part == "column 'Abnahme'"
        code = found["Observation.code.coding[0].code"]
        assert (code.part, [c.rule for c in code.changes]) == (f"column {column!r}", ["csv", "r"])
        constant = found["Observation.status"]
        assert (constant.kind, constant.source, constant.part) == (Kind.MADE, None, None)
        assert found["Observation.meta.source"].kind is Kind.HOUSE


def test_without_the_pack_nothing_is_made_up(tmp_path: Path) -> None:
    record = records(rules(tmp_path / "x", "15074-8"))[0]
    with pytest.raises(ValueError, match="no pack is given"):
        explain(record.original, parse(record.content), explain_changes(record))


def test_a_mended_table_gives_what_it_gives_the_row_today(tmp_path: Path) -> None:
    old, new = rules(tmp_path / "a", "15074-8"), rules(tmp_path / "b", "2951-2")
    for before, wanted in zip(records(old), records(new), strict=True):
        again = renormalised(stored(before), before.chart, SOURCE, new, packaged_sets())
        assert (again.content, again.lineage, again.row.id) == (wanted.content, wanted.lineage, before.row.id)
    assert [a.content == b.content for a, b in zip(records(old), records(new), strict=True)] == [True, False]


@pytest.mark.parametrize(
    "source", [WIDE.replace("[Auftrag, Test]", "[Test, Auftrag]"), "institution: clinic\n"], ids=["key", "no-csv"]
)
def test_a_description_that_makes_another_record_of_the_row_is_refused(tmp_path: Path, source: str) -> None:
    before = records(rules(tmp_path / "a", "15074-8"))[0]
    with pytest.raises(RecordRefused) as refused:
        renormalised(stored(before), before.chart, SOURCE, rules(tmp_path / "b", "1-8", source), packaged_sets())
    assert [i.diagnostics for i in refused.value.issues] == [
        "today's description of the files makes another record of its row"
    ]


def test_a_row_that_todays_description_reads_in_several_ways_is_left_as_it_is(tmp_path: Path) -> None:
    before = records(rules(tmp_path / "a", "15074-8"))[0]
    other = WIDE.partition("csv:\n")[2].replace("  labs:", "  more:").replace("labor*", "other*")
    new = rules(tmp_path / "b", "15074-8", WIDE + other.replace("final", "preliminary"))
    with pytest.raises(RecordRefused) as refused:
        renormalised(stored(before), before.chart, SOURCE, new, packaged_sets())
    assert [i.diagnostics for i in refused.value.issues] == [
        "today's description of the files reads its row in several ways"
    ]


def test_what_todays_description_makes_invalid_is_refused(tmp_path: Path) -> None:
    before = records(rules(tmp_path / "a", "15074-8"))[0]
    new = rules(tmp_path / "b", "15074-8", WIDE.replace("status: final", "status: done"))
    with pytest.raises(RecordRefused):
        renormalised(stored(before), before.chart, SOURCE, new, packaged_sets())
