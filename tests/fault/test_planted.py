"""The judge of the kill tests is judged: one planted loss and one planted double are both seen."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.model.ids import canonical_id, chart_id
from tests.support.hospitals import Lane, directory, lanes
from tests.support.service import Feeder, running
from tests.support.state import Incomplete, digest_of, id_key, read_state

PERSON = "P0009"
TWIN = "11111111-2222-4333-8444-555555555555"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("planted") / "seed"
    with running(data) as service:
        service.add_institutions(("northgate",))
        # Makes the key of northgate's ids, so that both runs share it.
        service.ingest("northgate", directory("northgate"))
    return data


@pytest.fixture(scope="module")
def calm(seed: Path) -> Path:
    return fed(seed, "calm", lanes("northgate", (PERSON,)))


def fed(seed: Path, name: str, to_send: list[Lane]) -> Path:
    data = seed.with_name(name)
    shutil.copytree(seed, data)
    with running(data) as service:
        Feeder(service, to_send).run()
    return data


def ids(message: bytes) -> set[tuple[str, str]]:
    return {(e["resource"]["resourceType"], e["resource"]["id"]) for e in json.loads(message)["entry"]}


async def test_a_planted_loss_and_a_planted_double_are_both_seen(seed: Path, calm: Path) -> None:
    (lane,) = lanes("northgate", (PERSON,))
    dropped, doubled = lane.messages[1], lane.messages[2]
    lost = ids(dropped).difference(*(ids(m) for m in lane.messages if m is not dropped))
    kind, twin_of = next(each for each in sorted(ids(doubled)) if each[0] == "Encounter")
    again = doubled.replace(twin_of.encode(), TWIN.encode())
    kept = tuple(message for message in lane.messages if message is not dropped)
    data = fed(seed, "spoiled", [Lane(lane.hospital, lane.key, (*kept, again))])

    wanted, got = read_state(calm), read_state(data)
    key = id_key(calm, "northgate")
    chart = chart_id(key, canonical_id(key, "Patient", lane.key))
    assert {name.rpartition("/")[0] for name in got.lost(wanted)} == {
        f"{chart}/{canonical_id(key, *each)}" for each in lost
    }
    assert f"{chart}/{canonical_id(key, kind, TWIN)}" in {name.rpartition("/")[0] for name in got.doubled(wanted)}
    assert await digest_of(data) != await digest_of(calm)


@pytest.mark.parametrize(
    "plant",
    [
        "DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)",
        "INSERT INTO records (chart, id, version, batch, commitment, normalised, original, lineage)"
        " SELECT chart, id, version || 'x', batch, commitment, normalised, original, lineage FROM records LIMIT 1",
        "DELETE FROM segments WHERE rowid = (SELECT max(rowid) FROM segments)",
    ],
    ids=["record lost", "record doubled", "index lost"],
)
async def test_a_row_lost_or_doubled_in_the_file_is_seen(calm: Path, tmp_path: Path, plant: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(calm, data)
    with closing(sqlite3.connect(data / "vault.db")) as vault, vault:
        assert vault.execute(plant).rowcount == 1
    with pytest.raises(Incomplete):
        read_state(data)
    with pytest.raises(IntegrityBroken):
        await digest_of(data)
