"""The tables of a new pack: a row for each code and unit seen, targets empty, candidates in the column ``guess``."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.mapping_tools.newpack.survey import CodeSeen, Survey
from fhir_bridge.mapping_tools.unit_guesses import guess_ucum

_KNOWN_OIDS = {
    "urn:oid:2.16.840.1.113883.4.1": "http://hl7.org/fhir/sid/us-ssn",
    "urn:oid:2.16.840.1.113883.4.6": "http://hl7.org/fhir/sid/us-npi",
    "urn:oid:2.16.840.1.113883.4.572": "http://hl7.org/fhir/sid/us-medicare",
}
"""From HL7's NamingSystem resources (CC0)."""

CODE_COLUMNS = ("code", "display", "count", "target_system", "target_code", "target_display", "guess")
SPELLING_COLUMNS = ("unit", "ucum", "count", "guess")
_TO_FILL = ("local_ucum", "canonical", "factor", "offset")
UNIT_COLUMNS = ("system", "code", "display", "count", "local_unit", "also_seen", *_TO_FILL)
IDENTIFIER_COLUMNS = ("code", "count", "target_code", "guess")


def write_codes(path: Path, survey: Survey, system: str) -> None:
    """Write the table of one system of the hospital's own, the most used code first."""
    known = _standard_words(survey)
    rows = [
        {"code": code, "display": seen.display, "count": str(seen.count), "guess": known.get(_words(seen), "")}
        for code, seen in _by_use(survey.codes[system])
    ]
    write(path, CODE_COLUMNS, rows)


def write_spellings(path: Path, survey: Survey) -> None:
    """Write the units that come without a code, each with the UCUM code it may mean."""
    rows = [
        {"unit": unit, "count": str(count), "guess": guess_ucum(unit)} for unit, count in survey.units.most_common()
    ]
    write(path, SPELLING_COLUMNS, rows)


def write_units(path: Path, survey: Survey) -> None:
    """Write, for each code that is measured, the unit it comes in; for those that need arithmetic."""
    rows = []
    for system in sorted(survey.codes):
        for code, seen in _by_use(survey.codes[system]):
            if seen.units:
                unit, *others = [unit for unit, _ in seen.units.most_common()]
                rows.append(
                    {"system": system, "code": code, "display": seen.display, "count": str(seen.units.total()),
                     "local_unit": unit, "also_seen": " ".join(others)}
                )  # fmt: skip
    write(path, UNIT_COLUMNS, rows)


def own_identifier_systems(survey: Survey) -> list[str]:
    """Systems of identifiers that might be aliases: no address of a standard."""
    return sorted(s for s in survey.identifiers if s in _KNOWN_OIDS or not is_standard(s))


def write_identifiers(path: Path, survey: Survey) -> None:
    """Write the identifier systems seen, each with the canonical one it may be an alias of."""
    rows = [
        {"code": system, "count": str(survey.identifiers[system]), "guess": _KNOWN_OIDS.get(system, "")}
        for system in own_identifier_systems(survey)
    ]
    write(path, IDENTIFIER_COLUMNS, rows)


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table with commas, in UTF-8."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _by_use(codes: Mapping[str, CodeSeen]) -> list[tuple[str, CodeSeen]]:
    return sorted(((c, s) for c, s in codes.items() if s.count), key=lambda pair: (-pair[1].count, pair[0]))


def _standard_words(survey: Survey) -> dict[str, str]:
    """Words of a standard's code elsewhere in the feed → that code; words that two codes share tell nothing."""
    found: dict[str, set[str]] = {}
    for system, codes in survey.codes.items():
        if is_standard(system):
            for code, seen in codes.items():
                for words in seen.displays:
                    found.setdefault(_plain(words), set()).add(f"{system}|{code}|{words}")
    return {words: candidates.pop() for words, candidates in found.items() if words and len(candidates) == 1}


def _words(seen: CodeSeen) -> str:
    return _plain(seen.display or (next(iter(seen.texts)) if len(seen.texts) == 1 else ""))


def _plain(words: str) -> str:
    return re.sub(r"\W+", " ", words).strip().casefold()
