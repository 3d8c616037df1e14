"""What intake takes, refuses and flags; the manifest of broken inputs is the judge."""

import copy
import csv
import json
import pickle
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_bridge.errors import Issue
from fhir_bridge.intake import Limits, receive, split_ndjson
from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, Reception, Refusal, Validated
from tests.unit.fhir.fhir_samples import BROKEN, Json, example_bytes, observation, patient

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MANIFEST = list(csv.DictReader((BROKEN / "manifest.csv").read_text(encoding="utf-8").splitlines()))


def take(body: Any, version: FhirVersion = FhirVersion.R4, **more: Any) -> Reception:
    """Receive bytes, or a value written as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    limits = more.pop("limits", Limits())
    return receive(Received("northgate", version, data, NOW, **more), limits)


def outcome(reception: Reception) -> tuple[str, list[Issue]]:
    """``reject``, ``flag`` or ``accept``, with the findings."""
    if reception.refused:
        return "reject", list(reception.refused)
    issues = [f for e in reception.entries for f in (e.flags if isinstance(e, Validated) else e.issues)]
    return ("flag" if issues else "accept"), issues


@pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["file"])
def test_every_broken_input_ends_as_the_manifest_says(row: dict[str, str]) -> None:
    verdict, issues = outcome(take((BROKEN / row["file"]).read_bytes()))
    assert verdict in row["expect"].replace("reject-or-convert", "reject").split("-or-")
    assert not row["issue_code"] or row["issue_code"] in {i.code for i in issues}


def test_the_manifest_is_whole() -> None:
    assert len(MANIFEST) == 37
    assert {r["file"] for r in MANIFEST} | {"manifest.csv"} == {p.name for p in BROKEN.iterdir()}


@pytest.mark.parametrize(("release", "version"), [("r4", FhirVersion.R4), ("stu3", FhirVersion.STU3)])
def test_official_examples_are_taken_as_they_came(release: str, version: FhirVersion) -> None:
    """But Bundles, which are no records of their own."""
    for line in example_bytes(release):
        reception = take(line, version)
        if b'"resourceType":"Bundle"' in line[:40].replace(b" ", b""):
            continue
        assert isinstance(reception.entries[0], Validated)
        assert reception.entries[0].original == line


def entry(resource: Json | None = None, method: str = "PUT", url: str | None = None, **more: Any) -> Json:
    made: Json = {"request": {"method": method, "url": url}} | more
    if resource is not None:
        made["resource"] = resource
        target = f"{resource['resourceType']}/{resource.get('id')}"
        made["request"]["url"] = url or (target if method != "POST" else resource["resourceType"])
    return made


def bundle(*entries: Any, kind: str = "transaction") -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def refused(reception: Reception) -> set[tuple[str, str]]:
    assert reception.entries == ()
    return {(i.code, i.expression) for i in reception.refused if i.severity == "error"}


GOOD = entry(patient())
E0 = "Bundle.entry[0]"

REFUSED: dict[str, tuple[Json, str, str]] = {
    "no request": ({"resource": patient()}, "required", f"{E0}.request"),
    "request without method": (
        {"resource": patient(), "request": {"url": "Patient/p1"}},
        "required",
        f"{E0}.request.method",
    ),
    "request without url": ({"resource": patient(), "request": {"method": "PUT"}}, "required", f"{E0}.request.url"),
    "unknown method": (entry(patient(), "MERGE", "Patient/p1"), "code-invalid", f"{E0}.request.method"),
    "reading": (entry(None, "GET", "Patient/p1"), "not-supported", f"{E0}.request.method"),
    "patching": (entry(patient(), "PATCH", "Patient/p1"), "not-supported", f"{E0}.request.method"),
    "no resource": (entry(None, "PUT", "Patient/p1"), "required", f"{E0}.resource"),
    "url of another type": (entry(patient(), "PUT", "Observation/p1"), "invalid", f"{E0}.request.url"),
    "url of another id": (entry(patient(), "PUT", "Patient/p2"), "invalid", f"{E0}.resource.id"),
    "update without an id in the body": (
        entry(patient(id=None), "PUT", "Patient/p1"),
        "invalid",
        f"{E0}.resource.id",
    ),
    "update of a type": (entry(patient(), "PUT", "Patient"), "invalid", f"{E0}.request.url"),
    "update of a version": (entry(patient(), "PUT", "Patient/p1/_history/1"), "invalid", f"{E0}.request.url"),
    "absolute url": (entry(patient(), "PUT", "http://x.example/Patient/p1"), "invalid", f"{E0}.request.url"),
    "path out of the base": (entry(patient(), "PUT", "../Patient/p1"), "invalid", f"{E0}.request.url"),
    "creation of another type": (entry(patient(), "POST", "Observation"), "invalid", f"{E0}.request.url"),
    "creation under an id": (entry(patient(), "POST", "Patient/p1"), "invalid", f"{E0}.request.url"),
    "conditional update": (entry(patient(), "PUT", "Patient?identifier=a|b"), "not-supported", f"{E0}.request.url"),
    "conditional deletion": (entry(None, "DELETE", "Patient?active=true"), "not-supported", f"{E0}.request.url"),
    "entity tag without quotes": (
        {"resource": patient(), "request": {"method": "PUT", "url": "Patient/p1", "ifMatch": "3"}},
        "value",
        f"{E0}.request.ifMatch",
    ),
    "ifNoneMatch": (
        {"resource": patient(), "request": {"method": "PUT", "url": "Patient/p1", "ifNoneMatch": "*"}},
        "not-supported",
        f"{E0}.request.ifNoneMatch",
    ),
    "fullUrl of another id": (
        entry(patient(), fullUrl="http://x.example/Patient/p2"),
        "invalid",
        f"{E0}.fullUrl",
    ),
    "fullUrl that is not absolute": (
        entry(patient(), fullUrl="Patient/p1"),
        "value",
        f"{E0}.fullUrl",
    ),
    "fullUrl of another type": (
        entry(patient(), fullUrl="http://x.example/Observation/p1"),
        "invalid",
        f"{E0}.fullUrl",
    ),
    "unknown element of an entry": (entry(patient(), id="x", foo=1), "structure", E0),
    "invalid resource": (entry(patient(gender="x")), "code-invalid", f"{E0}.resource.gender"),
    "unknown resource type": (
        entry({"resourceType": "Nothing", "id": "x"}, url="Nothing/x"),
        "structure",
        f"{E0}.resource",
    ),
    "bundle in a bundle": (
        entry({"resourceType": "Bundle", "id": "b", "type": "collection"}),
        "not-supported",
        f"{E0}.resource",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_bad_entry_refuses_a_transaction_and_names_its_place(name: str) -> None:
    bad, code, place = REFUSED[name]
    assert (code, place) in refused(take(bundle(bad, entry(observation()))))


@pytest.mark.parametrize("name", REFUSED)
def test_one_bad_entry_leaves_the_rest_of_a_batch(name: str) -> None:
    bad, code, place = REFUSED[name]
    reception = take(bundle(bad, entry(observation()), kind="batch"))
    assert reception.refused == ()
    first, second = reception.entries
    assert isinstance(first, Refusal)
    assert (code, place) in {(i.code, i.expression) for i in first.issues}
    assert isinstance(second, Validated)


@pytest.mark.parametrize("value", [7, None, "x", [], True])
def test_an_entry_that_is_no_object_is_refused(value: Any) -> None:
    assert any(place.startswith(E0) for _, place in refused(take(bundle(value))))


def test_entries_about_the_same_thing_are_refused() -> None:
    assert refused(take(bundle(GOOD, GOOD))) == {("duplicate", "Bundle.entry[1]")}
    assert refused(take(bundle(GOOD, entry(None, "DELETE", "Patient/p1")))) == {("duplicate", "Bundle.entry[1]")}
    same_url = [entry(patient(), fullUrl="urn:x:1"), entry(observation(), fullUrl="urn:x:1")]
    assert refused(take(bundle(*same_url))) == {("invariant", "Bundle.entry[1].fullUrl")}


def test_a_urn_is_judged_by_what_it_points_to() -> None:
    urn = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"
    medication = {"resourceType": "Medication", "id": "m"}
    for target, expected in (
        (medication, {("invalid", "Bundle.entry[1].resource.subject.reference")}),
        (patient(), set()),
    ):
        entries = [entry(target, "POST", fullUrl=urn), entry(observation(subject={"reference": urn}), "POST")]
        assert {(i.code, i.expression) for i in take(bundle(*entries)).refused} == expected


def test_what_a_transaction_asks_for_is_read() -> None:
    deletion = entry(None, "DELETE", "Observation/o9")
    creation = entry(observation(id=None), "POST")
    creation["request"]["ifNoneExist"] = "identifier=a|b"
    update = entry(patient(), fullUrl="http://x.example/Patient/p1")
    update["request"]["ifMatch"] = 'W/"3"'
    reception = take(bundle(update, creation, deletion))
    assert reception.kind == "transaction"
    assert [e.interaction for e in reception.entries if isinstance(e, Validated)] == [
        Interaction("PUT", "Patient", "p1", if_match="3"),
        Interaction("POST", "Observation", None, if_none_exist="identifier=a|b"),
        Interaction("DELETE", "Observation", "o9"),
    ]
    first, second, third = (e for e in reception.entries if isinstance(e, Validated))
    assert first.full_url == "http://x.example/Patient/p1"
    assert second.resource == observation(id=None)
    assert third.resource is None


def test_entries_keep_their_exact_bytes() -> None:
    inner = b'{ "resource" :{"resourceType":"Patient","id":"p1" , "multipleBirthInteger": 1},"request":'
    inner += b'{"method":"PUT","url":"Patient/p1"}  }'
    reception = take(b'{"resourceType":"Bundle","type":"transaction","entry":[\n' + inner + b" ]}")
    assert isinstance(reception.entries[0], Validated)
    assert reception.entries[0].original == inner


def test_a_collection_is_a_bag_of_resources() -> None:
    reception = take(bundle({"resource": patient()}, {"resource": observation(id=None)}, kind="collection"))
    assert [e.interaction for e in reception.entries if isinstance(e, Validated)] == [
        Interaction("PUT", "Patient", "p1"),
        Interaction("POST", "Observation", None),
    ]
    bad = take(bundle(GOOD, {"fullUrl": "urn:x:1"}, kind="collection"))
    assert all(isinstance(e, Refusal) for e in bad.entries)


@pytest.mark.parametrize("kind", ["searchset", "history", "document", "message", "batch-response", "zz", ""])
def test_other_bundles_are_refused(kind: str) -> None:
    assert refused(take(bundle(kind=kind) | {"entry": [GOOD]})) == {("not-supported", "Bundle.type")}


def test_a_bundle_without_type_or_with_too_many_entries_is_refused() -> None:
    assert refused(take({"resourceType": "Bundle"})) == {("required", "Bundle.type")}
    many = bundle(GOOD, entry(observation()))
    assert refused(take(many, limits=Limits(max_entries=1))) == {("too-costly", "Bundle.entry")}
    assert "at most 1 entries" in take(many, limits=Limits(max_entries=1)).refused[0].diagnostics


def test_a_fault_of_the_bundle_itself_refuses_even_a_batch() -> None:
    assert refused(take(bundle(GOOD, kind="batch") | {"total": "x"})) == {("value", "Bundle.total")}


@pytest.mark.parametrize(
    ("interaction", "body", "expected"),
    [
        (Interaction("PUT", "Patient", "p1"), patient(), set()),
        (Interaction("POST", "Patient"), patient(id=None), set()),
        (Interaction("PUT", "Patient", "p2"), patient(), {("invalid", "Patient.id")}),
        (Interaction("PUT", "Patient", "p1"), patient(id=None), {("invalid", "Patient.id")}),
        (Interaction("POST", "Observation"), patient(), {("invalid", "Patient.resourceType")}),
        (Interaction("POST", "Bundle"), bundle(GOOD), {("not-supported", "Bundle")}),
    ],
)
def test_url_and_body_of_a_single_resource_must_agree(
    interaction: Interaction, body: Json, expected: set[tuple[str, str]]
) -> None:
    reception = take(body, interaction=interaction)
    assert {(i.code, i.expression) for i in reception.refused} == expected
    if not expected:
        assert isinstance(reception.entries[0], Validated)
        assert reception.entries[0].interaction == interaction


def test_a_bare_resource_from_a_bus_is_an_update_of_its_id() -> None:
    for body, interaction in (
        (patient(), Interaction("PUT", "Patient", "p1")),
        (patient(id=None), Interaction("POST", "Patient")),
    ):
        reception = take(body)
        assert isinstance(reception.entries[0], Validated)
        assert reception.entries[0].interaction == interaction


def test_a_deletion_needs_no_body() -> None:
    reception = take(b"", interaction=Interaction("DELETE", "Patient", "p1"))
    assert reception.entries == (Validated(0, Interaction("DELETE", "Patient", "p1"), None, b"", None),)


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b'<Patient xmlns="http://hl7.org/fhir"/>', "application/fhir+xml", "not-supported"),
        (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><x/>', "application/fhir+xml", "security"),
        (b'\xef\xbb\xbf <?xml version="1.0"?><!doctype x><x/>', "application/fhir+json", "security"),
        ('<?xml version="1.0"?><!DOCTYPE x><x/>'.encode("utf-16"), "text/xml", "security"),
        (b'{"resourceType":"Patient"}\n{"resourceType":"Patient"}', "application/fhir+ndjson", "not-supported"),
        (b"", "application/fhir+json", "structure"),
        (b" \n", "application/fhir+json", "structure"),
        (b'{"resourceType":"Patient"}' + b" " * 100, "application/fhir+json", "too-long"),
    ],
)
def test_what_is_not_json_is_refused_by_name(body: bytes, content_type: str, code: str) -> None:
    reception = take(body, content_type=content_type, limits=Limits(max_bytes=110))
    assert [i.code for i in reception.refused] == [code]


def test_depth_is_limited() -> None:
    deep: Json = {"url": "u", "valueString": "x"}
    for _ in range(60):
        deep = {"url": "u", "extension": [deep]}
    told = take(patient(extension=[deep]), limits=Limits(max_depth=77)).refused
    assert [i.code for i in told] == ["too-costly"]
    assert "77" in told[0].diagnostics
    assert take(patient(extension=[deep]), limits=Limits(max_depth=200)).refused == ()


def test_releases_have_their_own_channel() -> None:
    stu3 = (BROKEN / "stu3-as-r4.json").read_bytes()
    assert isinstance(take(stu3, FhirVersion.STU3).entries[0], Validated)
    assert {i.code for i in take(stu3, FhirVersion.R4).refused} == {"structure"}
    assert isinstance(take(patient(), FhirVersion.R4B).entries[0], Validated)
    # AllergyIntolerance.participant is R5's, recorder R4's (the "R4 Diff" of R5 allergyintolerance.html).
    allergy = {"resourceType": "AllergyIntolerance", "patient": {"reference": "Patient/p"}, "code": {"text": "nuts"}}
    r5 = {**allergy, "participant": [{"actor": {"reference": "Patient/p"}}]}
    assert isinstance(take(r5, FhirVersion.R5).entries[0], Validated)
    assert {i.code for i in take({**allergy, "recorder": {}}, FhirVersion.R5).refused} == {"structure"}
    assert {i.code for i in take(r5, FhirVersion.R4).refused} >= {"structure"}


def test_ndjson_is_split_into_messages() -> None:
    assert split_ndjson(b'{"a":1}\r\n\n {"b":2}\n') == [b'{"a":1}\r', b' {"b":2}']
    assert split_ndjson(b"") == []


def test_a_reception_crosses_to_another_process() -> None:
    body = b'{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1e2}}'
    reception = take(body)
    assert pickle.loads(pickle.dumps(reception)) == reception


JUNK: list[Any] = [None, {}, [], "", 0, -1, True, "Zzcanary", {"Zzcanary": 1}, [[]], [None], 1e300, "Group/Zzcanary"]


def _mangle(value: Any, chooser: random.Random) -> None:
    """Change one thing somewhere in a JSON value."""
    holders = [value]
    for holder in holders:
        holders += [
            v for v in (holder.values() if isinstance(holder, dict) else holder) if isinstance(v, (dict, list))
        ]
    holder = chooser.choice([h for h in holders if h])
    key = chooser.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    junk: list[Any] = [
        None,
        {},
        [],
        "",
        0,
        -1,
        True,
        "Zzcanary",
        {"Zzcanary": 1},
        [[]],
        [None],
        1e300,
        "Patient/Zzcanary",
    ]
    holder[key] = chooser.choice(junk)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_mangled_ends_in_a_reception_without_the_senders_words(seed: int) -> None:
    chooser = random.Random(seed)
    value: Json = copy.deepcopy(bundle(GOOD, entry(observation(valueQuantity={"value": 1})), kind="batch"))
    for _ in range(chooser.randint(1, 4)):
        _mangle(value, chooser)
    reception = take(value)
    texts = [i for e in reception.entries for i in (e.flags if isinstance(e, Validated) else e.issues)]
    assert "anary" not in repr(texts) + repr(reception.refused)
