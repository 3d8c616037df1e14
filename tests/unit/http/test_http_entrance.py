"""What the entrance does before and after a line: methods, limits, content types, preferences, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bridge_world import bundle, fresh, observation, patient, running

CANARY = "Kanarienvogel"


async def test_head_gives_the_headers_of_get(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        got = await world.http.get("/fhir/Patient/p1", headers=who)
        head = await world.http.head("/fhir/Patient/p1", headers=who)
        assert got.status_code == head.status_code == 200
        ids = {answer.headers.pop("x-request-id") for answer in (got, head)}
        assert len(ids) == 2, "each request has an id of its own"
        assert got.headers == head.headers
        assert (await world.http.head("/fhir/Patient/none", headers=who)).status_code == 404
        assert (await world.http.head("/fhir/Patient/p1")).status_code == 401
        assert (await world.http.head("/fhir/metadata")).status_code == 200


async def test_what_an_address_does_not_take_is_refused_with_all_that_it_does_take(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for path, methods in (
            ("/fhir/Patient/p1", {"GET", "HEAD", "PUT", "DELETE"}),
            ("/fhir/Patient", {"GET", "HEAD", "POST", "PUT", "DELETE"}),
            ("/fhir/metadata", {"GET", "HEAD"}),
        ):
            answer = await world.http.request("PATCH", path)
            assert (answer.status_code, set(answer.headers["Allow"].split(", "))) == (405, methods)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("OPTIONS", "/fhir/Patient/p1", 405),
        ("PATCH", "/fhir/Patient/p1", 405),
        ("PATCH", "/fhir/Patient", 405),
        ("PUT", "/fhir/metadata", 405),
        ("DELETE", "/fhir/_history", 405),
        ("DELETE", "/fhir/Patient/_history", 405),
        ("PUT", "/fhir/Patient/_search", 405),
        ("GET", "/fhir/Patient/_search", 405),
        ("PUT", "/fhir/AuditEvent/$decision-receipt", 405),
        ("GET", "/fhir/Patient/p1/$nothing", 404),
        ("PUT", "/fhir/Patient", 401),
        ("DELETE", "/fhir/Patient?identifier=x", 401),
        ("POST", "/fhir/Patient/p1/$attest-guardian", 401),
        ("POST", "/fhir/Patient/p1/$attest-consent", 401),
        ("POST", "/fhir/Patient/p1/$end-guardianship", 401),
        ("GET", "/fhir/Patient/p1/Observation", 401),
        ("GET", "/nowhere", 404),
        ("GET", "/fhir/Patient/p1/a/b/c", 404),
        ("GET", "/fhir/Patient/p1", 401),
        ("GET", "/fhir/Patient?identifier=x", 401),
        ("POST", "/fhir", 401),
        ("POST", "/fhir/Patient", 401),
        ("DELETE", "/fhir/Patient/p1", 401),
        ("GET", "/fhir/Patient/p1/$everything", 401),
        ("GET", "/fhir/Patient/p1/$receipt", 401),
        ("GET", "/fhir/Patient/p1/_history", 401),
        ("GET", "/fhir/AuditEvent", 401),
    ],
)
async def test_without_a_token_every_failure_is_an_outcome_that_tells_nothing(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await world.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert ("Allow" in answer.headers) is (status == 405)
        assert ("WWW-Authenticate" in answer.headers) is (status == 401)


@pytest.mark.parametrize("value", ["", "Basic eDp5", "Bearer", "Bearer ", "Bearer a.b.c", "bearer " + "x" * 100_000])
async def test_a_bad_authorization_header_is_refused(tmp_path: Path, value: str) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await world.http.get("/fhir/Patient/p1", headers={"Authorization": value})
        assert answer.status_code == 401
    assert value.strip() in ("", "Bearer") or value not in answer.text


async def test_two_authorization_headers_are_refused(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        good = (await world.token())["Authorization"]
        answer = await world.http.get("/fhir/metadata2", headers=[("Authorization", good), ("Authorization", good)])
        assert answer.status_code == 401


async def test_an_endless_token_form_is_not_read_to_its_end(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b"a=" + b"x" * 16_384

    async with running(fresh(tmp_path)) as world:
        answer = await world.http.post("/token", content=endless())
    # httpx's in-process transport hands over the stream as it is asked for.
    assert answer.status_code == 413
    assert sent < 100


async def test_a_repeated_form_parameter_is_refused(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        form = "grant_type=client_credentials&grant_type=client_credentials"
        answer = await world.http.post("/token", content=form)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_message_above_the_limit_is_refused_with_413(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_MAX_MESSAGE_BYTES", "2000")
    async with running(fresh(tmp_path)) as world:
        who = await world.token()
        body = json.dumps(patient("p1", name=[{"family": CANARY * 400}]))
        answer = await world.http.put("/fhir/Patient/p1", content=body, headers=who)
        assert answer.status_code == 413
        assert CANARY not in answer.text
        assert (await world.http.put("/fhir/Patient/p1", json=patient("p1"), headers=who)).status_code == 201


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("return=minimal", ""),
        ("return=representation", "Patient"),
        ("", "Patient"),
        ("return=OperationOutcome", "OperationOutcome"),
    ],
)
async def test_prefer_decides_what_a_write_answers(tmp_path: Path, prefer: str, expected: str) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await world.http.put(
            "/fhir/Patient/p1", json=patient("p1"), headers=await world.token() | {"Prefer": prefer}
        )
        assert answer.status_code == 201
        assert answer.headers["ETag"].startswith('W/"')
        assert answer.headers["Location"].endswith(f"/_history/{answer.headers['ETag'][3:-1]}")
        assert ("" if not answer.content else answer.json()["resourceType"]) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"<Patient/>",
        b'{"resourceType":"Patient","id":"p1","gender":"Kanarienvogel"}',
        b'{"resourceType":"Patient","id":"p1","id":"Kanarienvogel"}',
        b'{"resourceType":"Patient","id":"Kanarienvogel"}',
        b'{"resourceType":"Kanarienvogel","id":"p1"}',
        b'{"resourceType":"Patient","id":"p1","Kanarienvogel":1}',
    ],
)
async def test_a_refusal_says_what_is_wrong_and_repeats_no_value(tmp_path: Path, body: bytes) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await world.http.put("/fhir/Patient/p1", content=body, headers=await world.token())
        assert answer.status_code == 400
        outcome = answer.json()
        assert outcome["issue"][0]["diagnostics"]
        if b'"Kanarienvogel":' not in body:
            assert CANARY not in answer.text


async def test_a_patients_token_writes_consents_and_nothing_else(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        agent = await world.enrol("p1")
        for method, path, body in (
            ("PUT", "/fhir/Patient/p1", patient("p1")),
            ("POST", "/fhir", bundle(("PUT", "Patient/p1", patient("p1")))),
            ("DELETE", "/fhir/Patient/p1", None),
        ):
            answer = await world.http.request(method, path, json=body, headers=agent)
            assert answer.status_code == 403, (method, path)


async def test_an_institution_gets_no_scope_it_does_not_ask_for(tmp_path: Path) -> None:
    """A token for reading does not write; one that may not delete sends no bundle, for a bundle may delete."""
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        reader = await world.token(scope="system/*.rs")
        writer = await world.token(scope="system/*.cu")
        sent = bundle(("DELETE", "Patient/p1", None))
        assert (await world.http.put("/fhir/Patient/p1", json=patient("p1"), headers=reader)).status_code == 403
        assert (await world.http.post("/fhir", json=sent, headers=writer)).status_code == 403
        assert (await world.http.delete("/fhir/Patient/p1", headers=writer)).status_code == 403
        assert (await world.http.get("/fhir/Patient/p1", headers=writer)).status_code == 403
        assert (await world.http.put("/fhir/Patient/p1", json=patient("p1"), headers=writer)).status_code == 200


async def test_evidence_of_a_type_outside_the_scopes_is_not_given(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        full = await world.token()
        found = await world.http.get("/fhir/Provenance?target=Observation/o1", headers=full)
        provenance = found.json()["entry"][0]["resource"]["id"]
        narrow = await world.token(scope="system/Provenance.rs system/Patient.rs")
        for path, status in (
            ("/fhir/Provenance?target=Observation/o1", 403),
            (f"/fhir/Provenance/{provenance}", 404),
            ("/fhir/Observation/o1/$receipt", 403),
        ):
            assert (await world.http.get(path, headers=full)).status_code == 200
            assert (await world.http.get(path, headers=narrow)).status_code == status, path


async def test_the_operators_entrance_answers_in_outcomes_too(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for answer in (
            await world.control.post("/ingest", content=b"{}"),
            await world.control.post("/ingest?institution=nobody", content=b"{}"),
            await world.control.post("/institutions", content=CANARY.encode()),
            await world.control.post("/institutions", json={"name": "a b", "fhir_version": "R4", "ruleset_dir": "/"}),
            await world.control.get("/letters/none"),
        ):
            assert answer.status_code == 400
            assert answer.json()["resourceType"] == "OperationOutcome"
            assert CANARY not in answer.text


async def test_readiness_names_its_parts(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        answer = await world.http.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json()["parts"] == dict.fromkeys(["ledger", "vault", "disk", "keys", "bus", "lines"], True)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_a_probe_may_ask_by_head(tmp_path: Path, path: str) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        asked, probed = await world.http.get(path), await world.http.head(path)
        assert (probed.status_code, asked.status_code) == (200, 200)
        assert probed.headers["content-type"] == asked.headers["content-type"]


BROWSERS = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "query", "status"),
    [
        (None, "", 200),
        ("*/*", "", 200),
        (BROWSERS, "", 200),
        ("application/fhir+json", "", 200),
        ("application/json", "", 200),
        ("application/json+fhir", "", 200),
        ("application/*;q=0.1", "", 200),
        ("application/fhir+xml;q=1.0, application/fhir+json;q=1.0, application/xml+fhir;q=0.9", "", 200),
        ("application/fhir+json; fhirVersion=4.0", "", 200),
        ("application/fhir+xml", "", 406),
        ("application/fhir+xml, text/xml;q=0.5", "", 406),
        ("text/html", "", 406),
        ("application/fhir+json;q=0", "", 406),
        ("application/json;q=0, application/fhir+json;q=0.0, text/*", "", 200),
        ("application/fhir+xml, */*;q=0", "", 406),
        ("application/fhir+xml", "?_format=json", 200),
        ("*/*", "?_format=xml", 406),
        ("*/*", "?%5Fformat=xml", 406),
        ("application/fhir+json", "?_format=application/fhir%2Bxml", 406),
        ("*/*", "?_format=application/fhir+json", 200),
        ("*/*", "?_format=text/turtle", 406),
        ("*/*", "?_format=json&_format=xml", 406),
        ("*/*", "?_format=JSON", 200),
    ],
)
async def test_who_accepts_no_json_is_told_so(tmp_path: Path, accept: str | None, query: str, status: int) -> None:
    """R4 http.html#mime-type and RFC 9110 section 12.5.1; ``_format`` goes before the header."""
    async with running(fresh(tmp_path)) as world:
        world.http.headers.pop("accept", None)
        headers = {} if accept is None else {"Accept": accept}
        answers = [
            await world.http.get(f"/fhir/metadata{query}", headers=headers),
            await world.http.get(f"/fhir/Patient{query}", headers=headers | await world.token()),
        ]
        assert [each.status_code for each in answers] == [status, 406 if status == 406 else 400]
        for answer in answers:
            assert answer.headers["content-type"].startswith("application/fhir+json")
        assert answers[1].json()["resourceType"] == "OperationOutcome"


async def test_what_is_refused_for_its_format_is_not_written(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await world.token()
        xml = {"Accept": "application/fhir+xml"}
        written = await world.http.put("/fhir/Patient/p1", headers=who | xml, json=patient("p1"))
        assert written.status_code == 406
        assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 404
        form = "_format=xml&identifier=x"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        searched = await world.http.post("/fhir/Patient/_search", headers=who | kind, content=form)
        assert searched.status_code == 406
        assert (await world.http.delete("/fhir/Patient/p1", headers=who | {"Accept": "text/html"})).status_code != 406
