"""A large answer leaves in blocks: the same bytes, and none of them after a withdrawal hides what they show."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fhir_bridge.errors import AnswerCutOff, BridgeError, IntegrityBroken, Unavailable
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.people import Sight
from fhir_bridge.lines.reply import Reply
from fhir_bridge.lines.streaming import stream
from fhir_bridge.model.access import Found, Requester
from fhir_bridge.query import Frame, everything, frame_searchset, render_entries, render_searchset
from tests.support.bridge_world import World, bundle, consent, fresh, observation, patient, running
from tests.unit.query.query_samples import observation as row
from tests.unit.query.query_samples import view_of

ABOVE, BLOCK = 20, 7
RECORDS = 33


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A chart of so many records that it is streamed, and a permit for harbor."""
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_STREAM_ABOVE", str(ABOVE))
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_STREAM_BLOCK", str(BLOCK))
    async with running(fresh(tmp_path)) as opened:
        await opened.send(patient("p1"))
        entries = [("PUT", f"Observation/o{n}", observation(f"o{n}", "p1")) for n in range(RECORDS)]
        await opened.send(bundle(*entries))
        yield opened


async def permitted(world: World) -> tuple[str, dict[str, str], str]:
    """Permit harbor; return the patient's id, the agent's headers and the consent's place."""
    agent = await world.enrol("p1")
    who = await world.patient_id("p1")
    body = consent(f"Patient/{who}", permit=f"Organization/{await world.organization('harbor')}")
    made = await world.http.post("/fhir/Consent", json=body, headers=agent)
    assert made.status_code == 201, made.text
    return who, agent, f"/fhir/Consent/{made.json()['id']}"


async def asked(world: World, person: str) -> Reply:
    """Ask as harbor, at the line itself, so that the test holds the stream in its hands."""
    who = Requester(
        "c", institution="harbor", institution_id=await world.organization("harbor"), scopes=("system/*.rs",)
    )
    return await world.bridge.services.answer.everything(who, person, [])


async def taken(blocks: AsyncIterator[bytes], sent: list[bytes]) -> None:
    async for block in blocks:
        sent.append(block)


def test_frame_and_entries_are_the_bytes_of_a_bundle_written_at_once() -> None:
    found = everything(view_of(*(row(f"o{n}") for n in range(3)))).found
    bodies = [b'{"a":%d}' % n for n in range(3)]
    for outcome in (None, b'{"resourceType":"OperationOutcome"}'):
        whole = render_searchset(
            found, bodies, base_url="http://x", self_link="s", next_link="n", total=3, outcome=outcome
        )
        frame = frame_searchset(self_link="s", next_link="n", total=3, outcome=outcome)
        assert isinstance(frame, Frame)
        entries = b"".join(render_entries(found, bodies, base_url="http://x"))
        assert frame.head + entries[1:] + frame.tail == whole


async def test_the_stream_is_the_whole_answer(world: World) -> None:
    person = await world.patient_id("p1")
    who = await world.token()
    answer = await world.http.get(f"/fhir/Patient/{person}/$everything", headers=who)
    assert answer.status_code == 200
    assert "content-length" not in answer.headers
    entries = answer.json()["entry"]
    assert (answer.json()["total"], len(entries)) == (RECORDS + 1, RECORDS + 1)
    paged: list[dict[str, object]] = []
    url = f"/fhir/Patient/{person}/$everything?_count=19"
    while url:
        page = await world.http.get(url, headers=who)
        assert "content-length" in page.headers
        paged += page.json()["entry"]
        url = next((each["url"] for each in page.json()["link"] if each["relation"] == "next"), "")
    assert entries == paged
    shaped = await world.http.get(f"/fhir/Patient/{person}/$everything?_elements=status", headers=who)
    assert "content-length" not in shaped.headers
    assert {tuple(each["resource"]) for each in shaped.json()["entry"] if each["resource"]["id"] != person} == {
        ("resourceType", "id", "meta", "status", "code")
    }


async def test_the_access_is_on_record_before_the_first_byte(world: World) -> None:
    person, agent, _ = await permitted(world)
    reply = await asked(world, person)
    assert reply.stream is not None
    log = (await world.http.get("/fhir/AuditEvent", headers=agent)).json()
    asked_for = [
        base64.b64decode(entity.get("query", "")) for each in log["entry"] for entity in each["resource"]["entity"]
    ]
    assert any(b"everything" in each for each in asked_for), asked_for


async def test_a_withdrawal_ends_an_answer_under_way(world: World) -> None:
    person, agent, place = await permitted(world)
    reply = await asked(world, person)
    assert reply.stream is not None
    sent = [await anext(reply.stream)]
    withdrawn = await world.http.delete(place, headers=agent)
    assert withdrawn.status_code < 300
    with pytest.raises(AnswerCutOff):
        await taken(reply.stream, sent)
    assert len(sent) == 1
    assert sent[0].count(b'"fullUrl"') == BLOCK


async def test_a_withdrawal_before_the_first_block_leaves_nothing_to_send(world: World) -> None:
    person, agent, place = await permitted(world)
    reply = await asked(world, person)
    assert reply.stream is not None
    assert (await world.http.delete(place, headers=agent)).status_code < 300
    with pytest.raises(AnswerCutOff):
        await anext(reply.stream)


async def test_undoing_the_link_ends_an_answer_under_way(world: World) -> None:
    await world.send(patient("h1"), institution="harbor")
    await world.link("one", ("northgate", "p1"), ("harbor", "h1"))
    await permitted(world)
    reply = await asked(world, await world.patient_id("h1", "harbor"))
    assert reply.stream is not None
    await anext(reply.stream)
    await world.link("two", ("northgate", "p1"))
    with pytest.raises(AnswerCutOff):
        await anext(reply.stream)


async def test_the_end_of_who_asked_ends_an_answer_under_way(world: World) -> None:
    await world.enrol("p1")
    person = await world.patient_id("p1")
    for is_over in (False, True):
        credentials = json.loads((world.data / "credentials" / "patients" / f"{person}.json").read_text())
        who = Requester(credentials["client_id"], patient=person, scopes=("patient/*.rs",))
        reply = await world.bridge.services.answer.everything(who, person, [])
        assert reply.stream is not None
        sent = [await anext(reply.stream)]
        if is_over:
            await world.enrol("p1")
            with pytest.raises(AnswerCutOff):
                await taken(reply.stream, sent)
            assert len(sent) == 1
        else:
            await taken(reply.stream, sent)
            assert json.loads(b"".join(sent))["total"] == RECORDS + 1


async def test_a_change_that_hides_nothing_lets_the_answer_end(world: World) -> None:
    person, _, _ = await permitted(world)
    reply = await asked(world, person)
    assert reply.stream is not None
    sent = [await anext(reply.stream)]
    await world.send(observation("late", "p1"))
    await world.send(observation("o5", "p1", status="amended"))
    sent += [block async for block in reply.stream]
    answer = json.loads(b"".join(sent))
    assert len(answer["entry"]) == answer["total"] == RECORDS + 1


class FailsLater(Opening):
    """Opens two blocks, then the store is gone."""

    def __init__(self, error: BridgeError) -> None:
        self._error = error
        self._calls = 0

    async def bodies(self, found: Sequence[Found]) -> list[bytes]:
        """Give bodies, or fail."""
        self._calls += 1
        if self._calls > 2:
            raise self._error
        return [b"{}" for _ in found]


@pytest.mark.parametrize("error", [Unavailable("gone"), IntegrityBroken("broken")])
async def test_a_failure_after_the_first_byte_leaves_no_whole_bundle(error: BridgeError) -> None:
    view = view_of(*(row(f"o{n}") for n in range(9)))
    frame = frame_searchset(self_link="s", next_link=None, total=9)

    async def again() -> Sight:
        return Sight(view, (), (), 0)

    blocks = await stream(everything(view), frame, opening=FailsLater(error), again=again, base_url="x", block=3)
    sent: list[bytes] = []
    with pytest.raises(AnswerCutOff):
        await taken(blocks, sent)
    assert len(sent) == 2
    assert not b"".join(sent).endswith(frame.tail)


async def test_a_failure_before_the_first_byte_is_told_as_one() -> None:
    view = view_of(row("o1"))
    opening = FailsLater(Unavailable("gone"))
    await opening.bodies(())
    await opening.bodies(())

    async def again() -> Sight:
        raise AssertionError

    frame = frame_searchset(self_link="s", next_link=None, total=1)
    with pytest.raises(Unavailable):
        await stream(everything(view), frame, opening=opening, again=again, base_url="x", block=3)
