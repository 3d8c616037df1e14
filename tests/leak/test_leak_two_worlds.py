"""An answer is the one that a store gives which never held what the requester may not see, over real HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.leak.channels import CHANNELS
from tests.leak.hunt import Tally, hunt_pair, run, told
from tests.leak.pairs import open_pair
from tests.leak.scene import Case, Question, get, put
from tests.support.worlds_oracle import visible
from tests.support.worlds_scripts import make_script
from tests.support.worlds_service import Host

STRETCHES = 10
CASES = int(os.environ.get("LEAK_CASES", "20000"))
"""In all stretches together."""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_a_short_stretch_finds_no_difference(host: Host) -> None:
    tally = Tally()
    hunt_pair(host, 0, 150, tally)
    assert [told(host, *each) for each in tally.found[:3]] == []
    assert tally.entries > 50, "answers must hold something, else they prove nothing"


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("stretch", range(STRETCHES))
def test_two_worlds_give_the_same_answers(
    host: Host, stretch: int, record_property: Callable[[str, object], None]
) -> None:
    said: list[str] = []
    tally = run(
        host,
        seed=10_000 + stretch,
        stride=STRETCHES,
        limit=CASES // STRETCHES,
        channel=None,
        first=False,
        tell=said.append,
    )
    record_property("tally", tally.json())
    assert [text for text in said if text.startswith("channel")] == []


def test_there_is_a_generator_for_each_channel() -> None:
    assert sorted(CHANNELS) == list(range(1, 23))


def test_worlds_hold_hidden_records_and_shown_ones() -> None:
    """Over many seeds, so that a change of the generator cannot empty the hunt without a word."""
    shares = []
    for seed in range(200):
        script = make_script(seed)
        shares.append(len(visible(script)) / sum(1 for _ in script.versions()))
    assert sum(0.1 < share < 0.9 for share in shares) > 100
    assert sum(share == 1 for share in shares) < 40


SEED_WITH_HIDDEN_OBSERVATIONS = 4


def test_ones_own_record_under_a_hidden_id_is_found_as_under_an_absent_one(host: Host) -> None:
    """Found by the hunt on 2026-11-23: reads by the id stopped at the hidden record and missed one's own."""
    script = make_script(SEED_WITH_HIDDEN_OBSERVATIONS)
    with open_pair(host, script, keep_consents=False) as (pair, start):
        start.finish()
        scene = pair.scene
        for type_name in ("Observation", "Patient"):
            hidden = next(scene.id_of(v) for v, _ in scene.hidden if v.type == type_name)
            body = {"resourceType": type_name, "id": hidden}
            if type_name == "Observation":
                subject = {"reference": "Patient/pat-p-n"}
                body |= {"status": "final", "code": {"text": "x"}, "subject": subject}  # type: ignore[dict-item]  # JSON of any kind
            questions: list[Question] = [
                put(f"{type_name}/{hidden}", body),
                get(f"{type_name}/{hidden}"),
                get(f"{type_name}/{hidden}/_history"),
                get(f"{type_name}?_id={hidden}"),
                get(f"Provenance?target={type_name}/{hidden}"),
                get(f"Patient/{hidden}/$everything"),
                get(f"Observation?patient={hidden}"),
            ]
            for question in questions:
                assert pair.compare(Case(12, question)) is None
