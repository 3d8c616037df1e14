"""Examples of a new pack: a few records of the sample, scrubbed, with what the pack makes of them as it stands.

They are skeletons: they show the shapes that come, run from the first minute, and fail as soon as a rule changes what
they show. What they ought to say, an engineer writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.tables import r4, stu3
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.mapping_tools.newpack.csv_meanings import Meaning, meanings_of, type_of
from fhir_bridge.mapping_tools.newpack.csv_sample import FileSeen
from fhir_bridge.mapping_tools.newpack.scrubbing import Scrubber
from fhir_bridge.mapping_tools.newpack.survey import Survey
from fhir_bridge.mapping_tools.newpack.walking import walk
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import load_ruleset, preview

_MOST = 12


class Chooser:
    """Keeps the first record that shows something new: a type, one of the hospital's systems, a unit's spelling."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()
        self._kept: list[tuple[int, dict[str, Any]]] = []

    def look(self, sent: dict[str, Any], body: dict[str, Any]) -> None:
        """Keep a record as sent, if it shows something that none before has shown."""
        found = set(_shows(body)) - self._shown
        if found and len(self._kept) < 20 * _MOST:
            self._shown |= found
            self._kept.append((len(found), sent))

    @property
    def chosen(self) -> list[dict[str, Any]]:
        """The few that show most, in the order in which they came."""
        most = sorted(self._kept, key=lambda pair: -pair[0])[:_MOST]
        return [sent for pair in self._kept if pair in most for sent in [pair[1]]]


def write_examples(folder: Path, survey: Survey, chosen: list[dict[str, Any]]) -> int:
    """Write input and expected file of each record; return how many could be made."""
    ruleset = load_ruleset(folder)
    scrubber = Scrubber(stu3() if survey.release is FhirVersion.STU3 else r4())
    (folder / "examples").mkdir(exist_ok=True)
    numbers: dict[str, int] = {}
    made = 0
    for sent in chosen:
        body = scrubber.scrubbed(sent)
        try:
            expected = preview(body, survey.release, ruleset).body
        except RecordRefused as refusal:
            expected = {"quarantined": refusal.issues[0].code}
        if "quarantined" not in expected and is_refused(validate_r4(expected)):
            continue
        kind = str(sent["resourceType"]).lower()
        numbers[kind] = numbers.get(kind, 0) + 1
        stem = folder / "examples" / f"{kind}-{numbers[kind]}"
        stem.with_name(f"{stem.name}.input.json").write_bytes(_pretty(body))
        stem.with_name(f"{stem.name}.expected.json").write_bytes(_pretty(expected))
        made += 1
    return made


def write_row_example(folder: Path, seen: FileSeen) -> None:
    """Write an example row of a CSV file; as long as the description is a guess it is refused."""
    (folder / "examples").mkdir(exist_ok=True)
    type_name = type_of(seen)
    meanings = meanings_of(seen, type_name, f"https://{folder.name}.example.org")
    quote = seen.dialect.delimiter
    head = quote.join(_cell(c.name, quote) for c in seen.columns)
    row = quote.join(_cell(_made_up(m), quote) for m in meanings)
    stem = folder / "examples" / f"{seen.name}-row"
    text = f"{head}\n{row}\n".encode(seen.dialect.encoding)
    stem.with_name(f"{stem.name}.input.csv").write_bytes(text)
    stem.with_name(f"{stem.name}.expected.json").write_bytes(_pretty({"refused": "not-supported"}))


def _shows(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    name = str(body["resourceType"])
    yield name, ""
    for found in walk(body, r4()):
        if found.type_name == "Coding" and type(found.value) is dict:
            system = str(found.value.get("system") or "")
            if not is_standard(system):
                yield name, f"{found.path} {system}"
        elif found.key == "unit" and "code" not in found.holder and type(found.value) is str:
            yield name, f"unit {found.value}"


def _made_up(meaning: Meaning) -> str:
    """A cell of the column's shape that says nothing of anybody; words only of columns that list codes."""
    column = meaning.column
    if column.date:
        return _date(column.date.partition("|")[0])
    if column.words and (meaning.keys.get("path") in ("code", "gender", "status", "class") or meaning.note):
        return column.words[0]
    if meaning.keys.get("path") == "valueQuantity":
        return "5,6" if column.has_comma else "5.6"
    return "1" if column.is_number else "EXAMPLE"


def _date(pattern: str) -> str:
    parts = (("YYYY", "1980"), ("MMM", "Jan"), ("MM", "01"), ("M", "1"), ("DD", "15"), ("D", "15"))
    text = pattern.replace("HH:mm:ss", "12:00:00").replace("HH:mm", "12:00")
    for token, value in parts:
        if token in pattern:
            text = text.replace(token, value, 1)
            pattern = pattern.replace(token, "", 1)
    return text


def _cell(text: str, delimiter: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in (delimiter, '"', "\n", "\r")) else text


def _pretty(value: dict[str, Any]) -> bytes:
    """Indented, numbers by their text."""
    return msgspec.json.format(render(value), indent=2) + b"\n"
