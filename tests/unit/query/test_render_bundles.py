"""Bundles hold the exact bytes of records and are valid FHIR R4."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.model.access import Found
from fhir_bridge.query import render_history, render_searchset
from tests.unit.query.query_samples import observation

BASE = "http://127.0.0.1:8080/fhir"
BODY = b'{"resourceType":"Observation","id":"a","status":"final","code":{"text":"t\\u00e4"},"valueDecimal":1.10}'
PLAIN = b'{"resourceType":"Observation","id":"a","status":"final","code":{"text":"t"},"valueString":"1.10"}'
FOUND = Found("c1", observation("a"))


def test_the_bytes_of_a_record_are_copied_untouched() -> None:
    made = render_searchset([FOUND], [BODY], base_url=BASE, self_link="s", next_link=None, total=1)
    assert made.count(BODY) == 1
    decoded = json.loads(made)
    assert decoded["entry"][0]["fullUrl"] == f"{BASE}/Observation/a"
    assert decoded["entry"][0]["search"] == {"mode": "match"}


def test_a_searchset_is_valid_and_links_are_escaped() -> None:
    link = f'{BASE}/Observation?code="quoted"&x=\\'
    made = render_searchset(
        [FOUND],
        [PLAIN],
        base_url=f"{BASE}/",
        self_link=link,
        next_link=f"{BASE}/Observation?_cursor=x",
        total=None,
        outcome=b'{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"not-supported"}]}',
    )
    decoded = json.loads(made)
    assert decoded["link"][0] == {"relation": "self", "url": link}
    assert decoded["link"][1]["relation"] == "next"
    assert "total" not in decoded
    assert decoded["entry"][1]["search"]["mode"] == "outcome"
    assert not [
        issue
        for issue in validate_r4(decoded)
        if issue.severity in ("error", "fatal") and "url" not in issue.expression
    ]


def test_the_same_question_on_the_same_view_has_the_same_bytes_as_its_answer() -> None:
    twice = [
        render_searchset([FOUND], [PLAIN], base_url=BASE, self_link="s", next_link=None, total=1) for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert not {"id", "timestamp", "meta"} & set(json.loads(twice[0]))


def test_an_empty_answer_has_no_entry_element() -> None:
    # json.html: "an array may not be empty"
    made = render_searchset([], [], base_url=BASE, self_link=f"{BASE}/x", next_link=None, total=0)
    decoded = json.loads(made)
    assert "entry" not in decoded
    assert decoded["total"] == 0
    assert not validate_r4(decoded)


def test_a_history_tells_deletions() -> None:
    gone = Found("c1", structs.replace(FOUND.row, deleted=True, version="v2"))
    made = render_history([gone, FOUND], [b"", PLAIN], base_url=BASE, self_link=f"{BASE}/h")
    decoded = json.loads(made)
    assert [each["request"]["method"] for each in decoded["entry"]] == ["DELETE", "PUT"]
    assert "resource" not in decoded["entry"][0]
    assert decoded["entry"][0]["response"]["etag"] == 'W/"v2"'
    assert decoded["entry"][1]["response"]["lastModified"] == "2026-02-01T00:00:00.000Z"
    assert decoded["total"] == 2
    assert not validate_r4(decoded)


def test_bodies_must_fit_what_was_found() -> None:
    with pytest.raises(ValueError, match="shorter"):
        render_searchset([FOUND], [], base_url=BASE, self_link="s", next_link=None, total=1)
