"""Rules come into force whole, between two messages, or not at all; and go back."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import Unavailable
from fhir_bridge.lines.pure import _ruleset
from fhir_bridge.lines.rule_life import ACTIVATED, PendingChange, Step
from tests.support.bridge_world import ROOT, World, fresh, observation, patient, running
from tests.support.made_by import named, stored_by_ruleset
from tests.support.packs import QUARANTINE, marking_pack
from tests.unit.lines.test_rulesets_on_ledger import order, proposed, uses

NORTHGATE = ROOT / "mappings" / "northgate"


async def status(world: World) -> dict[str, Any]:
    """Return what northgate's rules are now."""
    (found,) = (await world.control.get("/rules", params={"institution": "northgate"})).json()
    assert isinstance(found, dict)
    return found


async def refused(world: World, what: str, **given: Any) -> str:
    """Give an order that is refused; return why."""
    answer = await world.control.post(f"/rules/northgate/{what}", json=given)
    assert answer.status_code in (400, 422), answer.text
    return str(answer.json()["issue"][0]["diagnostics"])


def of_one_ruleset(made: list[tuple[str, dict[str, Any]]], marks: dict[str, str]) -> set[str]:
    """Check that each record says the mark of the ruleset it names, in both elements; return the marks."""
    for ruleset, content in made:
        assert (content["method"]["text"], content["bodySite"]["text"]) == (marks[ruleset], marks[ruleset])
    return {content["method"]["text"] for _, content in made}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
async def test_a_swap_under_load_loses_doubles_and_mixes_nothing(tmp_path: Path, workers: int) -> None:
    marks: dict[str, str] = {}
    sent: list[str] = []
    is_over = asyncio.Event()

    async def keep_sending(world: World, sender: int) -> None:
        number = 0
        while not is_over.is_set():
            name = f"o{sender}-{number}"
            summary = await world.send(observation(name, f"p{sender}"))
            assert summary["outcomes"] == {"201": 1}, summary
            sent.append(name)
            number += 1

    async def more_is_sent() -> None:
        enough = len(sent) + 18
        while len(sent) < enough:
            await asyncio.sleep(0.01)

    async with running(fresh(tmp_path), workers=workers) as world:
        for sender in range(6):
            await world.send(patient(f"p{sender}"))
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        marks[named(first)] = "one"
        senders = [asyncio.create_task(keep_sending(world, each)) for each in range(6)]
        for mark in ("two", "three", "four"):
            ruleset = await proposed(world, marking_pack(tmp_path / mark, mark))
            marks[named(ruleset)] = mark
            await more_is_sent()
            await order(world, "activate", ruleset=ruleset)
        await more_is_sent()
        is_over.set()
        await asyncio.gather(*senders)
        made = await stored_by_ruleset(world)
        assert await world.findings() == []
    assert of_one_ruleset(made, marks) == {"one", "two", "three", "four"}
    assert sorted(content["identifier"][0]["value"] for _, content in made) == sorted(sent)


async def test_once_rules_are_in_force_nothing_of_the_old_ones_is_stored_any_more(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "activate", ruleset=first)
        # The line has done it by the first ruleset, but must not commit it before the second is in force.
        async with world.bridge.services.ingest.committing:
            waiting = asyncio.create_task(world.send(observation("o1", "p1")))
            await asyncio.sleep(0.3)
            await order(world, "activate", ruleset=second)
        await waiting
        made = await stored_by_ruleset(world)
    assert [(ruleset, content["method"]["text"]) for ruleset, content in made] == [(named(second), "two")]


async def test_a_broken_pack_or_a_failing_example_leaves_the_rules_as_they_are_and_says_why(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        first = await proposed(world, marking_pack(tmp_path / "pack", "one"))
        await order(world, "activate", ruleset=first)
        pack = marking_pack(tmp_path / "pack", "two")
        (pack / "second.yaml").write_text(
            "rule: x\non: Observation\ndo: [set: {path: bodySit.text, value: a}]\nwhy: y\n"
        )
        why = await refused(world, "propose", ruleset_dir=str(pack), author="anna")
        assert why.startswith("pack/second.yaml:3:")
        assert "did you mean 'bodySite'" in why
        marking_pack(pack, "two")
        (pack / "examples" / "marked.expected.json").write_text(json.dumps(observation("o", "p")))
        why = await refused(world, "propose", ruleset_dir=str(pack), author="anna")
        assert why.startswith("1 of 1 examples come out otherwise: marked:")
        assert "nothing is called" not in why
        await world.send(observation("o1", "p1"))
        assert (await status(world))["ruleset"] == first
        assert of_one_ruleset(await stored_by_ruleset(world), {named(first): "one"}) == {"one"}


async def test_going_back_takes_the_one_before_or_the_one_that_is_named_and_nothing_else(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        hashes = []
        for mark in ("one", "two", "three"):
            hashes.append(await proposed(world, marking_pack(tmp_path / "pack", mark)))
            await order(world, "activate", ruleset=hashes[-1])
        never = await proposed(world, marking_pack(tmp_path / "pack", "never"))
        assert "never in force" in await refused(world, "rollback", ruleset=never, author="ben")
        assert (await order(world, "rollback", author="ben"))["ruleset"] == hashes[1]
        assert (await order(world, "rollback", author="ben", ruleset=hashes[0][:8]))["ruleset"] == hashes[0]
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        assert of_one_ruleset(await stored_by_ruleset(world), {named(hashes[0]): "one"}) == {"one"}
        told = (await world.control.get("/rules/northgate/history")).json()["changes"]
    assert [(each["what"], each["ruleset"]) for each in told[:3]] == [
        ("rolled back", hashes[0]),
        ("rolled back", hashes[1]),
        ("activated", hashes[2]),
    ]
    assert [use.digest.hex() for use in uses(data)[-3:]] == [hashes[2], hashes[1], hashes[0]]


async def test_with_four_eyes_nobodys_rules_come_into_use_by_their_author_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    monkeypatch.setenv("FHIR_BRIDGE_RULES_FOUR_EYES", "true")
    async with running(data) as world:
        before = (await status(world))["ruleset"]
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"), "Anna")
        for what in ("activate", "canary"):
            assert "four eyes" in await refused(world, what, ruleset=ruleset, share=100)
        assert "somebody else" in await refused(world, "approve", ruleset=ruleset, approver=" anna ")
        again = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(tmp_path / "pack")}
        assert (await world.control.post("/institutions", json=again)).status_code == 400
        both = again | {"author": "Anna", "approver": "ANNA"}
        assert (await world.control.post("/institutions", json=both)).status_code == 400
        # One person who approves what nobody in particular brings is one pair of eyes.
        assert (await world.control.post("/institutions", json=again | {"approver": "Ben"})).status_code == 400
        assert (await status(world))["ruleset"] == before
        assert len(uses(data)) == 2
        await order(world, "approve", ruleset=ruleset, approver="Ben")
        await order(world, "activate", ruleset=ruleset)
        assert (await status(world))["ruleset"] == ruleset
        # What was approved once needs nobody at night.
        assert (await order(world, "rollback", author="anna"))["ruleset"] == before


@pytest.mark.parametrize(
    "spelled", [" JOSÉ  Ruiz", "jose\u0301 ruiz", "\uff4aosé ruiz", "jos\u034fé ruiz", "jos\u00ad\u00e9 ruiz"]
)
async def test_one_name_spelled_twice_is_one_pair_of_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    data = fresh(tmp_path)
    monkeypatch.setenv("FHIR_BRIDGE_RULES_FOUR_EYES", "true")
    async with running(data) as world:
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"), "josé ruiz")
        why = await refused(world, "approve", ruleset=ruleset, approver=spelled)
        assert "nobody approves what they proposed" in why or "needs a name" in why


async def test_an_approval_is_of_one_content_and_of_one_institution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    monkeypatch.setenv("FHIR_BRIDGE_RULES_FOUR_EYES", "true")
    async with running(data) as world:
        approved = await proposed(world, marking_pack(tmp_path / "pack", "one"))
        await order(world, "approve", ruleset=approved, approver="ben")
        other = await proposed(world, marking_pack(tmp_path / "pack", "two"))
        assert "four eyes" in await refused(world, "activate", ruleset=other)
        elsewhere = await world.control.post("/rules/harbor/activate", json={"ruleset": approved})
        assert "nobody has proposed" in elsewhere.text


# --- crashes


async def pending(world: World, pack: Path, mark: str) -> tuple[PendingChange, str]:
    """Bring a change as far as its note in the vault, as a process does that dies right then."""
    rules = world.bridge.rules
    ruleset = await proposed(world, marking_pack(pack, mark))
    author, approvers = rules._answering("northgate", ruleset)
    step = Step(ACTIVATED, ruleset, 1, author, approvers, 10_000)
    target = rules._with(rules._registry.institution("northgate"), ruleset)
    change = PendingChange(target, step, rules._people.signed("northgate", step))
    await rules.life.begin(change)
    return change, ruleset


@pytest.mark.parametrize("reached_the_ledger", [False, True])
async def test_a_change_that_a_crash_cut_off_is_made_at_the_next_start_and_once(
    tmp_path: Path, reached_the_ledger: bool
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        change, ruleset = await pending(world, tmp_path / "pack", "one")
        if reached_the_ledger:
            await world.bridge.rules._notary.submit(change.envelope)
        assert (await status(world))["ruleset"] != ruleset
        known = len(uses(data))
    async with running(data) as world:
        assert (await status(world))["ruleset"] == ruleset
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        assert of_one_ruleset(await stored_by_ruleset(world), {named(ruleset): "one"}) == {"one"}
        assert await world.findings() == []
    async with running(data) as world:
        told = (await world.control.get("/rules/northgate/history")).json()["changes"]
    assert [each["ruleset"] for each in told].count(ruleset) == 1
    assert len(uses(data)) == known + (not reached_the_ledger)


async def test_a_change_that_waits_is_made_before_the_next_one(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        _, waiting = await pending(world, tmp_path / "pack", "one")
        following = await proposed(world, marking_pack(tmp_path / "pack", "two"))
        await order(world, "activate", ruleset=following)
        told = (await world.control.get("/rules/northgate/history")).json()["changes"]
    assert [each["ruleset"] for each in told[:2]] == [following, waiting]
    assert [use.digest.hex() for use in uses(data)[-2:]] == [waiting, following]


async def test_a_trial_that_was_withdrawn_while_a_change_waited_does_not_come_back(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        candidate = await proposed(world, marking_pack(tmp_path / "other", "two"))
        await order(world, "shadow", ruleset=candidate, share=100)
        _, waiting = await pending(world, tmp_path / "pack", "one")
        await order(world, "withdraw")
        following = await proposed(world, marking_pack(tmp_path / "pack", "three"))
        await order(world, "activate", ruleset=following)
        now = await status(world)
    assert (now["ruleset"], now["trial"]) == (following, None)
    assert waiting != following


async def test_a_copy_that_was_edited_or_is_gone_is_made_anew_at_the_next_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"))
        await order(world, "activate", ruleset=ruleset)
    copy = data / "rulesets" / ruleset / "pack"
    (copy / "first.yaml").write_text((copy / "first.yaml").read_text().replace("one", "forged"))
    (copy / "second.yaml").unlink()
    (copy / "more.yaml").write_text("rule: x\non: Observation\ndo: [remove: {path: status}]\nwhy: y\n")
    async with running(data) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        assert of_one_ruleset(await stored_by_ruleset(world), {named(ruleset): "one"}) == {"one"}


async def test_what_was_proposed_elsewhere_is_laid_out_before_it_comes_into_force(tmp_path: Path) -> None:
    """After a restore, and where another machine takes over, the folder has what is in force and no more."""
    data = fresh(tmp_path)
    async with running(data) as world:
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"))
    shutil.rmtree(data / "rulesets")
    async with running(data) as world:
        await order(world, "activate", ruleset=ruleset)
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        assert of_one_ruleset(await stored_by_ruleset(world), {named(ruleset): "one"}) == {"one"}


async def test_what_an_older_release_registered_is_copied_at_the_first_start(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    pack = marking_pack(tmp_path / "pack", "one")
    async with running(data) as world:
        ruleset = await proposed(world, pack)
        registry = world.bridge.relabelling._registry
        await registry.change_institution(
            "northgate", lambda known: replace(known, ruleset=ruleset, ruleset_dir=str(pack), snapshot="")
        )
    async with running(data) as world:
        marking_pack(pack, "edited")
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        assert of_one_ruleset(await stored_by_ruleset(world), {named(ruleset): "one"}) == {"one"}
        assert (await world.control.get("/rules/northgate/history")).json()["changes"][0]["what"] == "adopted"
    assert uses(data)[-1].digest.hex() == ruleset


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the next release be started: its engine gives the same files another hash."""

    def change(engine: str) -> None:
        for module in ("normalize.pack", "lines.rules", "lines.rule_copies"):
            monkeypatch.setattr(f"fhir_bridge.{module}.ENGINE", engine)
        _ruleset.cache_clear()

    return change


async def test_going_back_after_an_upgrade_is_to_other_rules_as_this_release_compiles_them(
    tmp_path: Path, engine: Callable[[str], None]
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        hashes = []
        for mark in ("one", "two"):
            hashes.append(await proposed(world, marking_pack(tmp_path / mark, mark)))
            await order(world, "activate", ruleset=hashes[-1])
        waiting = await proposed(world, marking_pack(tmp_path / "three", "three"))
    engine("next")
    async with running(data) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        renewed = (await status(world))["ruleset"]
        for what, more in (("activate", {}), ("canary", {"share": 10_000}), ("shadow", {"share": 10_000})):
            assert "propose it again" in await refused(world, what, ruleset=waiting, **more)
        back = (await order(world, "rollback", author="ben"))["ruleset"]
        assert (await world.send(observation("o2", "p1")))["outcomes"] == {"201": 1}
        assert (await order(world, "rollback", author="ben", ruleset=hashes[1]))["ruleset"] == renewed
        assert "nothing to go back to" in await refused(world, "rollback", author="ben", ruleset=hashes[1])
        assert (await order(world, "rollback", author="ben", ruleset=hashes[0]))["ruleset"] == back
        made = await stored_by_ruleset(world)
    assert of_one_ruleset(made, {named(renewed): "two", named(back): "one"}) == {"one", "two"}
    assert not {renewed, back} & set(hashes)


# --- trials


async def test_a_shadow_tells_what_would_differ_in_paths_and_codes_and_stores_nothing(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1", name=[{"family": "Zzyzxfamily"}]))
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        pack = marking_pack(tmp_path / "two", "one", also="set: {path: valueString, value: changed}")
        (pack / "examples" / "marked.input.json").unlink()
        second = await proposed(world, pack)
        await order(world, "shadow", ruleset=second, share=10_000)
        for number in range(3):
            await world.send(observation(f"o{number}", "p1", valueString="Zzyzxvalue"))
        trial = (await status(world))["trial"]
        made = await stored_by_ruleset(world)
        page = (await world.control.get("/metrics")).text
    assert trial["differences"] == [
        {
            "what": "changed",
            "rule": "marks/third",
            "path": "Observation.valueString",
            "code": "http://loinc.org|8867-4",
        }
        | {"count": 3}
    ]
    assert (trial["kind"], trial["messages"], trial["worse"]) == ("shadow", 3, 0)
    assert {(ruleset, content["valueString"]) for ruleset, content in made} == {(named(first), "Zzyzxvalue")}
    assert 'fhir_bridge_rules_tried_total{institution="northgate",outcome="differs"}' in page
    assert "zzyzx" not in (json.dumps(trial) + page).lower()


async def test_a_canary_does_whole_patients_and_its_records_name_it(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "canary", ruleset=second, share=5_000)
        marks = {named(first): "one", named(second): "two"}
        for number in range(24):
            await world.send(patient(f"p{number}"))
            for turn in range(2):
                await world.send(observation(f"o{number}-{turn}", f"p{number}"))
        made = await stored_by_ruleset(world)
        assert of_one_ruleset(made, marks) == {"one", "two"}
        by_patient: dict[str, set[str]] = {}
        for ruleset, content in made:
            by_patient.setdefault(content["subject"]["reference"], set()).add(ruleset)
        assert len(by_patient) == 24
        assert all(len(each) == 1 for each in by_patient.values())
        assert uses(data)[-1].share == 5_000
        await order(world, "activate", ruleset=second)
        assert (await status(world))["trial"] is None
        await world.send(observation("last", "p0"))
        last = [c for _, c in await stored_by_ruleset(world) if c["identifier"][0]["value"] == "last"]
        assert last[0]["method"]["text"] == "two"
        told = (await world.control.get("/rules/northgate/history")).json()["changes"]
        assert [(each["what"], each["share_percent"]) for each in told[:2]] == [("activated", 100), ("canary", 50)]


async def test_a_canary_that_quarantines_what_the_others_take_is_withdrawn_by_itself(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        worse = marking_pack(tmp_path / "two", "two", also=QUARANTINE, when="value = 'bad'")
        second = await proposed(world, worse)
        await order(world, "canary", ruleset=second, share=10_000)
        outcomes = [await world.send(observation(f"o{n}", "p1", valueString="bad")) for n in range(2)]
        assert [each["outcomes"] for each in outcomes] == [{"202": 1}] * 2
        assert (await status(world))["trial"]["worse"] == 2
        await world.send(observation("o2", "p1", valueString="bad"))
        await world.bridge.rules.trials.settle()
        now = await status(world)
        assert now["trial"] is None
        assert now["last"]["what"] == "withdrawn"
        assert now["last"]["reason"].startswith("3 of 3 entries were not taken")
        assert (await world.send(observation("o3", "p1", valueString="bad")))["outcomes"] == {"201": 1}
        assert (await world.control.post("/letters/replay", json={"reason": "quarantined"})).json()["replayed"] >= 2
    assert (uses(data)[-1].digest.hex(), uses(data)[-1].share) == (second, 0)


async def test_withdrawing_a_canary_has_what_it_did_and_was_not_stored_done_again(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "canary", ruleset=second, share=10_000)
        async with world.bridge.services.ingest.committing:
            waiting = asyncio.create_task(world.send(observation("o1", "p1")))
            await asyncio.sleep(0.3)
            await order(world, "withdraw", author="ben")
        await waiting
        assert of_one_ruleset(await stored_by_ruleset(world), {named(first): "one"}) == {"one"}


async def test_a_withdrawal_that_a_crash_cuts_off_is_told_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, told and brought to the ledger, or not begun: never a canary that is over without anybody's word."""
    data = fresh(tmp_path)
    async with running(data) as world:
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "canary", ruleset=second, share=10_000)
        left = asyncio.Event()

        async def dies(*_: object) -> None:
            # Whatever comes after the first commit.
            left.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(world.bridge.rules, "_settle", dies)
        asked = asyncio.create_task(order(world, "withdraw", author="ben"))
        await asyncio.wait_for(left.wait(), 10)
        assert (await status(world))["trial"] is None
        asked.cancel()
    async with running(data) as world:
        now = await status(world)
    assert now["trial"] is None
    assert (now["last"]["what"], now["last"]["author"]) == ("withdrawn", "ben")
    assert (uses(data)[-1].digest.hex(), uses(data)[-1].share) == (second, 0)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_canary_is_withdrawn_while_the_ledger_is_away_and_the_ledger_hears_of_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        first = await proposed(world, marking_pack(tmp_path / "one", "one"))
        await order(world, "activate", ruleset=first)
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "canary", ruleset=second, share=10_000)
        in_force = (await pending(world, tmp_path / "pack", "three"))[1] if waits else first

        async def away(_: bytes) -> int:
            raise Unavailable("the ledger cannot take a transaction now")

        with monkeypatch.context() as patched:
            patched.setattr(world.bridge.rules._notary, "submit", away)
            await order(world, "withdraw", author="ben")
            assert (await status(world))["trial"] is None
    async with running(data) as world:
        now = await status(world)
        told = world.bridge.rules.life.steps("northgate")
        assert world.bridge.rules.life.pending is None
    assert (now["ruleset"], now["trial"]) == (in_force, None)
    assert (second, 0) in [(use.digest.hex(), use.share) for use in uses(data)]
    assert [step.kind for step in told].count("withdrawn") == 1


async def test_a_greater_share_that_waited_does_not_bring_a_withdrawn_canary_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        second = await proposed(world, marking_pack(tmp_path / "two", "two"))
        await order(world, "canary", ruleset=second, share=500)

        async def away(_: bytes) -> int:
            raise Unavailable("the ledger cannot take a transaction now")

        monkeypatch.setattr(world.bridge.rules._notary, "submit", away)
        answer = await world.control.post("/rules/northgate/canary", json={"ruleset": second, "share": 2_000})
        assert answer.status_code == 503
        await order(world, "withdraw", author="ben")
    async with running(data) as world:
        assert (await status(world))["trial"] is None
    assert [use.share for use in uses(data)[-3:]] == [500, 2_000, 0]


# --- the story


async def test_who_changed_a_rule_when_and_which_records_it_touches(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        pack = marking_pack(tmp_path / "pack", "one")
        first = await proposed(world, pack, "anna")
        await order(world, "activate", ruleset=first)
        await world.send(observation("o1", "p1"))
        (pack / "second.yaml").write_text((pack / "second.yaml").read_text().replace("value: 'one'", "value: 'two'"))
        (pack / "examples" / "marked.input.json").unlink()
        second = await proposed(world, pack, "ben")
        await order(world, "activate", ruleset=second)
        for number in (2, 3):
            await world.send(observation(f"o{number}", "p1"))
        asked = {"touching": "marks/second"}
        told = (await world.control.get("/rules/northgate/history", params=asked)).json()
        everything = (await world.control.get("/rules/northgate/history")).json()["changes"]
        other = (await world.control.get("/rules/northgate/history", params={"touching": "marks/first"})).json()
        unknown = await world.control.get("/rules/northgate/history", params={"touching": "marks/nothing"})
    newest = told["changes"][0]
    assert (newest["ruleset"], newest["author"], newest["records"], newest["touched"]) == (second, "ben", 2, 2)
    assert newest["changed"] == {"files": ["pack/second.yaml"], "rules": ["marks/second"]}
    assert [line for line in newest["lines"] if line[0] in "+-" and line[1] != line[0]] == [
        "-  - set: {path: bodySite.text, value: 'one'}",
        "+  - set: {path: bodySite.text, value: 'two'}",
    ]
    assert {each["ruleset"] for each in told["touched"]} == {first, second}
    assert len(told["touched"]) == 3
    assert [each["author"] for each in everything[:2]] == ["ben", "anna"]
    assert [each["ruleset"] for each in other["changes"]] == [first]
    assert unknown.status_code == 400
