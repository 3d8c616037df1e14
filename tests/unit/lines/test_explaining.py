"""Why a value is what it is: told by the service, carried away as parts, and proved by somebody who distrusts us."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from fhir_bridge.cli.main import main
from tests.support.bridge_world import World, fresh, observation, patient, running
from tests.support.chart_keys import chart_keys, erase
from tests.unit.cli.conftest import Service, listening

Json = dict[str, Any]

PACK = """rule: labs/names
version: 3
on: Observation
do:
  - set: {path: method.text, value: by hand}
  - rename: {path: effectiveDateTime, to: effectiveInstant}
why: the site's dictionary
"""


async def explained(world: World, record: str, element: str = "") -> httpx.Response:
    return await world.control.get("/map/explain", params={"record": record, "element": element})


async def registered(world: World, folder: Path, name: str = "cedar") -> Json:
    folder.mkdir(exist_ok=True)
    (folder / "source.yaml").write_text(f"institution: {name}\n")
    (folder / "labs.yaml").write_text(PACK)
    body = {"name": name, "fhir_version": "R4", "ruleset_dir": str(folder)}
    made: Json = (await world.control.post("/institutions", json=body)).json()
    return made


async def test_an_engineer_is_told_bytes_rules_ruleset_and_height(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        made = await registered(world, tmp_path / "pack")
        await world.send(patient("p1"), "cedar")
        body = observation(
            "o1", "p1", valueQuantity={"value": 1.10, "unit": "g"}, effectiveDateTime="2026-03-01T10:00:00Z"
        )
        sent = json.dumps(body, indent=1).replace("1.1", "1.10").encode()
        await world.send(sent, "cedar")
        told = (await explained(world, "Observation/o1", "valueQuantity.value")).json()
        (value,) = told["statements"]
        source = value["source"]
        assert (value["kind"], value["value"], source["text"]) == ("untouched", "1.10", "1.10")
        assert sent[source["start"] : source["end"]] == b"1.10"
        assert told["ruleset"] == made["ruleset_with_value_sets"]
        assert told["institution"] == "cedar"
        assert told["height"] > 0
        (named,) = (await explained(world, told["record"], "method.text")).json()["statements"]
        assert named["kind"] == "made"
        (step,) = named["rules"]
        assert step == {
            "rule": "labs/names",
            "reason": "the site's dictionary",
            "element": "Observation.method.text",
            "version": 3,
            "place": "pack/labs.yaml:1",
        }
        (old,) = (await explained(world, "Observation/o1", "effectiveDateTime")).json()["statements"]
        assert (old["kind"], old["element"]) == ("moved", "Observation.effectiveInstant")
        whole = (await explained(world, "Observation/o1")).json()
        assert whole["accounts"]
        assert {each["kind"] for each in whole["statements"]} == {"untouched", "moved", "made", "house"}


async def test_a_rule_is_told_as_it_was_when_it_made_the_record(
    tmp_path: Path,
) -> None:
    async with running(fresh(tmp_path)) as world:
        await registered(world, tmp_path / "pack")
        await world.send(patient("p1"), "cedar")
        await world.send(observation("o1", "p1"), "cedar")
        (tmp_path / "pack" / "labs.yaml").write_text(PACK.replace("version: 3", "version: 4"))
        told = (await explained(world, "Observation/o1", "method.text")).json()
        (named,) = told["statements"]
        assert (named["rules"][0]["version"], named["rules"][0]["place"]) == (3, "pack/labs.yaml:1")


async def test_who_answers_for_the_rules_is_told_as_the_ledger_has_it(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await registered(world, tmp_path / "pack")
        await world.send(patient("p1"), "cedar")
        await world.send(observation("o1", "p1"), "cedar")
        (tmp_path / "pack" / "labs.yaml").write_text(PACK.replace("version: 3", "version: 4"))
        order = {"ruleset_dir": str(tmp_path / "pack"), "author": "anna", "approver": "ben"}
        for step in ("propose", "approve", "activate"):
            answer = await world.control.post(f"/rules/cedar/{step}", json=order)
            assert answer.status_code == 200, answer.text
            order["ruleset"] = answer.json().get("ruleset", order.get("ruleset"))
        await world.send(observation("o2", "p1"), "cedar")
        old, new = [(await explained(world, f"Observation/o{n}")).json() for n in (1, 2)]
        assert new["answering"]["ruleset"] == order["ruleset"] != old["answering"]["ruleset"]
        assert (new["answering"]["author"], new["answering"]["approvers"]) == ("anna", ["ben"])
        assert 0 < old["answering"]["height"] < new["answering"]["height"] < new["height"]
        versions = [
            {rule["version"] for each in told["statements"] for rule in each["rules"] if rule["rule"] == "labs/names"}
            for told in (old, new)
        ]
        assert versions == [{3}, {4}]


async def test_nothing_of_an_erased_chart_is_explained_and_it_gets_no_key(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
    charts = chart_keys(data)
    assert len(charts) == 1
    erase(data, charts)
    async with running(data) as world:
        answer = await explained(world, "Observation/o1")
        assert (answer.status_code, "was erased" in answer.text) == (400, True), answer.text
        history = await world.control.get("/rules/northgate/history")
        assert history.status_code == 200, history.text
    assert chart_keys(data) == []


@pytest.mark.parametrize(
    ("record", "element", "words"),
    [
        ("Observation/nobody", "", "no such record"),
        ("Observation/o1/_history/9", "", "no such version"),
        ("Patient/o1", "", "no such"),
        ("o1", "", "name a record"),
        ("Observation/o1", "valueString", "no such element"),
        ("Observation/o1", "a..b", "not a path"),
    ],
)
async def test_what_cannot_be_explained_is_said(tmp_path: Path, record: str, element: str, words: str) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        answer = await explained(world, record, element)
        assert answer.status_code == 400, answer.text
        assert words in answer.text


# --- by somebody who distrusts us


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported parts of one record, and the policy of its log."""
    folder = tmp_path_factory.mktemp("parts")

    async def export() -> tuple[Json, str]:
        async with running(fresh(folder)) as world:
            await world.send(patient("p1"))
            await world.send(observation("o1", "p1", valueString="sent"))
            return (await explained(world, "Observation/o1")).json(), (await world.control.get("/ledger/policy")).text

    told, policy = anyio.run(export)
    (folder / "policy.json").write_text(policy)
    for name, content in told["parts"].items():
        (folder / name).write_bytes(base64.b64decode(content))
    return folder


def prove(folder: Path, *more: str) -> int:
    return main(["map", "explain", "--receipt", str(folder / "receipt.json"), *more])


def copied(parts: Path, to: Path) -> Path:
    for each in parts.iterdir():
        if each.is_file():
            (to / each.name).write_bytes(each.read_bytes())
    return to


def test_statements_are_proved_against_the_ledger_by_whom_the_policy_trusts(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prove(parts, "valueString", "--policy", str(parts / "policy.json"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["proof"]["vouched"] == "operator-attested"
    (statement,) = told["statements"]
    assert (statement["kind"], statement["source"]["text"]) == ("untouched", '"sent"')
    assert prove(parts, "valueString") == 2, "nobody vouches without a policy"
    said = capsys.readouterr()
    assert "Observation.valueString" in said.out
    assert "not proved: that the sender sent this original" in said.err
    assert "not-authenticated; log" in said.err


@pytest.mark.parametrize("name", ["original", "record.json", "lineage.json"])
def test_a_part_that_was_changed_is_refused(
    parts: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = copied(parts, tmp_path) / name
    forged.write_bytes(forged.read_bytes().replace(b'"', b' "', 1))
    assert prove(tmp_path, "valueString") == 1
    assert capsys.readouterr().out.startswith("REFUSED (record-mismatch)")


def test_parts_that_changed_places_are_refused(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(parts, tmp_path)
    (folder / "original").write_bytes((folder / "record.json").read_bytes())
    assert prove(folder, "valueString") == 1
    assert "another part of the record" in capsys.readouterr().out


def test_a_part_that_is_missing_is_told(parts: Path, tmp_path: Path) -> None:
    (copied(parts, tmp_path) / "lineage.json").unlink()
    assert prove(tmp_path) == 3


# --- the command


def test_the_command_asks_the_service_prints_and_writes_the_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "VERSION").write_text("1")
    step = {"rule": "r", "reason": "why", "element": "Observation.method", "place": "p/l.yaml:2", "version": 3}
    statement = {
        "element": "Observation.method.text",
        "kind": "converted",
        "value": '"b"',
        "source": {"element": "Observation.method.text", "start": 7, "end": 10, "text": '"a"'},
        "rules": [step | {"table": "labs"}],
    }
    answer = {
        "record": "Observation/x/_history/1",
        "institution": "harbor",
        "ruleset": "ab",
        "height": 7,
        "answering": {"what": "activated", "at": "2026-03-01", "author": "anna", "approvers": ["ben"], "height": 5},
        "accounts": True,
        "statements": [statement],
        "parts": {"original": base64.b64encode(b"raw").decode()},
    }
    with listening(data) as service:
        told: Service = service
        told.answer = lambda call: (200, answer)
        to = tmp_path / "parts"
        assert main(["map", "explain", "Observation/x", "method", "--to", str(to), "--data", str(data)]) == 0
        assert told.calls[0].params == {"record": "Observation/x", "element": "method"}
        assert (to / "original").read_bytes() == b"raw"
        shown = capsys.readouterr()
        assert shown.out.splitlines() == [
            'Observation.method.text = "b"',
            "  converted: turned by a rule into another value",
            '  sent as Observation.method.text, bytes 7 to 10: "a"',
            "  by r (p/l.yaml:2, version 3): why",
            "     table labs",
        ]
        assert "height 7" in shown.err
        assert "activated 2026-03-01 by anna, approved by ben, on the ledger at height 5" in shown.err
        told.answer = lambda call: (200, answer | {"accounts": False})
        assert main(["map", "explain", "Observation/x", "--data", str(data)]) == 1


def test_a_pack_is_tried_on_a_file_that_is_stored_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source.yaml").write_text("institution: x\n")
    (tmp_path / "labs.yaml").write_text(PACK)
    file = tmp_path / "o.json"
    file.write_text(json.dumps(observation("o1", "p1")))
    asked = ["map", "explain", "--pack", str(tmp_path), str(file)]
    assert main([*asked, "effectiveInstant", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["statements"]
    assert (told["kind"], told["source"]["element"]) == ("moved", "Observation.effectiveDateTime")
    assert told["rules"][0]["version"] == 3
    assert main([*asked, "nothing"]) == 2
    assert main([*asked, "a", "b"]) == 2


async def test_a_record_with_new_labels_is_accounted_for_as_well(tmp_path: Path) -> None:
    include = [{"system": "http://loinc.org", "concept": [{"code": "8867-4"}]}]
    value_set = {"resourceType": "ValueSet", "url": "urn:test:hiv", "version": "2", "status": "active"}
    load = {"topics": {"HIV": "f"}, "files": {"f": json.dumps(value_set | {"compose": {"include": include}})}}
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1", meta={"security": [{"system": "urn:s", "code": "R"}]}))
        assert (await world.control.post("/labels", json=load)).status_code == 200
        await world.control.post("/labels/relabel", json={})
        told = (await explained(world, "Observation/o1", "meta.security.code")).json()
        assert told["accounts"]
        assert [(each["value"], each["kind"]) for each in told["statements"]] == [
            ('"R"', "untouched"),
            ('"HIV"', "house"),
        ]
