"""Two verifiers, written apart, say the same of every receipt, sound or not.

The second one (tests/support/second_verifier) was written from docs/formats/ledger.md by
somebody who had not read ledger_core. ``make compare-verifiers`` compares them a million times.
"""

import os
from datetime import UTC, datetime

import pytest

from tests.support.second_verifier.campaign import REFUSED, World, first, run, second
from tests.support.second_verifier.forge import POLICY, SECONDS
from tests.support.second_verifier.forged import Forged, forged

QUICK = 500
MUTATIONS = int(os.environ.get("LEDGER_MUTATIONS", "5000"))


@pytest.fixture(scope="module")
def world() -> World:
    return World.make()


def test_both_say_the_same_of_every_good_receipt_under_every_policy(world: World) -> None:
    words = set()
    for sample in world.samples:
        for name, policy in world.policies.items():
            said = first(sample.receipt, sample.record, policy, world.now)
            assert said == world.said[sample.name, name], (sample.name, name)
            words.add((said[0], sample.name.split("/")[0]))
    assert {claim for _, claim in words} == {
        *("record", "records", "transaction", "state", "past-state", "revocation")
    }
    assert {word for word, _ in words} == {
        *("not-authenticated", "operator-attested", "witnessed", "replayed", "quorum", *REFUSED)
    }


def test_samples_are_told_apart_by_name(world: World) -> None:
    assert len({sample.name for sample in world.samples}) == len(world.samples)


def test_every_sample_is_sound_without_a_policy_and_under_its_own(world: World) -> None:
    for sample in world.samples:
        assert {"none", "operator-plain", "text-none"} <= set(world.sound[sample.name])


@pytest.mark.parametrize("case", list(forged()), ids=lambda case: case.name)
def test_the_second_verifier_answers_an_operator_who_signs_anything_as_the_page_does(case: Forged) -> None:
    said = second(case.receipt, None, POLICY, datetime.fromtimestamp(SECONDS + 60, UTC))
    assert (said != REFUSED) == case.is_sound


@pytest.mark.parametrize("case", list(forged()), ids=lambda case: case.name)
def test_so_does_ledger_core(case: Forged) -> None:
    said = first(case.receipt, None, POLICY, datetime.fromtimestamp(SECONDS + 60, UTC))
    assert (said != REFUSED) == case.is_sound


def test_changed_receipts_fare_alike_and_none_passes_for_another(world: World) -> None:
    tally = run(world, range(QUICK))
    assert tally.faults == []
    assert tally.outcomes["refused"] > QUICK / 2


@pytest.mark.slow
def test_many_changed_receipts_fare_alike(world: World) -> None:
    tally = run(world, range(QUICK, QUICK + MUTATIONS))
    print(dict(tally.outcomes))
    assert tally.faults == []
