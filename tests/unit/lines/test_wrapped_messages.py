"""Messages that come encrypted or signed: opened, checked, kept as evidence; whatever is amiss is a dead letter."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters.access.message_jose import JoseMessages
from fhir_bridge.ports.keys import KeyName
from ledger_core import Policy, RecordMismatch, verify_receipt
from ledger_core.verify import OPERATOR_ATTESTED
from tests.support.bridge_world import World, bundle, fresh, observation, patient, running
from tests.support.jose import Signer, b64, encrypted


async def feed(world: World, body: bytes, **headers: str) -> dict[str, Any]:
    answer = await world.control.post(
        "/ingest",
        params={"institution": "northgate"},
        content=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert answer.status_code == 200, answer.text
    summary: dict[str, Any] = answer.json()
    return summary


async def our_key(world: World, **asked: Any) -> dict[str, Any]:
    answer = await world.control.post("/institutions/northgate/encryption-key", json=asked)
    assert answer.status_code == 200, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def register(world: World, signer: Signer) -> None:
    answer = await world.control.post("/institutions/northgate/signing-keys", json={"add": signer.jwk})
    assert answer.status_code == 200, answer.text


async def registered(world: World) -> list[dict[str, Any]]:
    """Return the institution's signing keys as they were given, each shown with its thumbprint."""
    shown = (await world.control.get("/institutions/northgate/signing-keys")).json()
    assert [each.pop("thumbprint") for each in shown] == [thumbprint(each) for each in shown]
    return list(shown)


def thumbprint(jwk: dict[str, Any]) -> str:
    """RFC 7638 for a key of an Edwards curve (RFC 8037 section 2)."""
    named = {name: jwk[name] for name in ("crv", "kty", "x")}
    return b64(hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).digest())


def why(summary: dict[str, Any]) -> str:
    return str(summary["refused"][0]["diagnostics"])


async def test_an_encrypted_message_is_taken_and_its_receipts_are_as_any(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        to = await our_key(world)
        assert not {"d", "k"} & to.keys()
        sent = json.dumps(patient("p1")).encode()
        summary = await feed(world, encrypted(sent, to), content_type="application/jose")
        assert summary["outcomes"] == {"201": 1}
        who = await world.token()
        read = await world.http.get("/fhir/Patient/p1", headers=who)
        assert read.json()["identifier"][0]["value"] == "p1"
        # The same in the clear changes nothing: what is stored is what was inside.
        assert (await feed(world, sent))["outcomes"] == {"200": 1}
        assert await world.findings() == []


async def test_what_does_not_open_is_kept_as_it_came(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        stranger = JoseMessages().public_key(bytes(32))
        sent = encrypted(json.dumps(patient("p1")).encode(), stranger)
        summary = await feed(world, sent, content_type="application/jose")
        assert "no key of ours" in why(summary)
        (letter,) = summary["dead_letters"]
        assert (await world.control.get(f"/letters/{letter}")).json()["message"] == sent.decode()


async def test_a_letter_about_an_encrypted_message_shows_what_was_inside(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        to = await our_key(world, must=True)
        broken = json.dumps(patient("p1") | {"gender": "?"}).encode()
        summary = await feed(world, encrypted(broken, to), content_type="application/jose")
        (letter,) = summary["dead_letters"]
        assert (await world.control.get(f"/letters/{letter}")).json()["message"].encode() == broken
        replayed = (await world.control.post("/letters/replay", json={})).json()
        assert (replayed["replayed"], replayed["still_refused"]) == (0, 1)


async def test_renewed_keys_open_both_until_the_older_is_destroyed(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        old = await our_key(world)
        assert await our_key(world) == old
        new = await our_key(world, renew=True)
        assert new["kid"] != old["kid"]
    async with running(data) as world:
        for number, key in enumerate((old, new)):
            body = encrypted(json.dumps(patient(f"p{number}")).encode(), key)
            assert (await feed(world, body, content_type="application/jose"))["outcomes"] == {"201": 1}
        assert await our_key(world, destroy_older=True) == new
        late = encrypted(json.dumps(patient("late")).encode(), old)
        assert "no key of ours" in why(await feed(world, late, content_type="application/jose"))
        assert (await our_key(world, renew=True))["kid"] not in (old["kid"], new["kid"])


async def test_where_encryption_is_required_nothing_in_the_clear_is_taken_by_bus(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        to = await our_key(world, must=True)
        sent = json.dumps(patient("p1")).encode()
        assert "application/jose" in why(await feed(world, sent))
        assert (await feed(world, encrypted(sent, to), content_type="application/jose"))["outcomes"] == {"201": 1}
        await our_key(world, must=False)
        assert (await world.control.post("/letters/replay", json={})).json()["replayed"] == 1
        # Over HTTP the connection is encrypted and the sender signed in.
        answer = await world.http.put("/fhir/Patient/p2", headers=await world.token(), json=patient("p2"))
        assert answer.status_code == 201


async def test_with_a_key_registered_nothing_unsigned_is_taken_by_bus(tmp_path: Path) -> None:
    signer, sent = Signer(), json.dumps(patient("p1")).encode()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        assert "jws-signature" in why(await feed(world, sent))
        assert "does not hold" in why(await feed(world, sent + b" ", jws_signature=signer.sign(sent)))
        assert "no signing key" in why(await feed(world, sent, jws_signature=Signer("x").sign(sent)))
        assert (await feed(world, sent, jws_signature=signer.sign(sent)))["outcomes"] == {"201": 1}
        # Another institution has registered none.
        assert (await world.send(patient("q"), "harbor"))["outcomes"] == {"201": 1}
        removed = await world.control.post("/institutions/northgate/signing-keys", json={"remove": signer.kid})
        assert removed.status_code == 200
        assert "no signing key" in why(await feed(world, sent + b"  ", jws_signature=signer.sign(sent + b"  ")))
        assert (await feed(world, sent))["outcomes"] == {"200": 1}
        # What was refused for want of a signature can be replayed, now that none is asked for.
        letters = (await world.control.get("/letters")).json()
        assert {each["reason"] for each in letters} == {"security"}


async def test_the_evidence_convinces_somebody_who_has_only_the_hospitals_key(tmp_path: Path) -> None:
    signer = Signer()
    data = fresh(tmp_path)
    async with running(data) as world:
        await register(world, signer)
        to = await our_key(world)
        sent = json.dumps(
            bundle(("PUT", "Patient/p1", patient("p1")), ("PUT", "Observation/o1", observation("o1", "p1")))
        ).encode()
        summary = await feed(
            world,
            encrypted(sent, to),
            content_type="application/jose",
            jws_signature=signer.sign(sent, is_plain=True),
        )
        assert summary["outcomes"] == {"201": 2}
    async with running(data) as world:
        read = await world.http.get("/fhir/Observation/o1", headers=await world.token())
        here = f"Observation/{read.json()['id']}/_history/{read.json()['meta']['versionId']}"
        found = (await world.control.get("/signed/evidence", params={"record": here})).json()
        message, original = (base64.b64decode(found[name]) for name in ("message", "original"))
        assert message == sent
        assert original in message
        assert b'"o1"' in original
        assert JoseMessages().verify(found["signature"], message, [signer.jwk]) == found["key"] == signer.jwk
        (listed,) = (await world.control.get("/signed")).json()
        assert listed["id"] == found["id"]
        # The chain to the ledger, offline: what was anchored names this message, and holds this part of it.
        lineage = base64.b64decode(found["lineage"])
        (said,) = (each["after"] for each in json.loads(lineage) if each["rule"] == "message/signature")
        assert said == {
            "message": found["id"],
            "sha256": hashlib.sha256(message).hexdigest(),
            "key": thumbprint(signer.jwk),
        }
        assert found["thumbprint"] == thumbprint(signer.jwk)
        policy = Policy.decode((await world.control.get("/ledger/policy")).text)
        for name, part in (("original", original), ("lineage", lineage)):
            outcome = verify_receipt(found["receipt"], record=part, policy=policy)
            assert (outcome.vouched, outcome.matched) == (OPERATOR_ATTESTED, name)
            with pytest.raises(RecordMismatch):
                verify_receipt(found["receipt"], record=part + b" ", policy=policy)
        assert await world.findings() == []
        # Provenance names the step and nothing of the message.
        who = await world.token()
        provenance = await world.http.get(
            "/fhir/Provenance", headers=who, params={"target": f"Observation/{read.json()['id']}"}
        )
        assert "message/signature" in provenance.text
        assert said["sha256"] not in provenance.text


async def test_a_signed_message_sent_twice_is_kept_once(tmp_path: Path) -> None:
    signer, sent = Signer(), json.dumps(patient("p1")).encode()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        signature = signer.sign(sent)
        assert (await feed(world, sent, jws_signature=signature))["outcomes"] == {"201": 1}
        assert (await feed(world, sent, jws_signature=signature))["outcomes"] == {"200": 1}
        (first,) = (await world.control.get("/signed")).json()
        # An older version comes back where it says no time of its own; what was received first stays the evidence.
        other = json.dumps(patient("p1") | {"gender": "other"}).encode()
        assert (await feed(world, other, jws_signature=signer.sign(other)))["outcomes"] == {"200": 1}
        assert (await feed(world, sent, jws_signature=signature))["outcomes"] == {"200": 1}
        history = await world.http.get("/fhir/Patient/p1/_history", headers=await world.token())
        assert len(history.json()["entry"]) == 3
        kept = (await world.control.get("/signed")).json()
        assert [each["id"] == first["id"] for each in kept] == [True, False]
        found = (await world.control.get("/signed/evidence", params={"message": first["id"]})).json()
        assert found["received_at"] == first["received_at"]


async def test_registering_an_institution_again_keeps_its_keys(tmp_path: Path) -> None:
    signer = Signer()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        to = await our_key(world, must=True)
        listed = (await world.control.get("/institutions")).json()
        known = next(each for each in listed if each["name"] == "northgate")
        again = {name: known[name] for name in ("name", "fhir_version", "ruleset_dir")}
        assert (await world.control.post("/institutions", json=again)).status_code == 200
        assert await registered(world) == [signer.jwk]
        assert await our_key(world) == to
        assert "application/jose" in why(await feed(world, b"{}"))


@pytest.mark.parametrize("body", [{"add": {"kty": "oct", "k": "AAAA"}}, {"remove": "nobody"}, {}, {"add": "x"}])
async def test_orders_about_keys_that_cannot_be_are_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with running(fresh(tmp_path)) as world:
        answer = await world.control.post("/institutions/northgate/signing-keys", json=body)
        assert answer.status_code == 400, answer.text
        assert (await world.control.get("/institutions/northgate/signing-keys")).json() == []


async def test_a_key_is_registered_once_so_that_taking_it_back_ends_it(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        signer = Signer("one")
        await register(world, signer)
        await register(world, signer)
        place = "/institutions/northgate/signing-keys"
        answer = await world.control.post(place, json={"add": signer.jwk | {"kid": "another"}})
        assert answer.status_code == 400, answer.text
        assert "by another kid" in answer.text
        assert await registered(world) == [signer.jwk]


async def test_orders_given_at_once_are_all_kept(tmp_path: Path) -> None:
    """Otherwise a signing key would be forgotten, and with it that nothing unsigned is taken."""
    first, second = Signer("first"), Signer("second")
    data = fresh(tmp_path)
    async with running(data) as world:
        listed = (await world.control.get("/institutions")).json()
        known = next(each for each in listed if each["name"] == "northgate")
        again = {name: known[name] for name in ("name", "fhir_version", "ruleset_dir")}
        await asyncio.gather(
            register(world, first),
            our_key(world, must=True),
            world.control.post("/institutions", json=again),
            register(world, second),
            our_key(world, renew=True),
        )
    async with running(data) as world:
        assert await registered(world) == [first.jwk, second.jwk]
        assert "application/jose" in why(await feed(world, b"{}"))
        assert world.bridge.services.ingest._registry.institution("northgate").receiving_keys in ((1,), (1, 2))


async def test_a_version_with_new_labels_still_leads_to_what_was_signed(tmp_path: Path) -> None:
    signer = Signer()
    concepts = {"system": "http://loinc.org", "concept": [{"code": "8867-4"}]}
    named = {"resourceType": "ValueSet", "url": "urn:test:hiv", "version": "2", "status": "active"}
    loaded = json.dumps(named | {"compose": {"include": [concepts]}})
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        for sent in (json.dumps(patient("p1")).encode(), json.dumps(observation("o1", "p1")).encode()):
            assert (await feed(world, sent, jws_signature=signer.sign(sent)))["outcomes"] == {"201": 1}
        body = {"topics": {"HIV": "hiv.json"}, "files": {"hiv.json": loaded}}
        assert (await world.control.post("/labels", json=body)).status_code == 200
        await world.control.post("/labels/relabel", json={})
        who = await world.token()
        here = (await world.http.get("/fhir/Observation/o1", headers=who)).json()
        history = await world.http.get(f"/fhir/Observation/{here['id']}/_history", headers=who)
        versions = [each["resource"]["meta"]["versionId"] for each in history.json()["entry"]]
        assert len(versions) == 2
        for version in versions:
            record = f"Observation/{here['id']}/_history/{version}"
            found = (await world.control.get("/signed/evidence", params={"record": record})).json()
            assert base64.b64decode(found["message"]) == base64.b64decode(found["original"]) == sent


async def test_of_a_signed_batch_what_was_taken_and_what_was_not_both_keep_the_signature(tmp_path: Path) -> None:
    signer = Signer()
    sent = json.dumps(
        bundle(
            ("PUT", "Patient/p1", patient("p1")), ("PUT", "Patient/p2", patient("p2") | {"gender": "?"}), kind="batch"
        )
    ).encode()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        summary = await feed(world, sent, jws_signature=signer.sign(sent))
        assert summary["outcomes"] == {"201": 1, "4xx": 1}
        assert len((await world.control.get("/signed")).json()) == 1
        removed = await world.control.post("/institutions/northgate/signing-keys", json={"remove": signer.kid})
        assert removed.status_code == 200
        (listed,) = (await world.control.get("/signed")).json()
        found = (await world.control.get("/signed/evidence", params={"message": listed["id"]})).json()
        assert JoseMessages().verify(found["signature"], base64.b64decode(found["message"]), [signer.jwk])
        # A signature that nobody can check any more is not passed over because none is asked for.
        (letter,) = summary["dead_letters"]
        assert (await world.control.post("/letters/replay", json={"ids": [letter]})).json()["replayed"] == 0
        assert "no signing key" in why(await feed(world, sent, jws_signature=signer.sign(sent)))


async def test_a_signature_may_travel_inside_the_encryption(tmp_path: Path) -> None:
    """Beside it, whoever reads the broker could tell by it whether a guess of the content is right."""
    signer, sent = Signer(), json.dumps(patient("p1")).encode()
    broken = json.dumps(patient("p2") | {"gender": "?"}).encode()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        to = await our_key(world, must=True)

        async def nested(whole: bytes) -> dict[str, Any]:
            return await feed(world, encrypted(whole, to, header={"cty": "jose"}), content_type="application/jose")

        assert (await nested(signer.sign_whole(sent)))["outcomes"] == {"201": 1}
        (listed,) = (await world.control.get("/signed")).json()
        found = (await world.control.get("/signed/evidence", params={"message": listed["id"]})).json()
        message = base64.b64decode(found["message"])
        assert message == sent
        assert JoseMessages().verify(found["signature"], message, [signer.jwk])
        assert "no signing key" in why(await nested(Signer("another").sign_whole(sent)))
        assert "compact" in why(await nested(sent))
        (letter,) = (await nested(signer.sign_whole(broken)))["dead_letters"]
        assert (await world.control.get(f"/letters/{letter}")).json()["message"].encode() == broken
        # A signature beside it is not asked for, and stands for nothing.
        forged = encrypted(Signer().sign_whole(sent + b" "), to, header={"cty": "jose"})
        told = await feed(world, forged, content_type="application/jose", jws_signature=signer.sign(sent + b" "))
        assert "does not hold" in why(told)


async def test_the_release_that_a_content_type_declares_is_the_messages_and_can_be_signed(tmp_path: Path) -> None:
    """The header ``fhir-version`` is outside any signature; ``cty`` of a JWS inside is not."""
    orders = {"resourceType": "RequestGroup", "id": "g1", "status": "active", "intent": "plan"}
    # R5 calls it RequestOrchestration.
    signer, sent = Signer(), json.dumps(orders | {"subject": {"reference": "Patient/p1"}}).encode()
    in_r5, no_type = "application/fhir+json; fhirVersion=5.0", "must name a resource type of FHIR R5"
    async with running(fresh(tmp_path)) as world:
        to = await our_key(world)
        assert no_type in why(await feed(world, sent, content_type=in_r5))
        await register(world, signer)
        for cty, told in ((in_r5, no_type), ("application/fhir+json; fhirVersion=6", "fhirVersion must be")):
            whole = encrypted(signer.sign_whole(sent, cty=cty), to, header={"cty": "jose"})
            assert told in why(await feed(world, whole, content_type="application/jose"))
        whole = encrypted(
            signer.sign_whole(sent, cty="application/fhir+json; fhirVersion=4.0"), to, header={"cty": "JOSE"}
        )
        assert (await feed(world, whole, content_type="application/jose"))["outcomes"] == {"201": 1}


async def test_evidence_is_sealed_beside_the_loop_and_a_groups_keys_are_made_at_once(tmp_path: Path) -> None:
    """A key is a write that waits for the disk; the loop answers everybody else meanwhile."""
    signer = Signer()
    async with running(fresh(tmp_path)) as world:
        await register(world, signer)
        ingest = world.bridge.services.ingest
        unwrapping, real = ingest._unwrapping, ingest._unwrapping._keys
        made: list[tuple[int, bool]] = []

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def ensure(self, names: Sequence[KeyName]) -> Mapping[KeyName, bytes]:
                if any(name.subject.startswith("signed/") for name in names):
                    made.append((len(names), threading.current_thread() is threading.main_thread()))
                return real.ensure(names)

        unwrapping._keys = Watched()
        bodies = [json.dumps(patient(f"p{number}")).encode() for number in range(12)]
        async with ingest.committing:
            fed = [asyncio.create_task(feed(world, body, jws_signature=signer.sign(body))) for body in bodies]
            async with asyncio.timeout(30):
                while ingest.load.messages < len(bodies):
                    await asyncio.sleep(0.01)
        assert [(await each)["outcomes"] for each in fed] == [{"201": 1}] * len(bodies)
        assert len((await world.control.get("/signed")).json()) == len(bodies)
        assert not any(is_on_loop for _, is_on_loop in made)
        assert max(count for count, _ in made) > 1
