"""A large message, taken entry after entry, comes to what it comes to when it is taken whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.intake import Limits, receive_in_turn
from fhir_bridge.lines.keeping import KeptRecords, decode, encode, in_blocks
from fhir_bridge.lines.pure import Flow, process
from fhir_bridge.lines.unwrapping import attested
from fhir_bridge.model.ingest import FhirVersion, Normalized, Processed, Received, Signed, SourceContext, Validated
from fhir_bridge.normalize.links import local_id
from tests.support.bridge_world import observation, patient
from tests.support.hospitals import BROKEN, MAPPINGS, SMALL, VERSIONS, directory, lanes

Json = dict[str, Any]
LIMITS = Limits(max_entries=2_000, max_depth=40)
KINDS = ("transaction", "batch", "collection")
FILLING = 300
"""More than are judged and kept together."""


class Blocks:
    """An overflow in memory."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def put(self, content: bytes) -> int:
        self._held.append(content)
        return len(self._held) - 1

    def get(self, number: int) -> bytes:
        return self._held[number]


def source(hospital: str = "northgate") -> SourceContext:
    pack = str(MAPPINGS / hospital)
    return SourceContext(hospital, f"{hospital}-id", FhirVersion(VERSIONS[hospital]), bytes(range(32)), pack)


def received(body: bytes | memoryview, hospital: str = "northgate", **more: Any) -> Received:
    return Received(hospital, FhirVersion(VERSIONS[hospital]), body, datetime(2026, 1, 1, tzinfo=UTC), **more)


def in_turn(message: Received, hospital: str = "northgate") -> Processed:
    """Return what comes of a message entry after entry, its records slim."""
    flow = Flow(replace(message, body=memoryview(message.content)), source(hospital), LIMITS)
    kept = KeptRecords(Blocks())
    for some in in_blocks(flow):
        kept.put(encode(some))
    kept.say_charts(flow.charts)
    return replace(flow.done, records=kept)


def taken_in_turn(message: Received, hospital: str = "northgate") -> Processed:
    """Return what comes of a message entry after entry, its records read back whole."""
    done = in_turn(message, hospital)
    kept, records = done.records, tuple(slim.whole for slim in done.records)
    assert len(kept) == len(records)
    assert [(s.index, s.id, s.chart, s.row.content, s.identifiers, s.flags) for s in kept] == [
        (r.index, r.id, r.chart, r.row.content, r.identifiers, r.flags) for r in records
    ]
    return replace(done, records=records)


def without_bytes(done: Processed) -> Processed:
    """Return it as it crosses; a quarantined entry of a large message is without its bytes: the letter holds them."""
    quarantined = tuple(replace(each, original=b"") for each in done.quarantined)
    return replace(done, records=tuple(decode(encode(done.records))), quarantined=quarantined)


def check_same(body: bytes, hospital: str = "northgate", **more: Any) -> Processed:
    message = received(body, hospital, **more)
    whole = process(message, source(hospital), LIMITS)
    assert taken_in_turn(message, hospital) == without_bytes(whole)
    return whole


@pytest.mark.parametrize("hospital", VERSIONS)
def test_all_that_three_people_brought_to_the_hospitals(hospital: str) -> None:
    sent = [directory(hospital), *(message for lane in lanes(hospital, SMALL) for message in lane.messages)]
    assert sum(len(check_same(message, hospital).records) for message in sent) > len(sent)


@pytest.mark.parametrize("name", sorted(file.name for file in BROKEN.iterdir() if file.suffix != ".csv"))
def test_whatever_is_broken(name: str) -> None:
    check_same((BROKEN / name).read_bytes())


def test_a_bundle_of_hundreds_is_taken_in_turn_and_not_whole() -> None:
    """Otherwise everything here would compare a thing with itself."""
    flow = Flow(received(memoryview(bundle("transaction", filling()))), source(), LIMITS)
    first: Normalized = next(iter(flow))
    assert first.index == 0
    assert flow.done == Processed("single"), "nothing is known of the end yet"


# --- bundles made by hand


def entry(resource: Json, method: str = "PUT", *, url: str = "", full_url: str = "", **request: str) -> Json:
    target = resource["resourceType"] if method == "POST" else f"{resource['resourceType']}/{resource.get('id')}"
    made: Json = {"resource": resource, "request": {"method": method, "url": url or target, **request}}
    return made | {"fullUrl": full_url} if full_url else made


def deletion(name: str) -> Json:
    return {"request": {"method": "DELETE", "url": name}}


def filling() -> list[Json]:
    return [entry(patient("p1")), *(entry(observation(f"filling-{n}", "p1")) for n in range(FILLING))]


def bundle(kind: str, entries: list[Json], **more: Any) -> bytes:
    if kind == "collection":
        entries = [{name: value for name, value in each.items() if name != "request"} for each in entries]
    return json.dumps({"resourceType": "Bundle", **more, "type": kind, "entry": entries}).encode()


MEDICATION: Json = {"resourceType": "Medication", "id": "m1", "code": {"text": "aspirin"}}
ORDER: Json = {
    "resourceType": "MedicationRequest",
    "id": "r1",
    "status": "active",
    "intent": "order",
    "medicationReference": {"reference": "Medication/m1"},
    "subject": {"reference": "Patient/p1"},
}
CONDITION = "identifier=https://northgate.example.org/mrn|p9"
PERSON = "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e11"
NAMED = {"subject": {"reference": "Patient?identifier=https://northgate.example.org/mrn|p1"}}
STRANGER = {"subject": {"reference": "Patient?identifier=https://northgate.example.org/mrn|nobody"}}
ENTRIES: Mapping[str, Json] = {
    "a patient": entry(patient("p1")),
    "another patient": entry(patient("p2")),
    "a patient under a name of the message": entry(
        {"resourceType": "Patient", "identifier": patient("p3")["identifier"]}, "POST", full_url=PERSON
    ),
    "a conditional create": entry(patient("p9"), "POST", ifNoneExist=CONDITION),
    "an observation": entry(observation("o1", "p1")),
    "of the one with a name of the message": entry(observation("o2", "") | {"subject": {"reference": PERSON}}),
    "of one found by number": entry(observation("o3", "") | NAMED),
    "of one that no entry is": entry(observation("o4", "") | STRANGER),
    "of nobody": entry(observation("o5", "") | {"subject": {"display": "somebody"}}),
    "a medication": entry(MEDICATION),
    "what refers to the medication": entry(ORDER),
    "an order by nobody": entry(ORDER | {"id": "r2", "subject": {"reference": "Group/g"}}),
    "a deletion": deletion("Observation/o9"),
    "a deletion of what is sent too": deletion("Observation/o1"),
    "a condition on a version": entry(observation("o6", "p1"), ifMatch='W/"1"'),
    "an invalid record": entry(observation("o7", "p1") | {"status": "unheard-of"}),
    "a flagged record": entry(observation("o8", "p1") | {"effectiveDateTime": "2026-13"}),
    "another type than its request": entry(observation("o10", "p1"), url="Condition/o10"),
    "no request": {"resource": observation("o11", "p1")},
    "no resource": {"request": {"method": "PUT", "url": "Patient/p4"}},
    "a key that FHIR does not know": entry(observation("o12", "p1")) | {"colour": "red"},
    "no id": entry({name: value for name, value in observation("", "p1").items() if name != "id"}, "POST"),
    "a bundle in the bundle": entry({"resourceType": "Bundle", "id": "b", "type": "collection"}),
    "nothing": {},
    "the same full URL": entry(
        observation("o13", "p1"), full_url="https://northgate.example.org/fhir/Observation/o13"
    ),
    "the same full URL again": entry(
        observation("o14", "p1"), full_url="https://northgate.example.org/fhir/Observation/o13"
    ),
}


@given(
    kind=st.sampled_from(KINDS),
    names=st.lists(st.sampled_from(sorted(ENTRIES)), max_size=8),
    at=st.sampled_from((0, FILLING // 2, FILLING)),
    is_filled=st.booleans(),
    shell=st.sampled_from(({}, {"id": "b1"}, {"id": "no id!"}, {"total": 3}, {"colour": 1}, {"link": []})),
)
def test_whatever_entries_say_of_each_other(
    kind: str, names: list[str], at: int, is_filled: bool, shell: Json
) -> None:
    entries = filling() if is_filled else []
    entries[at:at] = [ENTRIES[name] for name in names]
    check_same(bundle(kind, entries, **shell))


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_entry_behind_hundreds(kind: str, name: str) -> None:
    check_same(bundle(kind, [*filling(), ENTRIES[name]]))


def test_what_the_line_found_is_used() -> None:
    conditional = process(received(bundle("batch", [ENTRIES["a conditional create"]])), source(), LIMITS)
    entries = [*filling(), ENTRIES["of one that no entry is"], ENTRIES["a conditional create"]]
    done = check_same(
        bundle("transaction", entries),
        same_as=((conditional.records[0].id, "there"),),
        patients=(("https://northgate.example.org/mrn|nobody", "known"),),
    )
    assert done.records[-1].id == "there"
    assert done.records[-2].row.references == ("Patient/known",)


def test_the_signature_of_a_message_is_in_the_lineage_of_each_record() -> None:
    message = received(bundle("transaction", [*filling(), deletion("Observation/o9")]), signature="a..b")
    signed = Signed("id", {"kty": "OKP"}, "thumbprint")
    whole = attested(without_bytes(process(message, source(), LIMITS)), message, signed)
    slim = attested(in_turn(message), message, signed)
    assert tuple(each.whole for each in slim.records) == whole.records
    assert whole.records[-1].lineage.count(b"thumbprint") == 1
    assert replace(slim, records=()) == replace(whole, records=())


def test_hundreds_of_faults_are_told_as_of_a_bundle_taken_whole() -> None:
    check_same(bundle("batch", [ENTRIES["a key that FHIR does not know"]] * 700))


def broken_texts() -> Iterator[tuple[str, bytes]]:
    good = bundle("transaction", [*filling(), entry(MEDICATION | {"code": {"text": '"entry": [ {} ]'}})])
    yield "cut off", good[:-9]
    yield "an entry cut off", good.replace(b'"filling-299"', b'"filling-299', 1)
    yield "a key twice in an entry", good.replace(b'"id": "filling-299"', b'"id": "x", "id": "filling-299"', 1)
    yield "a key twice", good[:-1] + b', "type": "batch"}'
    yield "entries twice", good[:-1] + b', "entry": []}'
    yield "no UTF-8 in an entry", good.replace(b'"filling-299"', b'"filling-\xff"', 1)
    yield "half a surrogate pair", good.replace(b'"filling-299"', b'"filling-\\ud800"', 1)
    yield "NaN", good.replace(b'"filling-299"', b"NaN", 1)
    yield "a byte order mark", b"\xef\xbb\xbf" + good
    yield "too deep in an entry", good.replace(b'"filling-299"', b"[" * 40 + b"]" * 40, 1)
    deep = LIMITS.max_depth - 4
    yield "as deep as may be", good.replace(b'"filling-299"', b"[" * deep + b"]" * deep, 1)
    yield "one too deep", good.replace(b'"filling-299"', b"[" * (deep + 1) + b"]" * (deep + 1), 1)
    yield "something behind it", good + b" {}"
    yield "entries that are none", good.replace(b'"entry": [', b'"entry": [1, null, ', 1)
    yield (
        "entries first",
        b'{"entry": [' + good.partition(b'"entry": [')[2].rstrip(b"]}") + b'}], "resourceType": "Bundle"}',
    )
    yield (
        "what looks like entries before",
        good.replace(b'{"resourceType": "Bundle"', b'{"resourceType": "Bundle", "link": [{"entry": [{}]}]', 1),
    )
    yield "spaced", good.replace(b", ", b"\r\n\t , ").replace(b"]", b" ]")
    yield "no bundle", json.dumps(patient("p1")).encode()
    yield "a list", b"[" + good + b"]"
    yield "xml", b"<Bundle/>"
    yield "too many entries", bundle("batch", filling() * 7)


@pytest.mark.parametrize(
    ("name", "body"), list(broken_texts()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_texts_that_are_not_a_plain_bundle(name: str, body: bytes) -> None:
    check_same(body)


def test_what_many_entries_say_is_held_once() -> None:
    people = [entry(patient(f"p{n}")) for n in range(FILLING)]
    reception = receive_in_turn(received(memoryview(bundle("transaction", people))), LIMITS)
    assert reception is not None
    assert reception.whole is not None
    judged = [each for each in reception.entries if isinstance(each, Validated)]
    assert len(judged) == FILLING
    assert len({id(each.interaction.method) for each in judged}) == 1
    assert len({id(each.interaction.type) for each in judged}) == 1
    for each in judged:
        whole = reception.whole(each)
        assert whole.resource is not None
        assert local_id(whole, whole.resource) is each.interaction.id
