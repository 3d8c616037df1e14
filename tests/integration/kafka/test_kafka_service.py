"""A whole bridge on a real broker: tombstones, notices, a halted partition that an operator lets go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete  # type: ignore[import-untyped]

from tests.support.bridge_world import World, bundle, fresh, observation, patient, running
from tests.support.collector import collecting
from tests.support.collector import told as span_told
from tests.support.jose import Signer, b64, encrypted
from tests.support.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]


@pytest.fixture
def prefix(institution: str) -> str:
    """Topics of one's own: the institutions have the same names in every test."""
    return f"t-{institution}"


@asynccontextmanager
async def bridge(broker: KafkaBroker, data: Path, prefix: str, notices: str = "dead,changes") -> AsyncIterator[World]:
    url = f"kafka://{broker.bootstrap}?prefix={prefix}&notices={notices}"
    async with running(data, kafka=url) as world:
        yield world


async def produce(
    broker: KafkaBroker, topic: str, *records: tuple[bytes | None, bytes | None], **headers: str
) -> None:
    """Send ``(key, value)`` in order, as a sender's own producer does."""
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    named = [(name.replace("_", "-"), value.encode()) for name, value in headers.items()]
    for key, value in records:
        await producer.send_and_wait(topic, value, key=key, partition=0, headers=named)
    await producer.stop()


async def told(broker: KafkaBroker, topic: str, count: int) -> list[tuple[dict[str, bytes], Any]]:
    """Return headers and content of the first notices on a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            records = [await consumer.getone() for _ in range(count)]
        more = await consumer.getmany(timeout_ms=500)
    finally:
        await consumer.stop()
    assert not more
    notices = [(dict(record.headers), json.loads(record.value)) for record in records]
    # A topic's partitions are read in any order.
    return sorted(notices, key=lambda notice: (notice[0].get("position", b""), notice[1].get("height", 0)))


async def until(fact: Callable[[], Any], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not await fact():
            await asyncio.sleep(0.05)


async def letters(world: World) -> list[dict[str, Any]]:
    return list((await world.control.get("/letters")).json())


async def test_a_tombstone_deletes_the_senders_own_record_and_no_other(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await world.send(patient("p1"), "harbor")
        await world.send(observation("o1", "p1"), "harbor")
        who, other = await world.token(), await world.token("harbor")
        await produce(broker, f"{prefix}.northgate.in", (b"Observation/o1", None))

        async def is_gone() -> bool:
            return (await world.http.get("/fhir/Observation/o1", headers=who)).status_code == 410

        await until(is_gone)
        assert (await world.http.get("/fhir/Observation/o1", headers=other)).status_code == 200
        assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 200
        assert await letters(world) == []
        assert await world.findings() == []


@pytest.mark.parametrize(
    "key", [b"", b"o1", b"Observation/", b"Observation/../o1", b"\xff/\xff", b"Observation/o1\n"]
)
async def test_a_tombstone_that_names_no_record_is_a_dead_letter(
    broker: KafkaBroker, prefix: str, tmp_path: Path, key: bytes | None
) -> None:
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await produce(broker, f"{prefix}.northgate.in", (key, None))

        async def is_set_aside() -> bool:
            return len(await letters(world)) == 1

        await until(is_set_aside)
        assert (await world.http.get("/fhir/Observation/o1", headers=await world.token())).status_code == 200
        ((headers, outcome),) = await told(broker, f"{prefix}.northgate.dead", 1)
        assert headers["reason"] == b"structure"
        assert "Type/id" in outcome["issue"][0]["diagnostics"]


async def test_a_sender_is_told_what_was_not_taken_where_it_stands_and_nothing_of_what_it_said(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    sent = bundle(
        ("PUT", "Patient/p1", patient("p1")),
        ("PUT", "Patient/p2", patient("p2") | {"gender": "Kanarienvogel"}),
        kind="batch",
    )
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await produce(broker, f"{prefix}.northgate.in", (b"p", json.dumps(sent).encode()), (b"p", b"{ Kanarienvogel"))
        (first, outcome), (second, undecodable) = await told(broker, f"{prefix}.northgate.dead", 2)
        known = {each["id"]: each for each in await letters(world)}
    assert outcome["resourceType"] == undecodable["resourceType"] == "OperationOutcome"
    (issue,) = outcome["issue"]
    assert (issue["severity"], issue["code"]) == ("error", "code-invalid")
    assert issue["expression"] == ["Bundle.entry[1].resource.gender"]
    assert first["position"] == f"{prefix}.northgate.in 0 0".encode()
    assert second["position"] == f"{prefix}.northgate.in 0 1".encode()
    assert {first["letter"].decode(), second["letter"].decode()} == set(known)
    assert first["reason"].decode() == known[first["letter"].decode()]["reason"]
    for headers, content in ((first, outcome), (second, undecodable)):
        assert b"Kanarienvogel" not in b" ".join(headers.values())
        assert "Kanarienvogel" not in json.dumps(content)


async def test_what_a_crash_left_untold_is_told_after_the_next_start(
    broker: KafkaBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus refuses notices until the process is gone: the letter's commit holds that it is still to be told."""
    from fhir_bridge.adapters.kafka import KafkaBus
    from fhir_bridge.errors import Unavailable

    async def away(*_: object) -> None:
        raise Unavailable("away")

    data = fresh(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(KafkaBus, "put_notice", away)
        async with bridge(broker, data, prefix) as world:
            await world.send(patient("p1") | {"gender": "Kanarienvogel"})
            assert len(await letters(world)) == 1
    async with bridge(broker, data, prefix):
        assert len(await told(broker, f"{prefix}.northgate.dead", 1)) == 1
    async with bridge(broker, data, prefix) as world:
        await world.send(patient("p1"))
        assert len(await told(broker, f"{prefix}.northgate.dead", 1)) == 1


async def test_an_institution_whose_topic_takes_nothing_keeps_no_other_from_being_told(
    broker: KafkaBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fhir_bridge.adapters.kafka import KafkaBus
    from fhir_bridge.errors import Unavailable
    from fhir_bridge.ports.bus import Notice

    whole = KafkaBus.put_notice

    async def for_others(
        bus: KafkaBus, institution: str, kind: Notice, value: bytes, headers: list[tuple[str, bytes]]
    ) -> None:
        if institution == "harbor":
            raise Unavailable("away")
        await whole(bus, institution, kind, value, headers)

    monkeypatch.setattr(KafkaBus, "put_notice", for_others)
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await world.send(patient("h1") | {"gender": "Kanarienvogel"}, "harbor")
        await world.send(patient("h2"), "harbor")
        await world.send(patient("p1") | {"gender": "Kanarienvogel"})
        await world.send(patient("p2"))
        assert len(await told(broker, f"{prefix}.northgate.dead", 1)) == 1
        assert len(await told(broker, f"{prefix}.northgate.changes", 1)) == 1


async def test_the_same_broken_message_twice_is_told_at_both_its_places(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """Whoever counts which of its messages were not taken counts each."""
    topic = f"{prefix}.northgate.in"
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await produce(broker, topic, (b"p", b"{ broken"), (b"p", b"{ broken"))
        first, second = await told(broker, f"{prefix}.northgate.dead", 2)
        assert len(await letters(world)) == 1
    assert [each["position"] for each, _ in (first, second)] == [f"{topic} 0 {n}".encode() for n in (0, 1)]
    assert first[0]["letter"] == second[0]["letter"]


async def test_headers_are_read_however_they_are_written_and_an_unknown_release_is_told(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """A release that is overlooked would be judged, and stored, by the rules of another."""
    topic, body = f"{prefix}.northgate.in", json.dumps(patient("p1")).encode()
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        await produce(broker, topic, (b"p", body), fhir_version="R9")
        await produce(broker, topic, (b"p", body), Content_Type="application/xml")
        (first, release), (_, kind) = await told(broker, f"{prefix}.northgate.dead", 2)
        assert first["reason"] == b"not-supported"
        assert "fhir-version must be STU3, R4, R4B or R5" in release["issue"][0]["diagnostics"]
        assert "not as XML" in kind["issue"][0]["diagnostics"]
        who = await world.token()
        assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 404
        await produce(broker, topic, (b"p", body), FHIR_Version="4.0.1")

        async def is_taken() -> bool:
            return (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 200

        await until(is_taken)


async def test_each_institution_is_told_of_changes_of_its_own_records_once(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    data = fresh(tmp_path)
    async with bridge(broker, data, prefix) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        await world.send(observation("o1", "p1", note=[{"text": "again"}]))
        await world.send(observation("o1", "p1", note=[{"text": "again"}]))
        await world.send(patient("h1"), "harbor")
        who = await world.token()
        stored = [
            (await world.http.get(f"/fhir/{name}", headers=who)).json() for name in ("Patient/p1", "Observation/o1")
        ]
        changes = await told(broker, f"{prefix}.northgate.changes", 3)
        assert len(await told(broker, f"{prefix}.harbor.changes", 1)) == 1
    assert [content["id"] for _, content in changes] == [stored[0]["id"], stored[1]["id"], stored[1]["id"]]
    assert changes[2][1]["version"] == stored[1]["meta"]["versionId"]
    assert 0 < changes[0][1]["height"] < changes[1][1]["height"] < changes[2][1]["height"]
    assert {frozenset(content) for _, content in changes} == {frozenset({"id", "version", "height"})}
    async with bridge(broker, data, prefix) as world:
        await world.send(patient("p2"))
        assert len(await told(broker, f"{prefix}.northgate.changes", 4)) == 4


async def test_the_broker_holds_only_what_is_encrypted_and_takes_nothing_unsigned(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """As a hospital that distrusts the broker: JWE in the value, JWS in the header; tombstones are signed too."""
    signer, topic = Signer(), f"{prefix}.northgate.in"
    async with bridge(broker, fresh(tmp_path), prefix) as world:
        keys = "/institutions/northgate"
        await world.control.post(f"{keys}/signing-keys", json={"add": signer.jwk})
        to = (await world.control.post(f"{keys}/encryption-key", json={"must": True})).json()
        sent = json.dumps(patient("p1")).encode()
        wrapped = encrypted(sent, to)
        # Long enough that chance does not write it: two letters stood in one ciphertext of seven.
        assert b"resourceType" not in wrapped
        assert b64(sent)[:40].encode() not in wrapped
        headers = {"content_type": "application/jose", "jws_signature": signer.sign(sent)}
        await produce(broker, topic, (b"p1", wrapped), **headers)
        who = await world.token()

        async def answers(status: int) -> bool:
            return (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == status

        await until(partial(answers, 200))
        await produce(broker, topic, (b"Patient/p1", None))
        await produce(broker, topic, (b"Patient/p1", None), jws_signature=signer.sign(b"Patient/p2"))
        await produce(broker, topic, (b"p1", sent), jws_signature=signer.sign(sent))

        async def are_told() -> bool:
            # Both tombstones say the same; what one of them bears as a signature tells their letters apart.
            return len(await letters(world)) == 3

        await until(are_told)
        assert {each["reason"] for each in await letters(world)} == {"security"}
        assert await answers(200)
        await produce(broker, topic, (b"Patient/p1", None), jws_signature=signer.sign(b"Patient/p1"))
        await until(partial(answers, 410))
        assert await world.findings() == []


async def test_nobody_is_told_anything_where_no_notices_are_wanted(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    async with bridge(broker, fresh(tmp_path), prefix, notices="") as world:
        await world.send(patient("p1") | {"gender": "Kanarienvogel"})
        await world.send(patient("p1"))
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    topics = {each for each in await admin.list_topics() if each.startswith(f"{prefix}.")}
    await admin.close()
    assert topics == {f"{prefix}.northgate.in", f"{prefix}.harbor.in"}


async def test_an_operator_sees_a_halted_partition_and_lets_it_go_on(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """Messages 1 and 2 are gone before they were read: told, not skipped, until the operator gives them up."""
    data, topic = fresh(tmp_path), f"{prefix}.northgate.in"
    async with bridge(broker, data, prefix) as world:
        await produce(broker, topic, (b"p", json.dumps(patient("p0")).encode()))

        async def is_taken() -> bool:
            who = await world.token()
            return (await world.http.get("/fhir/Patient/p0", headers=who)).status_code == 200

        await until(is_taken)
    await produce(broker, topic, *((b"p", json.dumps(patient(f"p{number}")).encode()) for number in (1, 2, 3)))
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    await admin.close()
    for _ in range(2):  # the second start stands where the first one did
        async with bridge(broker, data, prefix) as world:
            await until(partial(_halted, world))
            assert (await world.control.get("/bus/halted")).json() == [{"stream": topic, "partition": 0, "offset": 1}]
            page = (await world.control.get("/metrics")).text
            assert "fhir_bridge_bus_halted_partitions 1.0" in page
            await world.send(patient("h1"), "harbor")
    async with bridge(broker, data, prefix) as world:
        await until(partial(_halted, world))
        wrong = await world.control.post("/bus/go-on", json={"stream": topic, "partition": 1})
        assert wrong.status_code == 400
        answer = await world.control.post("/bus/go-on", json={"stream": topic, "partition": 0})
        assert answer.json() == {"stream": topic, "partition": 0, "stood": 1, "offset": 3}

        async def has_gone_on() -> bool:
            return (await world.http.get("/fhir/Patient/p3", headers=await world.token())).status_code == 200

        await until(has_gone_on)
        assert (await world.http.get("/fhir/Patient/p1", headers=await world.token())).status_code == 404
        assert (await world.control.get("/bus/halted")).json() == []
        assert await world.findings() == []
    async with bridge(broker, data, prefix) as world:
        await world.send(patient("h2"), "harbor")
        assert (await world.control.get("/bus/halted")).json() == []


async def test_a_topic_made_anew_while_the_service_was_away_is_halted_until_an_operator_lets_it_go_on(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """It holds more by now than the old one did: by the offset alone, two messages would be skipped in silence."""
    data, topic = fresh(tmp_path), f"{prefix}.northgate.in"
    people = [(b"p", json.dumps(patient(f"p{number}")).encode()) for number in range(5)]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()

    async def stored(world: World, *numbers: int) -> bool:
        who = await world.token()
        answers = [await world.http.get(f"/fhir/Patient/p{number}", headers=who) for number in numbers]
        return all(answer.status_code == 200 for answer in answers)

    async with bridge(broker, data, prefix) as world:
        await produce(broker, topic, *people[:2])
        await until(partial(stored, world, 0, 1))
    await admin.delete_topics([topic])
    async with asyncio.timeout(60):
        while topic in await admin.list_topics():
            await asyncio.sleep(0.1)
    await admin.create_topics([NewTopic(topic, 2, 1)])
    await admin.close()
    await produce(broker, topic, *people[2:])
    for _ in range(2):
        async with bridge(broker, data, prefix) as world:
            await until(partial(_halted, world))
            assert (await world.control.get("/bus/halted")).json() == [{"stream": topic, "partition": 0, "offset": 2}]
            assert not await stored(world, 4)
    async with bridge(broker, data, prefix) as world:
        await until(partial(_halted, world))
        answer = await world.control.post("/bus/go-on", json={"stream": topic, "partition": 0})
        assert answer.json() == {"stream": topic, "partition": 0, "stood": 2, "offset": 0}
        await until(partial(stored, world, 2, 3, 4))
    async with bridge(broker, data, prefix) as world:
        await world.send(patient("h2"), "harbor")
        assert (await world.control.get("/bus/halted")).json() == []


async def _halted(world: World) -> bool:
    return bool((await world.control.get("/bus/halted")).json())


async def test_a_records_traceparent_is_gone_on_with(
    broker: KafkaBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    named = [("traceparent", f"00-{trace}-{parent}-01".encode()), ("tracestate", b"x=Kanarienvogel")]
    with collecting() as collector:
        monkeypatch.setenv("FHIR_BRIDGE_OTLP_URL", collector.url)
        async with bridge(broker, fresh(tmp_path), prefix) as world:
            producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
            await producer.start()
            body = json.dumps(patient("Kanarienvogel")).encode()
            await producer.send_and_wait(f"{prefix}.northgate.in", body, key=b"Kanarienvogel", headers=named)
            await producer.stop()

            async def is_there() -> bool:
                answer = await world.http.get("/fhir/Patient/Kanarienvogel", headers=await world.token())
                return answer.status_code == 200

            await until(is_there)
            names = {"ingest", "rooms", "commit", "vault commit", "anchor", "ledger submit", "message"}

            async def has_come() -> bool:
                return names <= {each.name for each in collector.spans if each.trace_id.hex() == trace}

            await until(has_come)
    continued = [each for each in collector.spans if each.trace_id.hex() == trace]
    (message,) = [each for each in continued if each.parent_span_id.hex() == parent]
    assert (message.name, span_told(message)["messaging.system"]) == ("message", "kafka")
    assert b"Kanarienvogel" not in b"".join(collector.bodies)
