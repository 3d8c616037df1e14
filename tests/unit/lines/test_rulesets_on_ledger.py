"""A ruleset is on the ledger, with who answers for it, before the first record that it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger_core import RegisterRuleset, UseRuleset, read_transactions
from tests.support.bridge_world import World, fresh, observation, patient, running
from tests.support.made_by import named, stored_by_ruleset
from tests.support.packs import marking_pack


def uses(data: Path) -> list[UseRuleset]:
    """Return the uses of rulesets on a ledger, in order."""
    found = (each.payload for each in read_transactions(data / "ledger" / "ledger.db"))
    return [payload for payload in found if isinstance(payload, UseRuleset)]


def registered(data: Path) -> set[str]:
    """Return the hashes that the ledger knows of what made records."""
    found = (each.payload for each in read_transactions(data / "ledger" / "ledger.db"))
    return {payload.digest.hex() for payload in found if isinstance(payload, RegisterRuleset)}


async def order(world: World, what: str, **given: Any) -> Any:
    """Give an order about northgate's rules; return the answer."""
    answer = await world.control.post(f"/rules/northgate/{what}", json=given)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def proposed(world: World, pack: Path, author: str = "anna") -> str:
    """Propose a pack for northgate; return its hash."""
    return str((await order(world, "propose", ruleset_dir=str(pack), author=author))["ruleset"])


async def test_an_edited_folder_changes_nothing_until_it_is_put_in_force_not_even_by_a_new_start(
    tmp_path: Path,
) -> None:
    data, pack = fresh(tmp_path), marking_pack(tmp_path / "pack", "one")
    async with running(data) as world:
        await world.send(patient("p1"))
        first = await proposed(world, pack)
        await order(world, "activate", ruleset=first)
        marking_pack(pack, "two")
        await world.send(observation("o1", "p1"))
    (pack / "source.yaml").unlink()
    async with running(data) as world:
        await world.send(observation("o2", "p1"))
        made = await stored_by_ruleset(world)
    assert [(ruleset, content["method"]["text"]) for ruleset, content in made] == [(named(first), "one")] * 2


async def test_the_ledger_says_who_answers_for_rules_and_for_which_institution_before_their_first_record(
    tmp_path: Path,
) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        await world.send(patient("p1"))
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"), "Anna Example")
        await order(world, "approve", ruleset=ruleset, approver="Ben")
        done = await order(world, "activate", ruleset=ruleset)
        before = uses(data)[-1]
        assert named(ruleset) not in registered(data)
        await world.send(observation("o1", "p1"))
        told = (await world.control.get("/rules/northgate/history")).json()["changes"][0]
        members = {each["name"]: each for each in (await world.control.get("/institutions")).json()}
    assert named(ruleset) in registered(data)
    assert (before.digest.hex(), before.share) == (ruleset, 10_000)
    assert before.author.hex() == told["author_key"]
    assert (told["author"], told["approvers"], told["height"]) == ("anna example", ["ben"], done["height"])
    assert before.institution not in (before.author, bytes.fromhex(told["approver_keys"][0]))
    assert members["northgate"]["ruleset"] == ruleset
    ledger = (data / "ledger" / "ledger.db").read_bytes().lower()
    assert b"anna" not in ledger
    assert b"anna" not in (data / "vault.db").read_bytes().lower()


async def test_author_approver_and_institution_have_signed_the_very_transaction(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        ruleset = await proposed(world, marking_pack(tmp_path / "pack", "one"))
        await order(world, "approve", ruleset=ruleset, approver="ben")
        await order(world, "activate", ruleset=ruleset)
        told = (await world.control.get("/rules/northgate/history")).json()["changes"][0]
    (entry,) = [e for e in entries(data) if bytes.fromhex(ruleset) in e and bytes.fromhex(told["author_key"]) in e]
    use = uses(data)[-1]
    for key in (use.author, use.institution, bytes.fromhex(told["approver_keys"][0])):
        assert key in entry


def entries(data: Path) -> list[bytes]:
    """Return every entry of a ledger."""
    from ledger_core import open_to_read

    with open_to_read(data / "ledger" / "ledger.db") as reading:
        return [row.entry for row in reading.entries(0)]
