"""What every Vault must do; subclass and give a ``vault_world`` fixture."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

import pytest

from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.model.ingest import Position
from fhir_bridge.ports.vault import Batch, Document, LettersWanted, SealedLetter, Vault, Work
from tests.contract.vault_samples import CHART, OTHER_CHART, anchor, audit, row, sealed, segment, work

LETTER = SealedLetter("l1", "northgate", "invalid", 5, b"envelope")


class VaultWorld(Protocol):
    """Storage that survives the vaults opened onto it."""

    async def open(self) -> Vault:
        """Return a vault; the one opened before is closed."""
        ...


class AnchorFailed(Exception):
    """A failure between the rows and the batch."""


def failing_anchor(*, number: int, commitments: object, journal_head: bytes) -> Batch:
    """Fail as a ledger identity might."""
    raise AnchorFailed


class VaultContract:
    """Facts about any vault."""

    async def test_everything_of_a_work_is_there_after_a_restart(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        written = replace(
            work(CHART, 0, "r1", "r2"),
            positions=[Position("kafka", "s", 3, 41)],
            letters=[LETTER],
            documents=[Document("links", "k", b"v")],
            audits=[audit("chain", 0)],
        )
        number = await vault.commit(written, anchor)
        assert number is not None

        again = await vault_world.open()
        (batch,) = await again.pending_batches()
        assert (batch.number, batch.height) == (number, None)
        assert {r.commitment for r in written.records} | {a.head for a in written.audits} <= set(batch.leaves)
        stored = await again.record(CHART, "r1", "v1")
        assert stored is not None
        first = written.records[0]
        assert (stored.normalised, stored.original, stored.lineage) == (
            first.normalised,
            first.original,
            first.lineage,
        )
        assert (stored.commitment, stored.batch) == (first.commitment, number)
        (found,) = await again.segments(CHART)
        assert (found.number, found.batch, found.ciphertext) == (0, number, written.segments[0].ciphertext)
        assert list(await again.positions("kafka")) == [Position("kafka", "s", 3, 42)]
        assert list(await again.letters()) == [LETTER]
        assert await again.document("links", "k") == b"v"
        assert list(await again.audits("chain")) == list(written.audits)

    async def test_a_work_of_very_many_rows_is_written_whole(self, vault_world: VaultWorld) -> None:
        """More than are written at once, given one after the other, and several segments of one chart."""
        vault = await vault_world.open()
        one, two = work(CHART, 0, *(f"r{n}" for n in range(1_500))), work(CHART, 1, *(f"s{n}" for n in range(1_500)))
        both = Work(records=[*one.records, *two.records], segments=[*one.segments, *two.segments])
        number = await vault.commit(both, anchor)
        assert number is not None
        again = await vault_world.open()
        (batch,) = await again.pending_batches()
        assert {record.commitment for record in both.records} <= set(batch.leaves)
        assert [(r.id, r.commitment) async for r in again.scan()] == [(r.id, r.commitment) for r in both.records]
        assert [(s.number, s.batch) for s in await again.segments(CHART)] == [(0, number), (1, number)]

    async def test_a_failed_commit_leaves_nothing(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        written = replace(
            work(CHART, 0, "r1"),
            positions=[Position("kafka", "s", 0, 1)],
            letters=[LETTER],
            documents=[Document("links", "k", b"v")],
            audits=[audit("chain", 0)],
        )
        with pytest.raises(AnchorFailed):
            await vault.commit(written, failing_anchor)
        assert await vault.record(CHART, "r1", "v1") is None
        assert list(await vault.segments(CHART)) == []
        assert list(await vault.positions("kafka")) == []
        assert list(await vault.letters()) == []
        assert await vault.document("links", "k") is None
        assert list(await vault.audits("chain")) == []
        assert await vault.last_batch() == -1
        assert await vault.commit(written, anchor) is not None

    async def test_a_record_version_is_written_once(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(work(CHART, 0, "r1"), anchor)
        again = replace(work(CHART, 1, "r1"), documents=[Document("links", "k", b"v")])
        with pytest.raises(IntegrityBroken):
            await vault.commit(again, anchor)
        assert await vault.document("links", "k") is None
        assert len(await vault.segments(CHART)) == 1

    async def test_records_without_an_anchorer_are_a_mistake(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        with pytest.raises(ValueError, match="anchorer"):
            await vault.commit(work(CHART, 0, "r1"), None)

    async def test_a_work_without_records_or_audits_makes_no_batch(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        assert await vault.commit(Work(positions=[Position("spool", "s", 0, 0)]), anchor) is None
        assert await vault.last_batch() == -1

    async def test_audits_may_be_written_without_a_batch(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        assert await vault.commit(Work(audits=[audit("chain", 0)]), None) is None
        assert len(await vault.audits("chain")) == 1

    async def test_batches_count_up_and_stay_pending_until_marked(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        numbers = [await vault.commit(work(CHART, i, f"r{i}"), anchor) for i in range(3)]
        assert numbers == [0, 1, 2]
        await vault.mark_anchored([(0, 7, 70), (2, 9, 90)])
        await vault.mark_anchored([(0, 7, 70)])
        assert [batch.number for batch in await vault.pending_batches()] == [1]
        marked = await vault.batch(2)
        assert (marked.height, marked.log_index) == (9, 90)
        again = await vault_world.open()
        assert [batch.number for batch in await again.pending_batches()] == [1]
        assert await again.last_batch() == 2

    async def test_a_batch_that_is_not_there_is_an_integrity_error(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        with pytest.raises(IntegrityBroken):
            await vault.batch(0)

    async def test_the_anchorer_gets_commitments_and_a_head_that_moves(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        seen: list[tuple[int, list[bytes], bytes]] = []

        def watch(*, number: int, commitments: list[bytes], journal_head: bytes) -> Batch:
            seen.append((number, list(commitments), journal_head))
            return anchor(number=number, commitments=commitments, journal_head=journal_head)

        first = replace(work(CHART, 0, "r1"), audits=[audit("chain", 0)])
        await vault.commit(first, watch)  # type: ignore[arg-type]
        await vault.commit(Work(documents=[Document("x", "y", b"z")]), None)
        await vault.commit(Work(audits=[audit("chain", 1)]), watch)  # type: ignore[arg-type]
        assert [s[0] for s in seen] == [0, 1]
        assert set(seen[0][1]) == {first.records[0].commitment, audit("chain", 0).head}
        assert seen[1][1] == [audit("chain", 1).head]
        assert len({s[2] for s in seen}) == 2

    async def test_the_chart_that_holds_each_record_is_found(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(work(CHART, 0, "r1"), anchor)
        await vault.commit(work(OTHER_CHART, 0, "r2"), anchor)
        assert await vault.charts_of(["r1", "r2", "r3"]) == {"r1": CHART, "r2": OTHER_CHART}
        assert await vault.charts_of([]) == {}

    @pytest.mark.parametrize("count", [5, 150])
    async def test_normalised_envelopes_come_in_the_order_asked(self, vault_world: VaultWorld, count: int) -> None:
        vault = await vault_world.open()
        ids = [f"r{i}" for i in range(count)]
        written = work(CHART, 0, *ids)
        await vault.commit(written, anchor)
        envelopes = {record.id: record.normalised for record in written.records}
        asked = [*reversed(ids), ids[0]]
        assert list(await vault.normalised(CHART, [(i, "v1") for i in asked])) == [envelopes[i] for i in asked]
        for wrong in (("r0", "v2"), ("none", "v1")):
            with pytest.raises(IntegrityBroken):
                await vault.normalised(CHART, [*((i, "v1") for i in ids), wrong])
        with pytest.raises(IntegrityBroken):
            await vault.normalised(OTHER_CHART, [("r0", "v1")])

    async def test_segments_of_a_chart_come_in_order(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        for i in range(12):
            await vault.commit(work(CHART, i, f"r{i}"), anchor)
        assert [s.number for s in await vault.segments(CHART)] == list(range(12))
        assert list(await vault.segments(OTHER_CHART)) == []

    async def test_a_document_is_replaced_and_deleted(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(Work(documents=[Document("c", "k", b"1"), Document("c", "k2", b"x")]), None)
        await vault.commit(Work(documents=[Document("c", "k", b"2")]), None)
        assert await vault.document("c", "k") == b"2"
        await vault.commit(Work(documents=[Document("c", "k", None), Document("c", "never", None)]), None)
        assert await vault.document("c", "k") is None
        assert [tuple(d) for d in await vault.documents("c")] == [("k2", b"x")]

    async def test_documents_are_found_by_prefix_in_order(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        keys = ["a/2", "a/1", "ab", "b", "a/é", "a"]
        await vault.commit(Work(documents=[Document("c", key, key.encode()) for key in keys]), None)
        await vault.commit(Work(documents=[Document("d", "a/3", b"")]), None)
        assert [key for key, _ in await vault.documents("c", "a/")] == ["a/1", "a/2", "a/é"]
        assert [key for key, _ in await vault.documents("c")] == sorted(keys, key=str.encode)

    async def test_a_letter_is_found_by_house_and_reason_and_changes_status(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        other = SealedLetter("l2", "harbor", "quarantined", 3, b"e")
        await vault.commit(Work(letters=[LETTER, other]), None)
        assert list(await vault.letters()) == [other, LETTER]
        assert list(await vault.letters(LettersWanted("harbor"))) == [other]
        assert list(await vault.letters(LettersWanted(reason="invalid"))) == [LETTER]
        assert list(await vault.letters(LettersWanted("harbor", "invalid"))) == []
        await vault.commit(Work(letters=[replace(LETTER, status="replayed")]), None)
        assert list(await vault.letters(LettersWanted(reason="invalid"))) == [replace(LETTER, status="replayed")]
        assert await vault.letter("l2") == other
        assert await vault.letter("l3") is None

    @pytest.mark.parametrize(
        ("since", "until", "found"),
        [(None, 4, "1 3"), (3, None, "3 5"), (3, 5, "3"), (4, 4, ""), (0, 9, "1 3 5"), (5, 6, "5"), (6, None, "")],
    )
    async def test_letters_are_found_by_the_time_they_were_received(
        self, vault_world: VaultWorld, since: int | None, until: int | None, found: str
    ) -> None:
        vault = await vault_world.open()
        letters = [SealedLetter(f"l{at}", "harbor", "invalid", at, b"e") for at in (5, 1, 3)]
        await vault.commit(Work(letters=letters), None)
        times = LettersWanted(since_us=since, until_us=until)
        assert " ".join(str(each.received_at_us) for each in await vault.letters(times)) == found

    async def test_positions_move_on_and_are_kept_by_bus_and_partition(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(Work(positions=[Position("kafka", "s", 0, 4), Position("kafka", "s", 0, 6)]), None)
        await vault.commit(Work(positions=[Position("kafka", "s", 1, 0), Position("spool", "s", 0, 9)]), None)
        assert list(await vault.positions("kafka")) == [Position("kafka", "s", 0, 7), Position("kafka", "s", 1, 1)]

    async def test_audit_heads_are_the_newest_of_each_chain(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(Work(audits=[audit("x", 0), audit("y", 0), audit("x", 1), audit("x", 2)]), None)
        assert sorted(await vault.audit_heads()) == [("x", 2, audit("x", 2).head), ("y", 0, audit("y", 0).head)]
        assert [entry.counter for entry in await vault.audits("x")] == [0, 1, 2]

    async def test_an_audit_counter_is_used_once(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(Work(audits=[audit("x", 0)]), None)
        with pytest.raises(IntegrityBroken):
            await vault.commit(Work(audits=[audit("x", 0)]), None)

    async def test_scan_gives_every_version_once(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        ids = [f"r{i}" for i in range(300)]
        await vault.commit(work(CHART, 0, *ids), anchor)
        second = row("r0", "v2", deleted=True)
        await vault.commit(Work(records=[sealed(CHART, second)], segments=[segment(CHART, 1, [second])]), anchor)
        seen = [(record.id, record.version) async for record in vault.scan()]
        assert seen == [(i, "v1") for i in ids] + [("r0", "v2")]

    async def test_counts_tell_rows_and_bytes(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.commit(replace(work(CHART, 0, "r1", "r2"), letters=[LETTER]), anchor)
        counts = await vault.counts()
        assert (counts["records"], counts["segments"], counts["letters"]) == (2, 1, 1)
        assert counts["bytes"] > 0

    async def test_reads_and_commits_run_side_by_side(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await asyncio.gather(
            *(vault.commit(work(f"{i:032x}", 0, f"r{i}"), anchor) for i in range(10)),
            *(vault.segments(f"{i:032x}") for i in range(10)),
        )
        assert set((await vault.charts_of([f"r{i}" for i in range(10)])).values()) == {f"{i:032x}" for i in range(10)}
        assert [b.number for b in await vault.pending_batches()] == list(range(10))

    async def test_a_closed_vault_says_so(self, vault_world: VaultWorld) -> None:
        vault = await vault_world.open()
        await vault.close()
        await vault.close()
        with pytest.raises(Unavailable):
            await vault.document("c", "k")
