"""Claim-check: messages put over HTTP and claimed by a record of the bus, as often as it comes, by nobody else."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters.access import request_token_async
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import KeyMissing, Unavailable
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import FhirVersion, Received
from fhir_bridge.ports.keys import KeyName
from tests.support.bridge_world import World, fresh, observation, patient, running
from tests.support.jose import encrypted

CLAIM = "application/vnd.fhir-bridge.claim+json"
MESSAGE = json.dumps(patient("p1")).encode()


class Later:
    """The machine's clock, some days ahead where a test says so."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def sha256(message: bytes) -> str:
    return hashlib.sha256(message).hexdigest()


async def put(
    world: World, message: bytes, institution: str = "northgate", address: str | None = None, **headers: str
) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = gzip.compress(message) if given.get("content-encoding") == "gzip" else message
    who = await world.token(institution)
    return await world.http.put(f"/fhir/$claim/{address or sha256(message)}", content=sent, headers={**who, **given})


async def claim(world: World, message: bytes, institution: str = "northgate", **other: Any) -> dict[str, Any]:
    said = {"sha256": sha256(message), "bytes": len(message)} | other
    answer = await world.control.post(
        "/ingest",
        params={"institution": institution},
        content=json.dumps(said).encode(),
        headers={"content-type": CLAIM},
    )
    assert answer.status_code == 200, answer.text
    summary: dict[str, Any] = answer.json()
    return summary


def why(summary: dict[str, Any]) -> tuple[str, str]:
    (issue,) = summary["refused"]
    return issue["code"], issue["diagnostics"]


@pytest.mark.parametrize("coding", [{}, {"content_encoding": "gzip"}])
async def test_what_was_put_is_taken_when_a_record_claims_it_and_changes_nothing_the_second_time(
    tmp_path: Path, coding: dict[str, str]
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        answer = await put(world, MESSAGE, content_type="application/fhir+json", **coding)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["sha256"], answer.json()["bytes"]) == (sha256(MESSAGE), len(MESSAGE))
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 404
    async with running(data) as world:
        assert (await claim(world, MESSAGE))["outcomes"] == {"201": 1}
        assert (await claim(world, MESSAGE))["outcomes"] == {"200": 1}
        assert await world.findings() == []


async def test_a_claim_opens_nothing_that_another_institution_put(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        of_another = await claim(world, MESSAGE, "harbor")
        of_nothing = await claim(world, b"never put", "harbor")
        assert why(of_another) == why(of_nothing)
        assert why(of_another)[0] == "not-found"


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"bytes": 5}, "value"),
        ({"bytes": -1}, "structure"),
        ({"bytes": 1 << 40}, "too-long"),
        ({"bytes": "12"}, "structure"),
        ({"sha256": "x"}, "structure"),
        ({"sha256": sha256(b"").upper()}, "structure"),
        ({"url": "https://somewhere.example"}, "structure"),
        ({"sha256": sha256(b"")}, "not-found"),
    ],
)
async def test_claims_that_do_not_hold_are_dead_letters_with_the_reason(
    tmp_path: Path, other: dict[str, Any], code: str
) -> None:
    async with running(fresh(tmp_path)) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        summary = await claim(world, MESSAGE, **other)
        assert why(summary)[0] == code
        assert len(summary["dead_letters"]) == 1
        # Others go on.
        assert (await claim(world, MESSAGE))["outcomes"] == {"201": 1}


async def test_a_claim_before_its_message_is_mended_by_putting_it_and_replaying(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        assert why(await claim(world, MESSAGE))[0] == "not-found"
        assert (await put(world, MESSAGE)).status_code == 201
        assert (await world.control.post("/letters/replay", json={})).json()["replayed"] == 1
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 200


async def test_the_address_must_be_the_bodys_digest(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await put(world, MESSAGE, address=sha256(b"another"))
        assert answer.status_code == 400
        assert "SHA-256" in answer.json()["issue"][0]["diagnostics"]
        assert why(await claim(world, MESSAGE))[0] == "not-found"


async def test_a_patients_token_puts_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.enrol("p1")
        answer = await world.http.put(f"/fhir/$claim/{sha256(MESSAGE)}", content=MESSAGE, headers=who)
        assert answer.status_code == 403
        nobody = await world.http.put(f"/fhir/$claim/{sha256(MESSAGE)}", content=MESSAGE)
        assert nobody.status_code == 401


async def test_an_encrypted_message_may_be_claimed(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        to = (await world.control.post("/institutions/northgate/encryption-key", json={"must": True})).json()
        wrapped = encrypted(MESSAGE, to)
        assert (await put(world, wrapped, content_type="application/jose")).status_code == 201
        assert (await claim(world, wrapped))["outcomes"] == {"201": 1}


async def test_claims_end_and_their_letters_do_not(tmp_path: Path) -> None:
    """A letter keeps the message itself, so it can be replayed whenever a rule or a sender has been mended."""
    clock, data = Later(), fresh(tmp_path)
    broken = json.dumps(patient("p2") | {"gender": "?"}).encode()
    refused = json.dumps(observation("o1", "p1")).encode()
    async with running(data, clock=clock) as world:
        for message in (MESSAGE, broken, refused):
            assert (await put(world, message)).status_code == 201
        (letter,) = (await claim(world, broken))["dead_letters"]
        await world.control.post("/institutions/northgate/encryption-key", json={"must": True})
        (in_clear,) = (await claim(world, refused))["dead_letters"]
        await world.control.post("/institutions/northgate/encryption-key", json={"must": False})
        services = world.bridge.services
        assert await services.claims.sweep() == 0
        clock.ahead = timedelta(days=6)
        given = json.loads((data / "credentials" / "northgate.json").read_text())
        token = await request_token_async(world.http, given, clock.now(), SystemRandomness())
        who = {"Authorization": f"Bearer {token}"}
        again = await world.http.put(f"/fhir/$claim/{sha256(refused)}", content=refused, headers=who)
        assert again.status_code == 201, "and it lasts longer"
        clock.ahead = timedelta(days=8)
        assert await services.claims.sweep() == 2
        assert why(await claim(world, MESSAGE))[0] == "not-found"
        for each, message in ((letter, broken), (in_clear, refused)):
            shown = (await world.control.get(f"/letters/{each}")).json()
            assert shown["message"].encode() == message
        clock.ahead = timedelta(days=30)
        assert await services.claims.sweep() == 1
        assert await world.findings() == []


async def test_what_is_put_again_while_ended_claims_are_removed_is_held(tmp_path: Path) -> None:
    clock = Later()
    async with running(fresh(tmp_path), clock=clock) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        clock.ahead = timedelta(days=8)
        claims = world.bridge.services.claims
        real, begun, go_on = claims._vault, asyncio.Event(), asyncio.Event()

        class Slow:
            """Holds up the commit of what is put until it may go on."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            async def commit(self, work: Any, batch: Any) -> Any:
                if any(document.value is not None for document in work.documents):
                    begun.set()
                    await go_on.wait()
                return await real.commit(work, batch)

        claims._vault = Slow()
        who = Requester("northgate", institution="northgate", scopes=("system/*.cruds",))
        putting = asyncio.create_task(claims.put(who, sha256(MESSAGE), MESSAGE, ""))
        await begun.wait()
        sweeping = asyncio.create_task(claims.sweep())
        await asyncio.sleep(0.2)
        go_on.set()
        assert (await putting).status == 201
        assert await sweeping in (0, 1)
        assert (await claim(world, MESSAGE))["outcomes"] == {"201": 1}


async def test_a_claim_of_more_than_a_message_may_hold_takes_no_room_from_others(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        ingest = world.bridge.services.ingest
        said = json.dumps({"sha256": sha256(MESSAGE), "bytes": 1 << 60}).encode()
        done = ingest.submit(Received("northgate", FhirVersion.R4, said, datetime.now(UTC), CLAIM))
        assert not ingest.is_full
        assert [each.code for each in (await done).refused] == ["too-long"]
        large = json.dumps({"sha256": sha256(MESSAGE), "bytes": 64 << 20}).encode()
        done = ingest.submit(Received("northgate", FhirVersion.R4, large, datetime.now(UTC), CLAIM))
        assert ingest.load.bytes == 64 << 20, "what it holds will be in memory"
        assert [each.code for each in (await done).refused] == ["not-found"]


async def test_a_store_that_is_away_while_a_claim_is_redeemed_is_waited_for(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        claims = world.bridge.services.claims
        real, asked = claims._vault, 0

        class Away:
            async def document(self, *named: Any) -> Any:
                nonlocal asked
                asked += 1
                if asked < 3:
                    raise Unavailable("away")
                return await real.document(*named)

        claims._vault = Away()  # type: ignore[assignment]  # has what redeeming asks for, no more
        assert await claim(world, MESSAGE) | {"height": 0} == {
            "outcomes": {"201": 1},
            "refused": [],
            "dead_letters": [],
            "height": 0,
        }
        claims._vault = real
        assert asked == 3


async def test_no_claim_is_removed_whose_record_waits_on_the_bus(tmp_path: Path) -> None:
    clock, data = Later(), fresh(tmp_path)
    said = json.dumps({"sha256": sha256(MESSAGE), "bytes": len(MESSAGE)}).encode()
    async with running(data, clock=clock) as world:
        for name in ("northgate", "harbor"):
            assert (await put(world, MESSAGE, name)).status_code == 201
        reader, claims = world.bridge.reader, world.bridge.services.claims
        await _until_read(world)
        await reader.pause()
        await reader._bus.put("northgate", said, [("content-type", CLAIM.encode())])
        clock.ahead = timedelta(days=8)
        assert await claims.sweep(await reader.behind()) == 1, "harbor's, which nothing claims"
    async with running(data, clock=clock) as world:
        assert await world.bridge.services.claims.sweep(("northgate",)) == 0
        await _until_read(world)
        assert (await world.control.get("/letters")).json() == []
        assert world.bridge.services.ingest.counters["stored"] == 1
        assert await world.bridge.services.claims.sweep(await world.bridge.reader.behind()) == 1


async def _until_read(world: World) -> None:
    async with asyncio.timeout(30):
        while await world.bridge.reader.behind() or world.bridge.services.ingest.load.messages:
            await asyncio.sleep(0.05)


async def test_a_claims_key_that_was_lost_is_not_taken_for_one_that_was_erased(tmp_path: Path) -> None:
    """Putting the message again would mend nothing: the operator has to bring the keyring back."""
    async with running(fresh(tmp_path)) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        claims = world.bridge.services.claims
        real = claims._keys

        class Lost:
            """A key store whose keyring lacks what its rows are wrapped under."""

            ensure = real.ensure

            def get(self, name: KeyName) -> bytes:
                raise KeyMissing("the keyring lacks an epoch")

            find = get

        claims._keys = Lost()  # type: ignore[assignment]  # has what redeeming asks for, no more
        summary = await claim(world, MESSAGE)
        assert why(summary)[0] == "exception"
        claims._keys = real
        replayed = await world.control.post("/letters/replay", json={"ids": summary["dead_letters"]})
        assert replayed.json()["replayed"] == 1


@pytest.mark.parametrize("path", ["/fhir", "/fhir/Patient"])
async def test_a_claim_is_a_record_of_the_bus_and_of_nothing_else(tmp_path: Path, path: str) -> None:
    async with running(fresh(tmp_path)) as world:
        assert (await put(world, MESSAGE)).status_code == 201
        said = {"sha256": sha256(MESSAGE), "bytes": len(MESSAGE)}
        for kind in (CLAIM, CLAIM.upper(), f"{CLAIM}; charset=utf-8"):
            who = await world.token() | {"content-type": kind}
            answer = await world.http.post(path, json=said, headers=who)
            assert answer.status_code == 415, answer.text
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 404
