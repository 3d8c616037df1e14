"""A Bundle is cut into exact byte slices."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.bundles import split_bundle
from tests.unit.fhir.fhir_samples import BROKEN

SPACES = st.text(" \t\r\n", max_size=3)


def test_slices_are_the_bytes_that_came() -> None:
    data = (BROKEN / "bundle-two-patients.json").read_bytes()
    parts = split_bundle(data)
    assert [e["resource"] for e in json.loads(data)["entry"]] == [
        json.loads(e.resource_raw or b"") for e in parts.entries
    ]
    at = 0
    for entry in parts.entries:
        assert entry.resource_raw is not None
        assert entry.resource_raw in entry.raw
        at = data.index(entry.raw, at) + len(entry.raw)


@given(st.lists(SPACES, min_size=8, max_size=8), st.sampled_from(["1.10", "1e2", "-0", "100"]))
def test_spaces_and_numbers_in_an_entry_stay(gaps: list[str], number: str) -> None:
    a, b, c, d, e, f, g, h = gaps
    resource = f'{{{a}"resourceType"{b}:{c}"Basic","x":{number}{d}}}'
    entry = f'{{"fullUrl":"urn:x"{e},"resource":{f}{resource}{g}}}'
    data = f'{{"resourceType":"Bundle","type":"batch","entry":[{h}{entry},{{}}]}}'
    parts = split_bundle(data.encode())
    assert parts.entries[0].raw == entry.encode()
    assert parts.entries[0].resource_raw == resource.encode()
    assert parts.entries[1].resource_raw is None


def test_the_envelope_and_requests_are_read() -> None:
    request = {"method": "PUT", "url": "Patient/1", "ifMatch": 'W/"3"', "ifNoneExist": "a=b", "ifNoneMatch": "*"}
    entry = {"fullUrl": "http://a.example/Patient/1", "resource": {"resourceType": "Patient"}, "request": request}
    bundle: dict[str, Any] = {
        "resourceType": "Bundle",
        "id": "b",
        "type": "transaction",
        "timestamp": "2026-01-01T00:00:00Z",
        "identifier": {"value": "v"},
        "entry": [entry, 7],
    }
    parts = split_bundle(json.dumps(bundle).encode())
    first, second = parts.entries
    assert (parts.id, parts.type, parts.timestamp) == ("b", "transaction", "2026-01-01T00:00:00Z")
    assert parts.identifier == {"value": "v"}
    assert (first.method, first.url, first.if_match) == ("PUT", "Patient/1", 'W/"3"')
    assert (first.if_none_exist, first.if_none_match) == ("a=b", "*")
    assert first.full_url == "http://a.example/Patient/1"
    assert (second.method, second.full_url, second.resource) == (None, None, None)


def test_a_bundle_without_entries_has_none() -> None:
    assert split_bundle(b'{"resourceType":"Bundle","type":"batch"}').entries == ()
