"""JSON Schemas (2020-12) of rule files and of ``source.yaml``, made from the table of verbs, for editors.

An editor with them completes verbs and arguments and underlines most mistakes while they are typed; paths, tables and
conditions are for ``map lint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhir_bridge.fhir.profiles import SEVERITIES
from fhir_bridge.fhir.tables import definitions_of, r4
from fhir_bridge.mapping_tools.findings import CODES
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.accepted import KEYS as ACCEPTED_KEYS
from fhir_bridge.normalize.csv_choices import DELIMITERS, SPREAD_KEYS, TABLE_KEYS
from fhir_bridge.normalize.csv_columns import COLUMN_KEYS
from fhir_bridge.normalize.map_files import COLUMNS as MAP_COLUMNS
from fhir_bridge.normalize.preferred_units import COLUMNS as PREFERRED_COLUMNS
from fhir_bridge.normalize.rules import ANY, FROM, STAGES, VERBS
from fhir_bridge.normalize.table_files import GUESS
from fhir_bridge.normalize.tables import LABEL_COLUMNS, UNIT_COLUMNS
from fhir_bridge.normalize.verb_args import Arg, Verb

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]
_TEXT: Json = {"type": "string", "pattern": "\\S"}
_ARGS: Mapping[str, Json] = {
    "path": {**_TEXT, "description": "path of an element: names joined by dots, each may be followed by where(…)"},
    "sibling": {**_TEXT, "description": "name of an element beside the other"},
    "text": {**_TEXT, "description": "a text; %source.name stands for a constant of source.yaml"},
    "value": {"description": "any JSON value; %source.name in its texts stands for a constant of source.yaml"},
    "map": {**_TEXT, "description": "name of a map of source.yaml"},
    "unit table": {**_TEXT, "description": "name of a unit table of source.yaml"},
    "label table": {**_TEXT, "description": "name of a label table of source.yaml"},
}


def rules_schema() -> Json:
    """The schema of a file of rules: one rule, or a list of them."""
    return {
        "$schema": DIALECT,
        "$id": "urn:fhir-bridge:schema:rules",
        "title": "fhir-bridge mapping rules",
        "oneOf": [{"$ref": "#/$defs/rule"}, {"type": "array", "items": {"$ref": "#/$defs/rule"}}],
        "$defs": {"rule": _rule(), "step": _step(), "type": _type()},
    }


def source_schema() -> Json:
    """The schema of ``source.yaml``."""
    return {
        "$schema": DIALECT,
        "$id": "urn:fhir-bridge:schema:source",
        "title": "fhir-bridge source.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "institution": _said("whose records these are; %source.institution"),
            "fhir_version": {
                "enum": [version.value for version in FhirVersion],
                "description": "release of the records and of the examples",
            },
            "time_zone": _said("IANA name of the zone whose clocks times without an offset tell; %source.time_zone"),
            "base_urls": _list("bases of absolute URLs that mean the sender's own records"),
            "extends": {"const": "core", "description": "the rules of core run before the pack's"},
            "constants": _named(_TEXT, "names for texts that rules use as %source.name"),
            "maps": _named(_table(MAP_COLUMNS), "code maps for translate and identifier"),
            "units": _named(_table(UNIT_COLUMNS, spellings=_said("CSV file unit,ucum")), "unit tables for unit"),
            "preferred_units": _named(
                _table(PREFERRED_COLUMNS, spellings=_said("CSV file unit,ucum")),
                "units that codes prefer, for unit",
            ),
            "csv": _named(_csv_file(), "CSV files that the institution sends, by a name for messages"),
            "labels": _named(
                _table(LABEL_COLUMNS, label_system=_said("code system of the labels")), "label tables for tag"
            ),
            "profiles": {"type": "array", "items": _profile()},
            "accepted": {"type": "array", "items": _accepted(), "description": "findings of lint that may stand"},
            "why": _TEXT,
        },
        "$defs": {"resource": {"enum": sorted(r4().resource_types())}},
    }


def _rule() -> Json:
    types: Json = {"oneOf": [{"$ref": "#/$defs/type"}, {"type": "array", "items": {"$ref": "#/$defs/type"}}]}
    return {
        "type": "object",
        "required": ["rule", "on", "do", "why"],
        "additionalProperties": False,
        "properties": {
            "rule": _said("unique name; stands in the lineage"),
            "version": {"type": "integer", "description": "counted up when the rule changes"},
            "stage": {"enum": list(STAGES), "description": "when the rule runs; content by default"},
            "from": {"enum": list(FROM), "description": "release whose records the rule converts"},
            "on": {**types, "description": "resource types that the rule works on"},
            "when": _said("FHIRPath; the rule fires where it is true"),
            "do": {"type": "array", "items": {"$ref": "#/$defs/step"}, "description": "verbs, in their order"},
            "why": _said("the reason; it stands in the lineage of every value the rule changes"),
        },
    }


def _type() -> Json:
    known = r4().resource_types().union(*(definitions_of(release).resource_types() for release in FROM))
    return {"enum": [ANY, *sorted(known)]}


def _step() -> Json:
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: _verb(verb) for name, verb in VERBS.items()},
    }


def _verb(verb: Verb) -> Json:
    made: Json = {
        "type": "object",
        "description": verb.does,
        "additionalProperties": False,
        "properties": {name: _arg(arg) for name, arg in verb.args.items()},
    }
    needed = [name for name, arg in verb.args.items() if arg.needed]
    if needed:
        made["required"] = needed
    if verb.either:
        made["anyOf"] = [{"required": list(group)} for group in verb.either]
    return made


def _arg(arg: Arg) -> Json:
    if arg.kind == "choices":
        return {"type": "array", "items": {"enum": list(arg.options)}}
    return {"enum": list(arg.options)} if arg.options else dict(_ARGS[arg.kind])


def _said(description: str) -> Json:
    return {**_TEXT, "description": description}


def _list(description: str) -> Json:
    return {"type": "array", "items": _TEXT, "description": description}


def _named(each: Json, description: str) -> Json:
    return {"type": "object", "additionalProperties": each, "description": description}


def _table(columns: tuple[str, ...], **more: Json) -> Json:
    by_column = {
        "type": "object",
        "additionalProperties": False,
        "properties": dict.fromkeys(columns, _TEXT),
    }
    return {
        "type": "object",
        "required": ["file", *(name for name in more if name != "spellings")],
        "additionalProperties": False,
        "properties": {
            "file": _said("CSV file in the pack"),
            GUESS: _guess(),
            "where": _named(_TEXT, "which rows: column of the file → value"),
            "columns": {**by_column, "description": "our name → the file's"},
            "constants": {**by_column, "description": "our name → a fixed value"},
            **more,
        },
    }


def _guess() -> Json:
    return {"type": "boolean", "description": "true: nobody has checked it, and it is not used"}


def _csv_file() -> Json:
    texts: Json = {"type": "array", "items": {"type": ["string", "number"]}}
    known: Json = {
        "file": _said("names of the files; * stands for anything; NAME*.csv by default"),
        "type": {"$ref": "#/$defs/resource", "description": "resource that a row becomes"},
        "delimiter": {"enum": list(DELIMITERS), "description": ", by default"},
        "encoding": _said("utf-8 by default; windows-125x, iso-8859-x"),
        "empty": {**texts, "description": "words that mean that there is nothing"},
        "id": {"oneOf": [_TEXT, {**_list("columns"), "minItems": 1}], "description": "which record a row is about"},
        "id_empty": {**texts, "description": "columns of id that may be empty"},
        "spread": _spread(),
        "columns": _named(_one_or_more({"oneOf": [_TEXT, _csv_column()]}), "column → element, or several"),
        "constants": {"type": "object", "description": "element → its value in every row"},
        "ignore": {**texts, "description": "columns that become nothing, knowingly"},
        GUESS: _guess(),
        "why": _TEXT,
    }
    return _object(known, TABLE_KEYS, ["type", "id", "columns"])


def _spread() -> Json:
    by_name: Json = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
    known: Json = {
        "name": _said("what the column's name is called in 'columns' and 'id'"),
        "value": _said("what its cell is called in 'columns'"),
        "columns": {"oneOf": [_list("columns"), _named(by_name, "column → cells that stand beside it, by name")]},
        "optional": {"type": "boolean", "description": "a file may lack any of them"},
    }
    return _object(known, SPREAD_KEYS, ["name", "value", "columns"]) | {
        "description": "columns of a wide table, each of which is a record of its own where it is filled"
    }


def _csv_column() -> Json:
    sign: Json = {"enum": ["comma", "point"]}
    known: Json = {
        "path": _said("element: names joined by dots"),
        "date": _one_or_more(_said("form of dates: YYYY MM M MMM DD D HH H hh h A mm ss Z")),
        "zone": _said("IANA name of the zone, if it is not the source's"),
        "decimal": {**sign, "description": "sign before fractions; point by default"},
        "thousands": {"type": "string", "maxLength": 1, "description": "sign between thousands"},
        "codes": {"type": "object", "description": "word → value; a word that is not listed refuses its row"},
        "system": _said("whose codes or numbers these are"),
        "display": _said("column with the words"),
        "unit": _said("unit of every value, in the institution's spelling"),
        "unit_from": _said("column that holds the unit"),
        "ucum": _said("UCUM code of every value's unit"),
        "else": _said("element for results that are no numbers"),
        "reference": {"$ref": "#/$defs/resource", "description": "type that the key points to"},
        "with": _one_or_more(_said("columns that are joined behind this one")),
        "split": {"type": "string", "minLength": 1, "description": "what separates several values in a cell"},
        "required": {"type": "boolean", "description": "an empty cell refuses the row"},
        "optional": {"type": "boolean", "description": "a file may lack the column"},
        "why": _TEXT,
    }
    return _object(known, COLUMN_KEYS, ["path"])


def _object(known: Mapping[str, Json], keys: Sequence[str], required: Sequence[str]) -> Json:
    """An object with the keys that the loader takes, in the loader's order."""
    return {
        "type": "object",
        "required": list(required),
        "additionalProperties": False,
        "properties": {key: known[key] for key in keys},
    }


def _one_or_more(each: Json) -> Json:
    return {"anyOf": [each, {"type": "array", "items": each, "minItems": 1}]}


def _accepted() -> Json:
    known: Json = {
        "finding": {"enum": [code for code, (severity, _) in CODES.items() if severity == "warning"]},
        "of": {**_list("words of the finding's message: the code, rule or table that it is about"), "minItems": 1},
        "why": _TEXT,
    }
    return _object(known, ACCEPTED_KEYS, ACCEPTED_KEYS)


def _profile() -> Json:
    return {
        "type": "object",
        "required": ["package", "mode", "apply"],
        "additionalProperties": False,
        "properties": {
            "package": _said("package.tgz or folder, from the pack's folder"),
            "needs": _list("packages with definitions that it refers to"),
            "mode": {"enum": list(SEVERITIES), "description": "error refuses the record, warning flags it"},
            "apply": {
                "oneOf": [{"const": "declared"}, {**_list("urls of profiles"), "minItems": 1}],
                "description": "what records claim in meta.profile, or every record of the profiles' types",
            },
            "why": _TEXT,
        },
    }
