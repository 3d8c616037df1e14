"""Guess the kind of record of a CSV file and the element behind each column, by names that exports use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bridge.mapping_tools.newpack.csv_sample import ColumnSeen, FileSeen

_FILES = {
    "Patient": "patient patients pat patienten stammdaten demographics personen people",
    "Observation": "observation observations lab labs labor laboratory result results werte vitals vitalwerte "
    "befunde measurements messwerte resultats laboratoire",
    "Condition": "condition conditions diagnosis diagnoses diagnosen diagnose dx problems diagnostics",
    "Encounter": "encounter encounters visit visits besuche faelle falle cases termine consultations",
    "MedicationRequest": "medication medications prescriptions rezepte medikation drugs orders ordonnances",
    "AllergyIntolerance": "allergy allergies allergien",
    "Immunization": "immunization immunizations vaccinations impfungen vaccins",
    "Procedure": "procedure procedures prozeduren ops operations",
}
# Words of a column's name → what it is, in the order in which they are tried.
_PATIENT_ID = (
    "patient_id patientid patientnumber patient_no patno patnr patientennr patient_nr pid mrn patient chart_no"
)
_MEANINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "Patient": (
        ("identifier", _PATIENT_ID + " id nr number no chart"),
        ("name.family", "lastname last_name surname family familyname nachname name nom"),
        ("name.given", "firstname first_name given givenname forename vorname prenom"),
        (
            "birthDate",
            "birthdate birth_date dob dateofbirth date_of_birth birth geburtsdatum geburt geb gebdatum naissance",
        ),
        ("gender", "sex gender geschlecht sexe"),
        ("telecom.value", "phone telephone tel telefon mobile"),
        ("address.line", "street address strasse adresse"),
        ("address.postalCode", "zip zipcode postcode postal_code plz"),
        ("address.city", "city town ort stadt ville"),
    ),
    "Observation": (
        ("subject", _PATIENT_ID),
        ("code", "code testcode test_code test analyte loinc parameter kuerzel item"),
        ("display", "name test_name testname description bezeichnung text label"),
        ("valueQuantity", "value result wert ergebnis messwert resultat numeric"),
        ("unit", "unit units einheit unite uom"),
        (
            "effectiveDateTime",
            "date datetime time taken collected observed datum zeit zeitpunkt abnahme resulted when",
        ),
        ("status", "status"),
        ("identifier", "id result_id accession sample nr"),
    ),
    "Condition": (
        ("subject", _PATIENT_ID),
        ("code", "code icd icd10 dx diagnosis_code diagnose diagnosecode diagnosis"),
        ("display", "name text description bezeichnung label"),
        ("onsetDateTime", "onset since beginn onset_date"),
        ("recordedDate", "date recorded datum erfasst"),
        ("identifier", "id nr case_id"),
    ),
    "Encounter": (
        ("subject", _PATIENT_ID),
        ("identifier", "id visit_id visit encounter fallnr case_no nr"),
        ("class", "class type art kind"),
        ("period.start", "start date from admission datum beginn aufnahme arrival"),
        ("period.end", "end to until discharge ende entlassung"),
        ("status", "status"),
    ),
}
_GENERAL = (("subject", _PATIENT_ID), ("code", "code"), ("display", "name text"), ("status", "status"))
_SEXES = {
    "m": "male", "male": "male", "man": "male", "mann": "male", "männlich": "male", "h": "male", "homme": "male",
    "f": "female", "female": "female", "w": "female", "woman": "female", "frau": "female", "weiblich": "female",
    "femme": "female", "o": "other", "other": "other", "d": "other", "divers": "other", "u": "unknown",
    "unknown": "unknown",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Meaning:
    """One column's guess as lines of YAML would have it: keys of a column, or nothing for no idea."""

    column: ColumnSeen
    keys: dict[str, object]
    note: str = ""


def type_of(seen: FileSeen) -> str:
    """Return the resource type that a file most likely holds."""
    words = set(re.split(r"[^a-z]+", seen.name))
    for type_name, names in _FILES.items():
        if words & set(names.split()):
            return type_name
    found = {_plain(c.name) for c in seen.columns}
    scores = {
        type_name: sum(bool(found & set(map(_plain, names.split()))) for _, names in meanings)
        for type_name, meanings in _MEANINGS.items()
    }
    return max(scores, key=lambda name: scores[name])


def meanings_of(seen: FileSeen, type_name: str, systems: str) -> list[Meaning]:
    """Return a guess for each column, in the file's order.

    Args:
        systems: Base under which systems of the clinic's own are named.
    """
    given: dict[str, str] = {}
    for element, names in _MEANINGS.get(type_name, _GENERAL):
        wanted = list(map(_plain, names.split()))
        free = [c for c in seen.columns if c.name not in given]
        best = _named(free, wanted)
        if best is not None:
            given[best.name] = element
    by_element = {element: name for name, element in given.items()}
    return [_meaning(c, given.get(c.name, ""), by_element, systems) for c in seen.columns]


def id_of(seen: FileSeen, meanings: Sequence[Meaning], type_name: str) -> list[str]:
    """Return the column that tells rows apart, else those that do so together as far as can be seen."""
    keys = seen.keys
    own = [m.column.name for m in meanings if m.keys.get("path") == "identifier"]
    if own and (own[0] in keys or type_name == "Patient"):
        return own[:1]
    if keys and type_name == "Patient":
        return keys[:1]
    wanted = ("subject", "code", "effectiveDateTime", "recordedDate", "onsetDateTime", "period.start")
    together = [m.column.name for path in wanted for m in meanings if m.keys.get("path") == path]
    if together and len({tuple(row[name] for name in together) for row in seen.content}) == seen.rows:
        return together
    return keys[:1] or together or [seen.columns[0].name]


def _named(columns: Sequence[ColumnSeen], wanted: Sequence[str]) -> ColumnSeen | None:
    for word in wanted:
        for column in columns:
            if _plain(column.name) == word:
                return column
    for word in wanted:
        for column in columns:
            if len(word) > 3 and _plain(column.name).startswith(word):
                return column
    return None


def _meaning(column: ColumnSeen, element: str, by_element: dict[str, str], systems: str) -> Meaning:
    match element:
        case "":
            return Meaning(column, {})
        case "identifier":
            return Meaning(column, {"path": "identifier", "system": f"{systems}/{_slug(column.name)}"})
        case "subject":
            return Meaning(column, {"path": "subject", "reference": "Patient"})
        case "gender":
            return _gender(column)
        case "code" | "class":
            keys: dict[str, object] = {"path": element, "system": f"{systems}/{_slug(column.name)}"}
            display = by_element.get("display")
            return Meaning(column, keys | ({"display": display} if display and element == "code" else {}))
        case "display" | "unit":
            return Meaning(column, {}, f"goes with another column, as its {element}")
        case "valueQuantity":
            return _value(column, by_element.get("unit"))
        case "status":
            return Meaning(column, {"path": "status"}, "codes of FHIR's own; translate others with 'codes'")
    if element[-4:] in ("Date", "Time") or element.startswith("period."):
        return _date(column, element)
    return Meaning(column, {"path": element})


def _gender(column: ColumnSeen) -> Meaning:
    codes = {word: _SEXES[word.lower()] for word in column.words if word.lower() in _SEXES}
    rest = len(column.words) - len(codes)
    note = f"{rest} more words were seen and are not listed" if rest else ""
    return Meaning(column, {"path": "gender", "codes": codes} if codes else {"path": "gender"}, note)


def _value(column: ColumnSeen, unit: str | None) -> Meaning:
    if not column.has_result:
        return Meaning(column, {"path": "valueString"})
    keys: dict[str, object] = {"path": "valueQuantity"}
    keys |= {"decimal": "comma"} if column.has_comma else {}
    keys |= {"unit_from": unit} if unit else {}
    keys |= {} if column.is_number else {"else": "valueString"}
    return Meaning(column, keys)


def _date(column: ColumnSeen, element: str) -> Meaning:
    if not column.date:
        return Meaning(column, {"path": element}, "state its form: date: DD.MM.YYYY")
    first, _, other = column.date.partition("|")
    if other:
        note = f"no date seen tells {first} from {other}: ask"
        return Meaning(column, {"path": element, "date": first}, note)
    return Meaning(column, {"path": element, "date": first})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("ü", "ue").replace("ä", "ae").replace("ö", "oe"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "codes"
