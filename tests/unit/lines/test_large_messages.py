"""The same messages, taken the short way and the long one, come to the same answers and the same vault."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_bridge.adapters.overflow import FileOverflow, FileOverflows
from fhir_bridge.errors import Unavailable
from tests.support.bridge_world import World, fresh, observation, patient, running
from tests.support.hospitals import BROKEN, SMALL, directory, lanes
from tests.support.state import digest_of, read_state

Json = dict[str, Any]
SHORT, LONG = 1 << 40, 1 << 10
MRN = "identifier=https://northgate.example.org/mrn|"
PERSON = "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e11"
FILLING = 600
"""More than are kept, decided and sealed together."""

pytestmark = pytest.mark.timeout(900)


def put(resource: Json, **request: str) -> Json:
    url = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": url, **request}}


def posted(resource: Json, full_url: str = "", **request: str) -> Json:
    without_id = {name: value for name, value in resource.items() if name != "id"}
    entry: Json = {"resource": without_id, "request": {"method": "POST", "url": resource["resourceType"], **request}}
    return entry | {"fullUrl": full_url} if full_url else entry


def deleted(name: str) -> Json:
    return {"request": {"method": "DELETE", "url": name}}


def bundle(*entries: Json, kind: str = "transaction") -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": list(entries)}).encode()


def many(*more: Json, of: str = "p1", kind: str = "transaction") -> bytes:
    return bundle(put(patient(of)), *(put(observation(f"{of}-{n}", of)) for n in range(FILLING)), *more, kind=kind)


MEDICATION: Json = {"resourceType": "Medication", "id": "m1", "code": {"text": "aspirin"}}
STRANGER = observation("o5", "") | {"subject": {"reference": f"Patient?{MRN}p7"}}
NOBODYS = observation("o6", "") | {"subject": {"display": "somebody"}}

BY_HAND = (
    many(put(MEDICATION)),
    # The same again changes nothing.
    many(put(MEDICATION)),
    # A conditional create that finds, referred to by its neighbours; one that makes; one that both find.
    many(
        posted(patient("p1"), PERSON, ifNoneExist=MRN + "p1"),
        posted(observation("o1", "") | {"subject": {"reference": PERSON}}),
        posted(patient("p8"), "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e12", ifNoneExist=MRN + "p8"),
        of="p2",
    ),
    # The second finds what the first has made in the same message.
    many(
        posted(patient("p10"), "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e13", ifNoneExist=MRN + "p10"),
        posted(patient("p10"), "urn:uuid:0c3b7b5e-43b1-4b0e-9a57-6d8f7a0f1e14", ifNoneExist=MRN + "p10"),
        of="p2",
    ),
    # Nobody has that number: a transaction is refused whole, of a batch the rest is taken.
    many(put(STRANGER), of="p3"),
    many(put(STRANGER), of="p4", kind="batch"),
    # What only the stored state refuses, at the very end.
    many(put(observation("o1", "p5"), ifMatch='W/"nothing"'), of="p5"),
    many(put(observation("o1", "p6"), ifMatch='W/"nothing"'), of="p6", kind="batch"),
    # Now that p7 is there, it is found by its number.
    bundle(put(patient("p7")), *(put(observation(f"p7-{n}", "p7")) for n in range(9))),
    many(put(STRANGER), of="p3"),
    # Quarantined: it tells of nobody, and the batch of many people does not tell either.
    many(put(NOBODYS), put(patient("p9")), kind="batch"),
    # Another patient's record under an id that is taken; a deletion; a deletion of nothing; news of a record.
    many(put(observation("p2-0", "p1")), of="p1", kind="batch"),
    many(deleted("Observation/p2-1"), deleted("Observation/never"), of="p1"),
    bundle(put(observation("p2-2", "p2", status="amended")), *(put(observation(f"new-{n}", "p2")) for n in range(9))),
    # Not valid, in the second part; a full URL twice, far apart.
    many(put(observation("o9", "p1", status="unheard-of")), of="p1"),
    many(put(observation("o9", "p1", status="unheard-of")), of="p1", kind="batch"),
)


async def told(data: Path, monkeypatch: pytest.MonkeyPatch, at_least: int, workers: int, send: Send) -> list[Json]:
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_LARGE_MESSAGE_BYTES", str(at_least))
    async with running(data, workers=workers) as world:
        answers: list[Json] = await send(world)
        assert await world.findings() == []
        return answers


Send = Callable[[World], Any]


async def check_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Send, workers: int = 0) -> list[Json]:
    """Send to two worlds with the same keys; return what both have answered."""
    base = fresh(tmp_path)
    async with running(base) as world:
        # Makes the keys of ids, of records and of letters, so that both share them.
        await world.send(patient("p0"))
        await world.send(b"no message")
    short, long = (Path(shutil.copytree(base, tmp_path / name)) for name in ("short", "long"))
    expected = await told(short, monkeypatch, SHORT, workers, send)
    assert await told(long, monkeypatch, LONG, workers, send) == expected
    wanted, got = read_state(short), read_state(long)
    assert got == wanted
    assert await digest_of(long) == await digest_of(short)
    return expected


def masked(answer: httpx.Response) -> Json:
    body: Json = answer.json()
    for entry in body.get("entry", ()):
        entry["response"].pop("lastModified", None)
    return {"status": answer.status_code, "body": body}


def over_http(messages: list[bytes]) -> Send:
    async def send(world: World) -> list[Json]:
        who = await world.token() | {"Content-Type": "application/fhir+json"}
        return [masked(await world.http.post("/fhir", content=each, headers=who)) for each in messages]

    return send


def by_bus(messages: list[bytes]) -> Send:
    async def send(world: World) -> list[Json]:
        return [await world.send(each) for each in messages]

    return send


@pytest.mark.parametrize("entrance", [over_http, pytest.param(by_bus, marks=pytest.mark.slow)])
async def test_bundles_in_which_much_depends_on_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entrance: Callable[[list[bytes]], Send]
) -> None:
    answers = await check_same(tmp_path, monkeypatch, entrance(list(BY_HAND)))
    told = json.dumps(answers)
    assert all(f'"{each}' in told for each in ("200", "201", "202", "204", "conflict", "not-found", "code-invalid"))


async def test_what_three_people_brought_to_a_hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [directory("northgate"), *(each for lane in lanes("northgate", SMALL) for each in lane.messages)]
    answers = await check_same(tmp_path, monkeypatch, over_http(messages), workers=1)
    assert {each["status"] for each in answers} == {200}


async def test_whatever_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [file.read_bytes() for file in sorted(BROKEN.iterdir()) if file.suffix != ".csv"]
    await check_same(tmp_path, monkeypatch, over_http(messages))


async def test_nothing_lies_in_plain_text_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files without a name are looked at while they are open."""
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_LARGE_MESSAGE_BYTES", str(LONG))
    canary = b"Zyxwvut"
    data = fresh(tmp_path)
    async with running(data) as world:
        ingest = world.bridge.services.ingest
        sealed, seen = ingest._seal, []

        def looked(*arguments: Any) -> Any:
            done = sealed(*arguments)
            seen.append(nameless(data))
            return done

        monkeypatch.setattr(ingest, "_seal", looked)
        answer = await world.http.post(
            "/fhir",
            content=many(put(observation("o1", "p1", note=[{"text": canary.decode() * 9}]))),
            headers=await world.token() | {"Content-Type": "application/fhir+json"},
        )
        assert answer.status_code == 200, answer.text
        (files,) = seen
        assert len(files) == 2, "what normalisation made, and what is sealed of it"
        for content in files:
            assert len(content) > 50_000
            assert canary not in content
            assert b"Observation" not in content
            assert b"resourceType" not in content
        assert nameless(data) == [], "given back"


async def test_a_letter_holds_a_message_of_many_megabytes(tmp_path: Path) -> None:
    """What is held in memory that processes share is bytes again in the letter."""
    fat = [put(observation(f"fat-{n}", "p1", note=[{"text": "x" * 700_000}])) for n in range(8)]
    body = bundle(*fat, put(NOBODYS), put(patient("p9")), kind="batch")
    assert len(body) > 5 << 20
    async with running(fresh(tmp_path)) as world:
        who = await world.token() | {"Content-Type": "application/fhir+json"}
        answer = await world.http.post("/fhir", content=body, headers=who)
        assert [each["response"]["status"][:3] for each in answer.json()["entry"]] == ["201"] * 8 + ["202", "201"]
        (listed,) = (await world.control.get("/letters")).json()
        letter = (await world.control.get(f"/letters/{listed['id']}")).json()
        assert letter["message"].encode() == body


@pytest.mark.parametrize("is_file_broken", [True, False])
async def test_a_message_by_bus_is_made_again_if_what_was_made_can_be_read_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_file_broken: bool
) -> None:
    """With the same broken file, it would be tried for ever; while the vault is away, it need not be made again."""
    monkeypatch.setenv("FHIR_BRIDGE_INGEST_LARGE_MESSAGE_BYTES", str(LONG))
    opened: list[FileOverflow] = []
    get, begin = FileOverflow.get, FileOverflows.open

    def first_is_broken(overflow: FileOverflow, number: int) -> bytes:
        if is_file_broken and overflow is opened[0]:
            raise Unavailable("the disk does not give it back")
        return get(overflow, number)

    def noted(overflows: FileOverflows) -> FileOverflow:
        opened.append(begin(overflows))
        return opened[-1]

    monkeypatch.setattr(FileOverflow, "get", first_is_broken)
    monkeypatch.setattr(FileOverflows, "open", noted)
    async with running(fresh(tmp_path)) as world:
        ingest = world.bridge.services.ingest
        write, tries = ingest._write, []

        async def away_at_first(work: Any) -> Any:
            tries.append(work)
            if not is_file_broken and len(tries) == 1:
                raise Unavailable("the vault is away")
            return await write(work)

        monkeypatch.setattr(ingest, "_write", away_at_first)
        async with asyncio.timeout(60):
            summary = await world.send(many())
    assert not summary["refused"], summary
    assert len(opened) == 3, "made twice and sealed once, or made once and sealed twice"
    assert len(tries) == (1 if is_file_broken else 2)


def nameless(folder: Path) -> list[bytes]:
    """Return what is in the files of this process that lie in a folder without a name (Linux, proc(5))."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(str(folder)) and target.endswith(" (deleted)"):
            found.append(os.pread(int(name), 1 << 30, 0))
    return found
