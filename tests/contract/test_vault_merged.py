"""A segment that took the place of others: written whole or not at all, and found when it is spoiled."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fhir_bridge.adapters.vault_fsck import check
from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.adapters.vault_sqlite import SqliteDatabase
from fhir_bridge.errors import EnvelopeBroken, IntegrityBroken
from fhir_bridge.ports.vault import Document, Replacement, Work
from fhir_bridge.seal import check_numbers, open_parts, open_segment, seal_merged
from tests.contract.vault_samples import CHART, MAC_KEY, OTHER_CHART, RANDOM, anchor, chart_key, work

KEY = chart_key(CHART)


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[SqlVault]:
    """Five segments of one chart, each of a batch of its own, and one of another."""
    opened = SqlVault(SqliteDatabase(tmp_path / "vault.db"), MAC_KEY)
    for number in range(5):
        await opened.commit(work(CHART, number, f"r{number}"), anchor)
    await opened.commit(work(OTHER_CHART, 0, "other"), anchor)
    yield opened
    await opened.close()


async def merged(vault: SqlVault, first: int, last: int) -> Replacement:
    stored = [each for each in await vault.segments(CHART) if first <= each.number <= last]
    segment = seal_merged(KEY, [open_parts(KEY, each) for each in stored], RANDOM)
    return Replacement(segment, stored[-1].batch, tuple(each.number for each in stored))


async def test_a_merged_segment_holds_the_rows_in_order_with_their_batches(vault: SqlVault) -> None:
    before = [(each.batch, open_segment(KEY, each)) for each in await vault.segments(CHART)]
    await vault.commit(Work(replacements=[await merged(vault, 1, 3)]), None)
    after = [open_parts(KEY, each) for each in await vault.segments(CHART)]
    assert [(each.first, each.number) for each in after] == [(0, 0), (1, 3), (4, 4)]
    assert [(part.batch, part.rows()) for each in after for part in each.parts] == before
    assert [each.batch for each in await vault.segments(CHART)] == [0, 3, 4]
    assert len(await vault.segments(OTHER_CHART)) == 1
    await vault.commit(Work(replacements=[await merged(vault, 0, 4)]), None)
    (last,) = await vault.segments(CHART)
    assert [(part.batch, part.rows()) for part in open_parts(KEY, last).parts] == before
    await vault.commit(work(CHART, 5, "r5"), anchor)
    check_numbers([open_parts(KEY, each) for each in await vault.segments(CHART)])


async def test_a_replacement_for_what_is_not_there_writes_nothing(vault: SqlVault) -> None:
    made = await merged(vault, 1, 3)
    await vault.commit(Work(replacements=[made]), None)
    before = await vault.segments(CHART)
    with pytest.raises(IntegrityBroken):
        await vault.commit(Work(replacements=[made], documents=[Document("links", "k", b"v")]), None)
    assert await vault.segments(CHART) == before
    assert await vault.document("links", "k") is None


async def test_a_replacement_takes_the_number_of_the_last(vault: SqlVault) -> None:
    made = await merged(vault, 1, 3)
    with pytest.raises(ValueError, match="number of the last"):
        await vault.commit(Work(replacements=[Replacement(made.segment, 3, (1, 2))]), None)
    assert [each.number for each in await vault.segments(CHART)] == list(range(5))


async def test_only_consecutive_segments_are_merged(vault: SqlVault) -> None:
    opened = [open_parts(KEY, each) for each in await vault.segments(CHART)]
    with pytest.raises(IntegrityBroken):
        seal_merged(KEY, [opened[1], opened[3]], RANDOM)
    with pytest.raises(EnvelopeBroken):
        open_parts(chart_key(OTHER_CHART), seal_merged(KEY, opened[1:3], RANDOM))


async def test_sizes_and_crowded_charts(vault: SqlVault) -> None:
    sizes = [(each.number, len(each.ciphertext)) for each in await vault.segments(CHART)]
    assert list(await vault.segment_sizes(CHART)) == sizes
    assert list(await vault.crowded_charts(5)) == [CHART]
    assert list(await vault.crowded_charts(6)) == []


SPOILS = {
    "deleted": (f"DELETE FROM segments WHERE chart = '{CHART}' AND number = 3", "segments", "/3", "deleted"),
    "edited": (
        f"UPDATE segments SET ciphertext = zeroblob(400) WHERE chart = '{CHART}' AND number = 3",
        "segments",
        "/3",
        "edited",
    ),
    "put back as it was before the merge": (
        f"INSERT OR REPLACE INTO main.segments SELECT * FROM early.segments WHERE chart = '{CHART}' AND number = 3",
        "segments",
        "/3",
        "rolled back",
    ),
    "what was merged put back beside": (
        f"INSERT INTO main.segments SELECT * FROM early.segments WHERE chart = '{CHART}' AND number = 2",
        "segments",
        "/2",
        "back, although",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_spoiled_merge_is_found_and_located(vault: SqlVault, tmp_path: Path, spoil: str) -> None:
    sql, table, number, said = SPOILS[spoil]
    with (
        closing(sqlite3.connect(tmp_path / "vault.db")) as source,
        closing(sqlite3.connect(tmp_path / "early.db")) as copy,
    ):
        source.backup(copy)
    await vault.commit(Work(replacements=[await merged(vault, 1, 3)]), None)
    await vault.commit(work(CHART, 5, "r5"), anchor)
    await vault.close()
    path = tmp_path / "vault.db"

    def found() -> list[tuple[str, str]]:
        keys = {CHART: KEY, OTHER_CHART: chart_key(OTHER_CHART)}
        return [(each.place, each.what) for each in check(SqliteDatabase(path), MAC_KEY, chart_keys=keys.get)]

    assert found() == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ATTACH ? AS early", (str(tmp_path / "early.db"),))
        assert connection.execute(sql).rowcount == 1
    assert any(place == f"{table} {CHART}{number}" and what.startswith(said) for place, what in found())
    shutil.rmtree(tmp_path, ignore_errors=True)


async def test_whoever_opens_a_chart_without_a_check_notices_too(vault: SqlVault) -> None:
    early = await vault.segments(CHART)
    await vault.commit(Work(replacements=[await merged(vault, 1, 3)]), None)
    late = await vault.segments(CHART)
    for spoiled in ([late[0], late[2]], [late[0], early[2], *late[1:]], [early[0], early[3], early[4]], early[1:]):
        with pytest.raises(IntegrityBroken):
            check_numbers([open_parts(KEY, each) for each in spoiled])
