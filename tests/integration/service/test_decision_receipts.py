"""A receipt of each decision, permit or deny: the requester's tells nothing hidden, the patient's opens everything.

Over the real service, and offline from there on.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pytest
from blake3 import blake3

from fhir_bridge.cli.main import main
from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.deciding_again import decide_again
from fhir_bridge.lines.people import Sight
from ledger_core import LedgerError, Outcome, Policy, Receipt, verify_receipt
from ledger_core.receipt import RecordClaim
from tests.support.bridge_world import World, consent, fresh, observation, patient, running

Json = dict[str, Any]
Headers = dict[str, str]
ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"


class Case:
    """A person at northgate (p1) and harbor (h1, o2, o3) who permits northgate all at harbor but the record o3."""

    def __init__(
        self, world: World, agent: Headers, northgate: Headers, person: str, records: dict[str, str]
    ) -> None:
        self.world = world
        self.agent = agent
        self.northgate = northgate
        self.person = person
        self.records = records

    async def ask(self, path: str, headers: Headers | None = None) -> httpx.Response:
        return await self.world.http.get(f"/fhir/{path}", headers=headers or self.northgate)

    async def answered(self, path: str, headers: Headers | None = None) -> str:
        """Ask, end the epoch, and return the id of the decision."""
        answer = await self.ask(path, headers)
        await self.close()
        return answer.headers["x-request-id"]

    async def close(self) -> None:
        await self.world.bridge.services.audit.close_epoch()

    async def receipt(self, decision: str, headers: Headers | None = None) -> httpx.Response:
        return await self.ask(f"AuditEvent/$decision-receipt?request={decision}", headers)

    async def opening(self, decision: str, headers: Headers | None = None) -> httpx.Response:
        path = f"Patient/{self.person}/$decision-opening?request={decision}"
        return await self.ask(path, headers or self.agent)

    async def opened(self, decision: str) -> Json:
        answer = await self.opening(decision)
        assert answer.status_code == 200, answer.text
        told: Json = answer.json()
        return told

    @property
    def policy(self) -> Policy:
        """What an auditor got from the operator by another way."""
        return Policy.decode(self.world.bridge.services.notary.policy())


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(patient("h1"), "harbor")
        await world.send(observation("o2", "h1"), "harbor")
        await world.send(observation("o3", "h1"), "harbor")
        await world.link("x", ("northgate", "p1"), ("harbor", "h1"))
        agent = await world.enrol("p1")
        person = await world.patient_id("p1")
        own = (await world.http.get(f"/fhir/Patient/{person}/$everything", headers=agent)).json()["entry"]
        records = {
            each["resource"]["identifier"][0]["value"]: f"{each['resource']['resourceType']}/{each['resource']['id']}"
            for each in own
        }
        northgate = await world.organization("northgate")
        hidden = [{"meaning": "instance", "reference": {"reference": records["o3"]}}]
        given = consent(f"Patient/{person}", permit=f"Organization/{northgate}")
        given["provision"]["provision"] = [{"type": "deny", "data": hidden}]
        answer = await world.http.post("/fhir/Consent", headers=agent, json=given)
        assert answer.status_code == 201, answer.text
        yield Case(world, agent, await world.token("northgate"), person, records)


def verified(text: str, case: Case, **more: Any) -> Outcome:
    return verify_receipt(text, policy=case.policy, **more)


def masked(receipt: str) -> Json:
    """Return a receipt without what is random or the ledger's: salts, sealed digests, paths, places, checkpoint."""
    told: Json = json.loads(receipt)
    record = told["record"]
    parts = {name: sorted(part) for name, part in record["parts"].items()}
    facts = record["facts"] | {"id": "", "instant": "", "height": 0}
    return {"form": sorted(told), "record": sorted(record), "facts": facts, "parts": parts, "suite": record["suite"]}


async def test_whoever_asked_can_prove_what_was_asked_and_what_was_shown(case: Case) -> None:
    answer = await case.ask(f"Observation?patient={case.person}")
    shown = [each["resource"] for each in answer.json()["entry"]]
    assert [f"Observation/{each['id']}" for each in shown] == [case.records["o2"]]
    decision = answer.headers["x-request-id"]
    await case.close()

    text = (await case.receipt(decision)).text
    lines = "".join(f"Observation/{each['id']}/_history/{each['meta']['versionId']}\n" for each in shown)
    request = f"GET /fhir/Observation?patient={case.person}"
    outcome = verified(text, case, records=[request.encode(), lines.encode()])

    assert outcome.vouched == "operator-attested"
    assert outcome.records[0].matched == ("request", "shown")
    facts = outcome.facts
    assert (facts["kind"], facts["id"], facts["outcome"], facts["shown"]) == ("decision", decision, "permit", 1)
    assert facts["institution"] == await case.world.organization("northgate")
    assert verify_receipt(text).vouched == "not-authenticated"
    for other in (request + "x", request.replace("Observation", "Condition")):
        with pytest.raises(LedgerError):
            verified(text, case, record=other.encode())


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}/_history",
        "{}/$receipt",
        "Observation?_id={id}",
        "Provenance?target={}",
        "Provenance/{id}-aaaabbbbccccddddeeee",
    ],
)
async def test_a_denial_of_what_is_hidden_is_that_of_what_is_absent(case: Case, form: str) -> None:
    told = []
    for record in (case.records["o3"], f"Observation/{ABSENT}"):
        path = form.format(record, id=record.partition("/")[2])
        answer = await case.ask(path)
        await case.close()
        text = (await case.receipt(answer.headers["x-request-id"])).text
        assert verified(text, case, record=f"GET /fhir/{path}".encode()).facts["outcome"] == "deny"
        assert case.records["o3"].partition("/")[2] not in text
        told.append((answer.status_code, masked(text)))
    assert told[0] == told[1]


async def test_a_receipt_is_no_larger_for_a_person_whose_consents_hide_much(case: Case) -> None:
    """The sealed part is 32 bytes for any number of charts and consents; so is the grounds' own list."""
    harbor = await case.world.token("harbor")
    sizes = set()
    for path in (f"Patient/{case.person}/$everything", f"Patient/{ABSENT}/$everything"):
        decision = await case.answered(path, harbor)
        record = json.loads((await case.receipt(decision, harbor)).text)["record"]
        assert list(record["parts"]["grounds"]) == ["sealed"]
        held = await case.world.bridge.services.decision_receipts._book.find(decision)
        sizes.add((len(record["parts"]["grounds"]["sealed"]), len(held.stored.grounds), len(held.envelopes)))
    assert len(sizes) == 1


async def test_who_comes_too_early_is_told_when_to_come_again(case: Case) -> None:
    decision = (await case.ask(case.records["o2"])).headers["x-request-id"]
    for early in (await case.receipt(decision), await case.opening(decision)):
        assert early.status_code == 503
        assert 1 <= int(early.headers["retry-after"]) <= 60
        assert early.json()["issue"][0]["code"] == "transient"
    await case.close()
    assert (await case.receipt(decision)).status_code == 200
    assert (await case.opening(decision)).status_code == 200


async def test_nobody_else_gets_a_receipt_and_no_institution_an_opening(case: Case) -> None:
    decision = await case.answered(case.records["o2"])
    harbor = await case.world.token("harbor")
    wanted = await case.receipt("0" * 32)
    assert wanted.status_code == 404
    for who in (harbor, case.agent):
        assert (await case.receipt(decision, who)).content == wanted.content
    for who in (harbor, case.northgate):
        assert (await case.opening(decision, who)).content == wanted.content
    await case.world.send(patient("p2"))
    stranger = await case.world.enrol("p2")
    assert (await case.opening(decision, stranger)).status_code == 404
    assert (await case.ask("AuditEvent/$decision-receipt")).status_code == 400


async def test_a_receipt_goes_to_the_practitioner_who_asked_and_to_no_colleague(case: Case) -> None:
    """A Consent may permit one what it denies the other, and a receipt names what was shown."""
    first, again, other = [
        await case.world.token("northgate", practitioner=name, purpose=purpose)
        for name, purpose in (("dr-a", "TREAT"), ("dr-a", "HRESCH"), ("dr-b", "TREAT"))
    ]
    nothing = (await case.receipt("0" * 32)).content
    decision = await case.answered(case.records["o2"], first)
    assert (await case.receipt(decision, first)).status_code == 200
    assert (await case.receipt(decision, again)).status_code == 200, "it is the same practitioner's"
    for who in (other, case.northgate):
        assert (await case.receipt(decision, who)).content == nothing
    for_nobody = await case.answered(case.records["o2"], case.northgate)
    assert (await case.receipt(for_nobody, case.northgate)).status_code == 200
    assert (await case.receipt(for_nobody, first)).content == nothing


async def test_the_patient_hears_of_denied_questions_and_nobody_notices(case: Case) -> None:
    denied = await case.answered(case.records["o3"])
    absent = await case.answered(f"Observation/{ABSENT}")
    told = (await case.ask(f"Patient/{case.person}/$decisions", case.agent)).json()["parameter"]
    found = {values(each)["request"][0]: values(each) for each in told}
    assert found[denied]["outcome"] == ["deny"]
    assert found[denied]["withheld"] == [{"reference": case.records["o3"]}]
    assert found[denied]["asked"] == [f"GET /fhir/{case.records['o3']}"]
    assert absent not in found
    assert (await case.ask(f"Patient/{case.person}/$decisions", case.northgate)).status_code == 404


@pytest.mark.parametrize(
    ("path", "shown", "withheld"),
    [
        ("{o2}", ["o2"], []),
        ("{o3}", [], ["o3"]),
        ("Patient/{person}/$everything", ["h1", "o2"], []),
        ("Provenance/{id2}-{version2}", ["o2"], []),
        ("Provenance/{id3}-{version3}", [], ["o3"]),
    ],
)
async def test_an_auditor_decides_again_and_comes_to_the_same(
    case: Case, path: str, shown: list[str], withheld: list[str]
) -> None:
    told = [(await case.ask(case.records[name], case.agent)).json() for name in ("o2", "o3")]
    names = {f"id{number}": each["id"] for number, each in enumerate(told, 2)}
    names |= {f"version{number}": each["meta"]["versionId"] for number, each in enumerate(told, 2)}
    decision = await case.answered(path.format(**case.records, **names, person=case.person))
    receipt = (await case.receipt(decision)).text
    opening = await case.opening(decision)

    report = decide_again(opening.content, policy=case.policy, receipt=receipt)

    assert report.is_same, [each.differences for each in report.charts]
    assert report.outcome.vouched == "operator-attested"
    at_harbor = next(each for each in report.charts if each.grounds.home == "harbor")
    assert {f"{kind}/{name}" for kind, name, _ in at_harbor.grounds.shown} == {case.records[each] for each in shown}
    assert [f"{kind}/{name}" for kind, name in at_harbor.grounds.withheld] == [case.records[n] for n in withheld]
    assert at_harbor.basis == "consent"
    assert len(at_harbor.consents) == 1
    assert at_harbor.vouched == ("consents", "policies")


async def test_what_the_scopes_of_a_token_leave_out_is_not_told_as_withheld(case: Case) -> None:
    """Consent permits o2; that this token may not read Observations is no decision of the patient's."""
    told = (await case.ask(case.records["o2"])).json()
    narrow = await case.world.token("northgate", scope="system/Provenance.rs system/AuditEvent.rs")
    decision = await case.answered(f"Provenance/{told['id']}-{told['meta']['versionId']}", narrow)
    report = decide_again((await case.opening(decision)).content, policy=case.policy)
    assert report.is_same, [each.differences for each in report.charts]
    assert {each.grounds.withheld for each in report.charts} == {()}
    assert {each.grounds.shown for each in report.charts} == {()}


async def test_an_opening_still_decides_alike_after_everything_has_changed(case: Case) -> None:
    decision = await case.answered(case.records["o2"])
    consents = (await case.ask(f"Consent?patient={case.person}", case.agent)).json()["entry"]
    gone = await case.world.http.delete(f"/fhir/Consent/{consents[0]['resource']['id']}", headers=case.agent)
    assert gone.status_code == 204
    await case.world.send(observation("o2", "h1", status="amended"), "harbor")
    assert (await case.ask(case.records["o2"])).status_code == 404
    later = await case.answered(case.records["o2"])

    before = decide_again((await case.opening(decision)).content, policy=case.policy)
    after = decide_again((await case.opening(later)).content, policy=case.policy)

    assert before.is_same
    assert after.is_same
    assert [len(each.grounds.shown) for each in before.charts if each.grounds.home == "harbor"] == [1]
    assert [each.grounds.withheld for each in after.charts if each.grounds.home == "harbor"] != [()]


async def test_an_opening_tells_nothing_of_a_chart_whose_link_has_been_undone(case: Case) -> None:
    given = consent(f"Patient/{case.person}", permit=f"Organization/{await case.world.organization('northgate')}")
    related = [{"meaning": "related", "reference": {"reference": case.records["o2"]}}]
    given["provision"]["provision"] = [{"type": "deny", "data": related}]
    assert (await case.world.http.post("/fhir/Consent", headers=case.agent, json=given)).status_code == 201
    decision = await case.answered(f"Observation?patient={case.person}")
    named = [
        {f"{kind}/{name}" for kind, name, _ in each["related"]} for each in (await case.opened(decision))["charts"]
    ]
    assert [each >= {case.records["o2"], case.records["o3"]} for each in named] == [True, True]
    await case.world.link("y", ("harbor", "h1"))
    (alone,) = (await case.opened(decision))["charts"]
    assert {f"{kind}/{name}" for kind, name, _ in alone["related"]}.isdisjoint(case.records.values())


async def test_a_receipt_outlives_a_restart_before_its_epoch_was_closed(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        headers = await world.token()
        decision = (await world.http.get("/fhir/Patient/p1", headers=headers)).headers["x-request-id"]
        # What a crash leaves: the decision is durable, its epoch was never closed.
        world.bridge.services.audit._changed = list  # type: ignore[method-assign]
    async with running(data) as world:
        headers = await world.token()
        path = f"/fhir/AuditEvent/$decision-receipt?request={decision}"
        assert (await world.http.get(path, headers=headers)).status_code == 503
        await world.bridge.services.audit.close_epoch()
        answer = await world.http.get(path, headers=headers)
        assert verify_receipt(answer.text).facts["id"] == decision


def _swap(told: Json, key: str, other: Json) -> None:
    told[key] = other[key]


TAMPERED: dict[str, Callable[[Json, Json], None]] = {
    "receipt of another decision": lambda told, other: _swap(told, "receipt", other),
    "grounds of another decision": lambda told, other: _swap(told, "grounds", other),
    "charts of another decision": lambda told, other: _swap(told, "charts", other),
    "no chart": lambda told, other: told.update(charts=[]),
    "format": lambda told, other: told.update(format="fhir-bridge/decision-opening/2"),
    "salt": lambda told, other: _in_chart(told, "salt", other),
    "owner's list": lambda told, other: _harbor(told)["lists"].update(owner=None),
    "owner's list emptied": lambda told, other: _harbor(told)["lists"].update(owner=_b64(cbor2.dumps([1, []]))),
    "policies": lambda told, other: _harbor(told).update(policies=_b64(b"{}")),
    "record left out": lambda told, other: _harbor(told).update(records=[]),
    "state of another path": lambda told, other: _harbor(told).update(consent_state=_harbor(told)["policy_state"]),
    "state of another kind": lambda told, other: _harbor(told).update(policy_state=_harbor(told)["consent_state"]),
}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _harbor(told: Json) -> Json:
    found: Json = next(
        each for each in told["charts"] if cbor2.loads(base64.b64decode(each["content"]))[3] == "harbor"
    )
    return found


def _in_chart(told: Json, key: str, other: Json) -> None:
    _harbor(told)[key] = _harbor(other)[key]


async def test_an_opening_that_was_changed_anywhere_is_refused(case: Case) -> None:
    told = await case.opened(await case.answered(case.records["o2"]))
    other = await case.opened(await case.answered(f"Patient/{case.person}/$everything"))
    assert decide_again(json.dumps(told).encode(), policy=case.policy).is_same
    for name, change in TAMPERED.items():
        changed = json.loads(json.dumps(told))
        change(changed, other)
        with pytest.raises((BridgeError, LedgerError)):
            print(name, decide_again(json.dumps(changed).encode(), policy=case.policy))


async def test_every_field_of_the_grounds_is_bound(case: Case) -> None:
    told = await case.opened(await case.answered(case.records["o2"]))
    content = cbor2.loads(base64.b64decode(_harbor(told)["content"]))
    fields = [(("field", place), value) for place, value in enumerate(content) if place != 1]
    fields += [(("asked", place), value) for place, value in enumerate(cbor2.loads(content[1]))]
    for (where, place), value in fields:
        changed = json.loads(json.dumps(told))
        other: Any = {bool: not value, int: 7, str: "x", bytes: bytes(32), type(None): "x"}.get(type(value), [["x"]])
        written, asked = list(content), cbor2.loads(content[1])
        (written if where == "field" else asked)[place] = other
        written[1] = cbor2.dumps(asked)
        _harbor(changed)["content"] = _b64(cbor2.dumps(written))
        with pytest.raises((BridgeError, LedgerError)):
            decide_again(json.dumps(changed).encode(), policy=case.policy)


async def test_a_receipt_of_another_decision_is_told_apart_from_the_opening(case: Case) -> None:
    one, two = await case.answered(case.records["o2"]), await case.answered(case.records["o2"])
    opening = (await case.opening(one)).content
    assert decide_again(opening, policy=case.policy, receipt=(await case.receipt(one)).text).is_same
    with pytest.raises(BridgeError, match="another decision"):
        decide_again(opening, policy=case.policy, receipt=(await case.receipt(two)).text)


Lie = Callable[[Sight, "Case"], Sight]


def _another_basis(sight: Sight, case: Case) -> Sight:
    return replace(sight, decisions=tuple(replace(each, basis="law") for each in sight.decisions))


def _no_consent(sight: Sight, case: Case) -> Sight:
    return replace(sight, decisions=tuple(replace(each, policies=()) for each in sight.decisions))


def _in_emergency(sight: Sight, case: Case) -> Sight:
    return replace(sight, grounds=tuple(replace(each, in_emergency=True) for each in sight.grounds))


def _withheld(sight: Sight, case: Case) -> Sight:
    return replace(sight, behind=tuple(replace(each, record=case.records["o2"]) for each in sight.behind))


@pytest.mark.parametrize(
    ("asked", "lie", "said"),
    [
        ("o2", _another_basis, "basis consent, recorded law"),
        ("o2", _no_consent, "other consents"),
        ("o2", _in_emergency, "basis emergency, recorded consent"),
        ("o3", _withheld, "was withheld and is permitted"),
    ],
)
async def test_a_service_that_records_what_does_not_follow_is_found_out(
    case: Case, monkeypatch: pytest.MonkeyPatch, asked: str, lie: Lie, said: str
) -> None:
    book = case.world.bridge.services.decision_receipts._book
    make = book.make
    monkeypatch.setattr(book, "make", lambda who, asked, sight, *rest: make(who, asked, lie(sight, case), *rest))
    opening = (await case.opening(await case.answered(case.records[asked]))).content
    report = decide_again(opening, policy=case.policy)
    assert not report.is_same
    assert any(said in each for chart in report.charts for each in chart.differences)


async def test_a_record_that_the_rules_deny_is_found_among_the_shown(case: Case) -> None:
    told = await case.opened(await case.answered(case.records["o2"]))
    _harbor(told)["records"][0]["author"] = "agent"
    report = decide_again(json.dumps(told).encode(), policy=case.policy)
    differences = [each for chart in report.charts for each in chart.differences]
    assert differences == [f"{case.records['o2']} was shown and is denied"]


async def test_the_command_tells_by_its_exit_code(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = await case.answered(case.records["o2"])
    told = await case.opened(decision)
    lying = json.loads(json.dumps(told))
    _harbor(lying)["records"][0]["author"] = "agent"
    files = {
        "opening": json.dumps(told),
        "lying": json.dumps(lying),
        "broken": json.dumps(told | {"grounds": "AA=="}),
        "policy": case.world.bridge.services.notary.policy(),
        "receipt": (await case.receipt(decision)).text,
    }
    paths = {name: tmp_path / name for name in (*files, "absent")}
    for name, text in files.items():
        paths[name].write_text(text)

    def check(name: str, **more: str) -> tuple[int, str]:
        given = [f"--{option}={paths[each]}" for option, each in more.items()]
        code = main(["decision", "check", str(paths[name]), *given])
        return code, capsys.readouterr().out

    code, said = check("opening", policy="policy", receipt="receipt")
    assert (code, said.splitlines()[0]) == (
        0,
        "SAME OUTCOME: decided again by fhir-bridge-consent/3; operator-attested",
    )
    assert f"shown: {case.records['o2']}" in said
    assert "had a say: Consent/" in said
    assert [check(name)[0] for name in ("opening", "broken", "absent")] == [2, 1, 3]
    code, said = check("lying", policy="policy")
    assert (code, said.splitlines()[0].split(":")[0]) == (1, "ANOTHER OUTCOME")
    assert "DIFFERS" in said


async def test_the_commitment_is_the_one_that_the_page_describes(case: Case) -> None:
    """Made again from docs/formats/decisions.md with hashlib, blake3 and cbor2 alone."""
    decision = await case.answered(case.records["o2"])
    claim = Receipt.decode((await case.receipt(decision)).text).claim
    assert isinstance(claim, RecordClaim)
    told = await case.opened(decision)
    grounds = base64.b64decode(told["grounds"])

    def framed(domain: bytes, *parts: bytes) -> bytes:
        joined = b"".join(len(each).to_bytes(8, "big") + each for each in parts)
        return hashlib.sha256(bytes([len(domain)]) + domain + joined).digest()

    opened = json.loads(told["receipt"])["record"]
    salt = base64.b64decode(opened["parts"]["grounds"]["salt"])
    sealed = framed(b"ledger-core/part/v1", salt, blake3(grounds).digest())
    assert claim.opening.parts["grounds"].digest() == sealed

    name, digests = cbor2.loads(grounds)
    assert name == "fhir-bridge/decision-grounds/1"
    assert len(digests) == 4
    assert digests == sorted(digests)
    for each in told["charts"]:
        content, salt = base64.b64decode(each["content"]), base64.b64decode(each["salt"])
        inner = hashlib.sha256(content).digest()
        assert hashlib.sha256(b"fhir-bridge/decision-chart/1\0" + salt + inner).digest() in digests


def values(parameter: Json) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in parameter["part"]:
        found.setdefault(part["name"], []).append(next(v for k, v in part.items() if k != "name"))
    return found
