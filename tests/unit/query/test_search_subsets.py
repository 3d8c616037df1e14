"""``_elements`` and ``_summary`` show a part of a record, unchanged and marked, as R4 search.html words it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.query import QueryRefused, Shape, everything, read_shape, search
from tests.unit.fhir.fhir_samples import example_bytes, examples
from tests.unit.query.query_samples import NOW, observation, view_of

PATIENT = (
    b'{"resourceType":"Patient","id":"p","meta":{"versionId":"1","lastUpdated":"2026-01-01T00:00:00.000Z"},'
    b'"implicitRules":"urn:x","text":{"status":"generated","div":"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">x</div>"},'
    b'"extension":[{"url":"urn:e","valueDecimal":1.10}],"modifierExtension":[{"url":"urn:m","valueBoolean":true}],'
    b'"identifier":[{"extension":[{"url":"urn:e","valueString":"x"}],"system":"urn:s","value":"t\\u00e4"}],"active":true,'
    b'"name":[{"family":"F","given":["A",null],"_given":[null,{"extension":[{"url":"urn:e","valueCode":"c"}]}]}],'
    b'"contact":[{"name":{"family":"G"}}],"photo":[{"data":"AAAA"}],'
    b'"communication":[{"language":{"text":"en"}}],"link":[{"other":{"reference":"Patient/q"},"type":"refer"}]}'
)
TAG = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def shown(shape: Shape, body: bytes = PATIENT) -> dict[str, Any]:
    decoded: dict[str, Any] = parse(shape.of(json.loads(body)["resourceType"], body))
    assert decoded["meta"]["tag"][-1] == TAG
    return decoded


def test_elements_keep_what_is_asked_and_what_must_not_be_missing() -> None:
    # "Servers SHOULD always return mandatory elements whether they are requested or not"; and modifiers.
    kept = shown(Shape(elements=("name", "contact")))
    always = {"resourceType", "id", "meta", "implicitRules", "modifierExtension", "active", "link"}
    assert set(kept) == always | {"name", "contact"}
    head = b'{"resourceType":"Observation","id":"o","meta":{},"status":"final","code":{"text":"x"}'
    report = head + b',"valueQuantity":{"value":1.10}}'
    assert set(shown(Shape(elements=("issued",)), report)) == {"resourceType", "id", "meta", "status", "code"}
    assert b'"valueQuantity":{"value":1.10}' in Shape(elements=("value",)).of("Observation", report)


def test_summary_true_keeps_what_the_definitions_mark_at_every_level() -> None:
    # patient.html, column of flags: Σ on these, not on contact, photo, communication, text and extension
    kept = shown(Shape(summary="true"))
    marked = {"identifier", "active", "name", "link", "implicitRules"}
    assert set(kept) == marked | {"resourceType", "id", "meta", "modifierExtension"}
    # datatypes.html#Identifier: Σ on system and value; element.html: no Σ on extension
    assert kept["identifier"] == [{"system": "urn:s", "value": "tä"}]
    # A null must keep the extension it stands for.
    assert kept["name"][0]["_given"] == [None, {"extension": [{"url": "urn:e", "valueCode": "c"}]}]
    # datatypes.html#Attachment: no Σ on data
    document = (
        b'{"resourceType":"DocumentReference","id":"d","meta":{},"status":"current","content":'
        b'[{"attachment":{"contentType":"text/plain","data":"AAAA"}},{"attachment":{"data":"AAAA"}}]}'
    )
    content = shown(Shape(summary="true"), document)["content"]
    # attachment is mandatory, so the second, of which nothing is left, stays whole.
    assert content == [{"attachment": {"contentType": "text/plain"}}, {"attachment": {"data": "AAAA"}}]


def test_summary_text_and_data() -> None:
    # "text: Return only the text element, the id element, the meta element, and only top-level mandatory elements"
    assert set(shown(Shape(summary="text"))) == {"resourceType", "id", "meta", "text", "modifierExtension"}
    # "data: Remove the text element"
    assert set(shown(Shape(summary="data"))) == set(parse(PATIENT)) - {"text"}


def test_the_whole_and_tombstones_stay_as_they_are() -> None:
    for shape in (Shape(), Shape(summary="false"), Shape(summary="count")):
        assert shape.of("Patient", PATIENT) == PATIENT
    assert Shape(summary="true").of("Patient", b"") == b""


def test_a_sender_who_marked_a_part_is_not_marked_twice_and_other_tags_stay() -> None:
    once = Shape(summary="data").of("Patient", PATIENT)
    assert Shape(summary="data").of("Patient", once) == once
    tagged = PATIENT.replace(b'"versionId":"1"', b'"versionId":"1","tag":[{"code":"own"}]')
    assert shown(Shape(summary="text"), tagged)["meta"]["tag"] == [{"code": "own"}, TAG]
    bare = b'{"resourceType":"Patient","id":"p"}'
    assert shown(Shape(summary="text"), bare)["meta"] == {"tag": [TAG]}


def _is_part(part: Any, whole: Any) -> bool:
    """Every member and item of the part stands in the whole, in the same order, numbers by their text."""
    if isinstance(whole, dict):
        places = list(whole)
        found = [places.index(key) for key in part] if set(part) <= set(whole) else [1, 0]
        return found == sorted(found) and all(_is_part(part[key], whole[key]) for key in part)
    if isinstance(whole, list):
        rest = iter(whole)
        return all(any(_is_part(item, other) for other in rest) for item in part)
    return bool(render(part) == render(whole))


@pytest.mark.parametrize("summary", ["true", "text", "data"])
def test_parts_of_the_official_examples_are_valid_and_unchanged(summary: str) -> None:
    for body, whole in zip(example_bytes("r4"), examples("r4"), strict=True):
        # What a summary leaves out may be what a contained reference points to or a rule looks for.
        if whole["resourceType"] in ("Bundle", "Parameters") or b'"#' in body:
            continue
        cut = Shape(summary=summary).of(whole["resourceType"], body)
        part = parse(cut)
        tags = part["meta"].pop("tag")
        assert tags[-1] == TAG
        whole.setdefault("meta", {}).pop("tag", None)
        part["meta"], whole["meta"] = {}, {}
        ordered = {key: part[key] for key in whole if key in part}
        assert _is_part(ordered, whole), whole["id"]
        broken = {i.code for i in validate_r4(part) if i.severity in ("error", "fatal")} - {"invariant"}
        assert broken <= {i.code for i in validate_r4(whole)} | ({"structure"} if not whole["meta"] else set())


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([("_summary", "most")], "not-supported"),
        ([("_summary", "count")], "not-supported"),
        ([("_summary", "true"), ("_summary", "true")], "invalid"),
        ([("_summary", "true"), ("_elements", "name")], "invalid"),
        ([("_elements", "nonsense")], "invalid"),
        ([("_elements", "")], "invalid"),
        ([("_elements", "code")], "invalid"),
        # "_include and _revinclude cannot be mixed with _summary=text"
        ([("_summary", "text"), ("_include", "Patient:link")], "invalid"),
        ([("_summary", "text"), ("_revinclude:iterate", "Patient:link")], "invalid"),
    ],
)
def test_what_is_no_part_is_refused(params: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(QueryRefused) as refused:
        read_shape(params, "Patient")
    assert [issue.code for issue in refused.value.issues] == [code]


def test_searches_and_timelines_carry_the_shape_and_count_only_counts_in_a_search() -> None:
    view = view_of(observation("a"))
    assert search(view, "Observation", [("_elements", "code,status")], now=NOW).shape.elements == ("code", "status")
    assert search(view, "Observation", [("_summary", "text")], now=NOW).shape.summary == "text"
    assert everything(view, [("_summary", "data")]).shape.summary == "data"
    assert everything(view, [("_elements", "contact,code")]).shape.elements == ("contact", "code")
    assert len(search(view, "Observation", [("_summary", "false")], now=NOW).found) == 1
    with pytest.raises(QueryRefused):
        everything(view, [("_summary", "count")])
