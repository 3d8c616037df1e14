"""A rule is mended: stored records come out as if it had always been right, and nothing else moves."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_bridge.lines.backfilling import Wanted
from tests.support.bridge_world import World, bundle, consent, fresh, observation, patient, running
from tests.support.chart_keys import chart_keys, erase

Json = dict[str, Any]
HEAD = "institution: northgate\nextends: core\n"
WRONG = """
- rule: site/method
  on: Observation
  when: value.exists()
  do: [{set: {path: method.text, value: wrong}}]
  why: the site's habit
- rule: site/reason
  on: [Observation, Consent]
  do: [{set: {path: language, value: en}}]
  why: one language
"""
RIGHT = WRONG.replace("wrong", "right").replace("value: en", "value: de")
REFUSING = WRONG.replace("set: {path: method.text, value: wrong}", "quarantine: {text: not this one}")


@dataclass(frozen=True, slots=True)
class Site:
    """A world whose northgate goes by a pack that a test can mend."""

    world: World
    pack: Path
    who: dict[str, str]

    async def register(self, rules: str) -> Json:
        self.pack.mkdir(exist_ok=True)
        (self.pack / "source.yaml").write_text(HEAD)
        (self.pack / "rules.yaml").write_text(rules)
        body = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(self.pack)}
        answer = await self.world.control.post("/institutions", json=body)
        assert answer.status_code == 200, answer.text
        made: Json = answer.json()
        return made

    async def backfill(self, **order: Any) -> Json:
        answer = await self.world.control.post("/map/backfill", json={"institution": "northgate", **order})
        assert answer.status_code == 200, answer.text
        last: Json = json.loads(answer.text.splitlines()[-1])
        done: Json = last.get("done", last)
        return done

    async def records(self, person: str = "p1") -> dict[str, Json]:
        """Return the person's records by their local names, version and time taken out."""
        path = f"/fhir/Patient/{await self.world.patient_id(person)}/$everything"
        answer = await self.world.http.get(path, headers=self.who)
        assert answer.status_code == 200, answer.text
        found = {}
        for each in answer.json()["entry"]:
            resource = each["resource"]
            for name in ("versionId", "lastUpdated"):
                del resource["meta"][name]
            found[f"{resource['resourceType']}/{resource['id']}"] = resource
        return found

    async def versions(self, record: str) -> list[Json]:
        answer = await self.world.http.get(f"/fhir/{record}/_history", headers=self.who)
        return [each["resource"] for each in answer.json()["entry"]]


@asynccontextmanager
async def site(data: Path, folder: Path, rules: str | None = WRONG) -> AsyncIterator[Site]:
    async with running(data) as world:
        made = Site(world, folder, await world.token())
        if rules is not None:
            await made.register(rules)
        yield made


MESSAGES: list[Json] = [
    bundle(
        ("PUT", "Patient/p1", patient("p1")),
        ("PUT", "Observation/o1", observation("o1", "p1", valueString="v", subject={"reference": "urn:uuid:p"})),
    ),
    observation("o2", "p1"),
    observation(
        "o3", "p1", valueString="w", subject={"reference": "Patient?identifier=https://northgate.example.org/mrn|p1"}
    ),
    bundle(
        ("POST", "Observation", observation("o4", "p1", valueString="x", focus=[{"reference": "Observation/o1"}])),
        kind="batch",
    ),
]
MESSAGES[0]["entry"][0]["fullUrl"] = "urn:uuid:00000000-0000-4000-8000-00000000000a"
MESSAGES[0]["entry"][1]["resource"]["subject"] = {"reference": "urn:uuid:00000000-0000-4000-8000-00000000000a"}


async def send_all(here: Site) -> None:
    for each in MESSAGES:
        await here.world.send(each)


async def test_the_end_is_that_of_having_had_the_right_rules_from_the_start(tmp_path: Path) -> None:
    data, other = fresh(tmp_path), tmp_path / "other"
    async with site(data, tmp_path / "pack") as here:
        # From here on both have the same keys, so the same ids.
        await here.world.send(patient("p0"))
    shutil.copytree(data, other)
    async with site(other, tmp_path / "right", RIGHT) as truth:
        await send_all(truth)
        wanted = await truth.records()
    async with site(data, tmp_path / "pack") as here:
        await send_all(here)
        before = await here.records()
        await here.register(RIGHT)
        done = await here.backfill()
        assert (done["versions"], done["looked_at"], done["refused"], done["failed"]) == (4, 6, {}, {})
        assert done["elements"] == {"Observation.method.text": 3, "Observation.language": 4}
        after = await here.records()
        assert after == wanted != before
        assert sum("valueString" in each for each in wanted.values()) == 3
        assert (await here.backfill())["versions"] == 0, "once more changes nothing"
        changed = next(name for name, each in after.items() if each.get("valueString") == "v")
        assert [each["method"]["text"] for each in await here.versions(changed)] == ["right", "wrong"]
        unchanged = next(name for name in after if name.startswith("Patient/"))
        assert len(await here.versions(unchanged)) == 1
        assert await here.world.findings() == []


async def test_a_rehearsal_tells_the_same_and_writes_nothing(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await send_all(here)
        before = await here.records()
        await here.register(RIGHT)
        told = await here.backfill(dry_run=True)
        assert await here.records() == before
        done = await here.backfill()
        assert done == told
        assert done["versions"] == 4


async def test_only_what_a_rule_had_a_hand_in(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await send_all(here)
        await here.register(RIGHT)
        done = await here.backfill(rule="site/method")
        assert (done["looked_at"], done["versions"]) == (3, 3)
        assert (await here.backfill())["versions"] == 1


async def test_only_what_was_stored_since_a_rulesets_first_record(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await here.world.send(patient("p1"))
        await here.world.send(observation("o1", "p1"))
        second = await here.register(WRONG.replace("wrong", "worse"))
        await here.world.send(observation("o2", "p1"))
        await here.register(RIGHT)
        await here.world.send(observation("o3", "p1"))
        assert (await here.backfill(since=second["ruleset"]))["looked_at"] == 1
        assert (await here.backfill(since=second["ruleset_with_value_sets"]))["versions"] == 0
        assert "no record" in (await here.backfill(since="0" * 64))["refused"]
        assert (await here.backfill())["versions"] == 1


async def test_what_todays_rules_would_not_take_keeps_its_version_and_is_told(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await send_all(here)
        before = await here.records()
        await here.register(REFUSING)
        done = await here.backfill()
        assert (done["refused"], done["versions"]) == ({"business-rule": 3}, 0)
        assert await here.records() == before


async def test_consents_and_others_records_are_left_alone(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await here.world.send(patient("p1"))
        await here.world.send(consent("Patient/p1", deny="harbor"))
        await here.world.send(patient("p1"), "harbor")
        await here.world.send(observation("o1", "p1", valueString="x"), "harbor")
        await here.register(RIGHT)
        done = await here.backfill()
        assert (done["looked_at"], done["versions"]) == (1, 0)
        path = f"/fhir/Consent?patient={await here.world.patient_id('p1')}"
        (entry,) = (await here.world.http.get(path, headers=here.who)).json()["entry"]
        assert entry["resource"]["language"] == "en"


async def test_an_erased_chart_is_passed_over_and_gets_no_key(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with site(data, tmp_path / "pack") as here:
        await here.world.send(patient("p1"))
        await here.world.send(observation("o1", "p1", valueString="v"))
        await here.world.send(patient("p2"))
    charts = chart_keys(data)
    assert len(charts) == 2
    erase(data, charts[:1])
    async with site(data, tmp_path / "pack", RIGHT) as here:
        done = await here.backfill()
        assert (done["erased"], done["failed"]) == (1, {})
    assert chart_keys(data) == charts[1:]


async def test_what_a_sender_sends_meanwhile_stays_the_newest(tmp_path: Path) -> None:
    count = 130
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await here.world.send(patient("p1"))
        many = [("PUT", f"Observation/n{n}", observation(f"n{n}", "p1", valueInteger=1)) for n in range(count)]
        await here.world.send(bundle(*many))
        await here.register(RIGHT)
        running_now = asyncio.create_task(here.backfill())
        for n in range(0, count, 5):
            await here.world.send(observation(f"n{n}", "p1", valueInteger=2))
        done = await running_now
        assert done["failed"] == {}
        found = {each["identifier"][0]["value"]: each for each in (await here.records()).values() if "method" in each}
        assert {found[f"n{n}"]["valueInteger"] for n in range(0, count, 5)} == {2}
        assert {each["method"]["text"] for each in found.values()} == {"right"}


async def test_a_run_that_was_cut_off_goes_on_by_itself_at_the_next_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with site(data, tmp_path / "pack") as here:
        await send_all(here)
        await here.register(RIGHT)
        run = here.world.bridge.backfilling.run(Wanted("northgate"))
        await anext(run)
        await run.aclose()
        told = await here.backfill(rule="site/method")
        assert "a backfill of northgate goes on" in told["refused"]
    async with site(data, tmp_path / "pack", None) as here:
        for _ in range(200):
            texts = [each["method"]["text"] for each in (await here.records()).values() if "method" in each]
            if texts == ["right"] * 3:
                break
            await asyncio.sleep(0.05)
        assert texts == ["right"] * 3
        assert (await here.backfill())["versions"] == 0


async def test_a_pack_that_is_not_in_force_makes_nothing_again(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await send_all(here)
        (here.pack / "rules.yaml").write_text(RIGHT)
        done = await here.backfill()
        assert (done["looked_at"], done["versions"]) == (0, 0)
        answer = await here.world.control.post("/map/backfill", json={"institution": "nobody"})
        assert "done" not in answer.text


async def test_the_new_version_is_explained_from_the_same_bytes(tmp_path: Path) -> None:
    async with site(fresh(tmp_path), tmp_path / "pack") as here:
        await here.world.send(patient("p1"))
        await here.world.send(observation("o1", "p1", valueString="v"))
        await here.register(RIGHT)
        await here.backfill()
        params = {"record": "Observation/o1", "element": "method.text"}
        told = (await here.world.control.get("/map/explain", params=params)).json()
        assert [each["value"] for each in told["statements"]] == ['"right"']
        assert told["accounts"]
