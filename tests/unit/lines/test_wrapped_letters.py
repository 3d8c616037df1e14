"""Letters about messages that came wrapped: each keeps all that its replay needs, whatever ends meanwhile."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.model.ingest import FhirVersion, Interaction, Received
from tests.support.bridge_world import World, fresh, patient, running
from tests.support.jose import Signer, encrypted

JOSE, CLAIM = "application/jose", "application/vnd.fhir-bridge.claim+json"
MESSAGE = json.dumps(patient("p1")).encode()
TAKEN, REFUSED = {"replayed": 1, "still_refused": 0}, {"replayed": 0, "still_refused": 1}


class Later:
    """The machine's clock, some days ahead where a test says so."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def feed(world: World, body: bytes, content_type: str = "", signature: str = "") -> dict[str, Any]:
    given = {"content-type": content_type, "jws-signature": signature}
    answer = await world.control.post(
        "/ingest",
        params={"institution": "northgate"},
        content=body,
        headers={name: value for name, value in given.items() if value},
    )
    assert answer.status_code == 200, answer.text
    summary: dict[str, Any] = answer.json()
    return summary


async def put(world: World, message: bytes, content_type: str = "") -> None:
    address = hashlib.sha256(message).hexdigest()
    headers = await world.token() | ({"content-type": content_type} if content_type else {})
    answer = await world.http.put(f"/fhir/$claim/{address}", content=message, headers=headers)
    assert answer.status_code == 201, answer.text


def claim_of(message: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(message).hexdigest(), "bytes": len(message)}).encode()


async def keys(world: World, **asked: Any) -> dict[str, Any]:
    """Return our key to encrypt to, or register a signing key of the sender (``add``)."""
    place = "signing-keys" if "add" in asked else "encryption-key"
    answer = await world.control.post(f"/institutions/northgate/{place}", json=asked)
    assert answer.status_code == 200, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def replay(world: World, *letters: str) -> dict[str, int]:
    answer = await world.control.post("/letters/replay", json={"ids": letters})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return {name: told[name] for name in ("replayed", "still_refused")}


async def shown(world: World, letter: str) -> bytes:
    message: str = (await world.control.get(f"/letters/{letter}")).json()["message"]
    return message.encode()


async def test_a_signed_message_is_not_the_letter_of_the_same_message_unsigned(tmp_path: Path) -> None:
    """Otherwise whoever writes an unsigned copy to the topic takes the place of what the hospital signed."""
    registered, late = Signer("first"), Signer("late")
    async with running(fresh(tmp_path)) as world:
        await keys(world, add=registered.jwk)
        (signed,) = (await feed(world, MESSAGE, signature=late.sign(MESSAGE)))["dead_letters"]
        (unsigned,) = (await feed(world, MESSAGE))["dead_letters"]
        (forged,) = (await feed(world, MESSAGE, signature=Signer("late").sign(MESSAGE)))["dead_letters"]
        assert len({signed, unsigned, forged}) == 3
        await keys(world, add=late.jwk)
        assert await replay(world, signed) == TAKEN
        assert await replay(world, unsigned) == REFUSED
        assert await replay(world, forged) == REFUSED


async def test_the_same_bytes_under_another_content_type_are_another_letter(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        told = [await feed(world, MESSAGE, f"application/fhir+{kind}") for kind in ("xml", "ndjson")]
        assert [each["refused"][0]["code"] for each in told] == ["not-supported"] * 2
        assert told[0]["dead_letters"] != told[1]["dead_letters"]


async def test_a_letter_about_a_message_that_could_not_be_stored_keeps_what_was_claimed(tmp_path: Path) -> None:
    clock, signer = Later(), Signer()
    async with running(fresh(tmp_path), clock=clock) as world:
        await keys(world, add=signer.jwk)
        wrapped = encrypted(MESSAGE, await keys(world))
        await put(world, wrapped, JOSE)
        ingest = world.bridge.services.ingest
        real, cursed = ingest._vault, {"times": 2}

        class Cursed:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            async def commit(self, work: Any, batch: Any) -> Any:
                if work.records:
                    cursed["times"] -= 1
                    raise RuntimeError("cursed")
                return await real.commit(work, batch)

        ingest._vault = Cursed()
        (letter,) = (await feed(world, claim_of(wrapped), CLAIM, signer.sign(MESSAGE)))["dead_letters"]
        ingest._vault = real
        assert await shown(world, letter) == MESSAGE
        clock.ahead = timedelta(days=8)
        assert await world.bridge.services.claims.sweep() == 1
        await keys(world, renew=True, destroy_older=True)
        assert await replay(world, letter) == TAKEN
        assert len((await world.control.get("/signed")).json()) == 1


async def test_a_letter_about_a_message_on_which_the_rooms_failed_keeps_what_was_inside(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        ingest = world.bridge.services.ingest
        real = ingest._rooms

        class Failing:
            async def process(self, *_: Any) -> Any:
                raise RuntimeError("a worker died")

        ingest._rooms = Failing()  # type: ignore[assignment]
        (letter,) = (await feed(world, encrypted(MESSAGE, await keys(world)), JOSE))["dead_letters"]
        ingest._rooms = real
        assert await shown(world, letter) == MESSAGE
        await keys(world, renew=True, destroy_older=True)
        assert await replay(world, letter) == TAKEN


async def test_a_letter_about_a_signature_that_does_not_hold_keeps_what_was_inside_the_encryption(
    tmp_path: Path,
) -> None:
    registered, late = Signer("first"), Signer("late")
    async with running(fresh(tmp_path)) as world:
        await keys(world, add=registered.jwk)
        sent = encrypted(MESSAGE, await keys(world, must=True))
        (letter,) = (await feed(world, sent, JOSE, late.sign(MESSAGE)))["dead_letters"]
        assert await shown(world, letter) == MESSAGE
        await keys(world, renew=True, destroy_older=True)
        assert await replay(world, letter) == REFUSED
        await keys(world, add=late.jwk)
        assert await replay(world, letter) == TAKEN


async def test_a_key_that_is_gone_keeps_no_message_from_opening_with_another(tmp_path: Path) -> None:
    """As in the moment when older keys are destroyed, or after the key store was restored from an older backup."""
    async with running(fresh(tmp_path)) as world:
        await keys(world)
        newest = await keys(world, renew=True)
        unwrapping = world.bridge.services.ingest._unwrapping
        known = unwrapping._registry.institution("northgate")
        unwrapping.destroy_older(known)
        assert (await feed(world, encrypted(MESSAGE, newest), JOSE))["outcomes"] == {"201": 1}


@pytest.mark.parametrize("content_type", [JOSE, CLAIM, "application/fhir+json"])
async def test_a_deletion_has_no_wrapping_whatever_its_producer_says_of_every_record(
    tmp_path: Path, content_type: str
) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await keys(world, must=True)
        named = Interaction("DELETE", "Patient", "p1")
        gone = Received(
            "northgate", FhirVersion.R4, b"", datetime.now(UTC), content_type, named, must_be_encrypted=True
        )
        done = await world.bridge.services.ingest.push(gone)
        assert [each.status for each in done.outcomes] == ["204 No Content"]


async def test_a_signed_deletion_is_kept_as_evidence_and_binds_what_it_deletes(tmp_path: Path) -> None:
    signer = Signer()
    async with running(fresh(tmp_path)) as world:
        for each in ("p1", "p2"):
            await world.send(patient(each))
        await keys(world, add=signer.jwk)
        for local_id, status in (("p2", []), ("p1", ["204 No Content"])):
            gone = Received(
                "northgate",
                FhirVersion.R4,
                b"",
                datetime.now(UTC),
                interaction=Interaction("DELETE", "Patient", local_id),
                signature=signer.sign(b"Patient/p1"),
                must_be_signed=True,
            )
            done = await world.bridge.services.ingest.push(gone)
            assert [each.status for each in done.outcomes] == status
        (kept,) = (await world.control.get("/signed")).json()
        found = (await world.control.get("/signed/evidence", params={"message": kept["id"]})).json()
        assert base64.b64decode(found["message"]) == b"Patient/p1"
        here = await world.patient_id("p1")
        history = await world.http.get(f"/fhir/Patient/{here}/_history", headers=await world.token())
        version = history.json()["entry"][0]["response"]["etag"].split('"')[1]
        by_record = await world.control.get(
            "/signed/evidence", params={"record": f"Patient/{here}/_history/{version}"}
        )
        assert by_record.json()["id"] == kept["id"]
