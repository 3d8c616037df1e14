"""What every store of a ledger must do; the tests take a ``world`` (StoreWorld) to open stores in.

One fact of ``ledger_core/ports.py`` a test. Durability beyond a reopening is for
the fault suite of each adapter.
"""

import threading
from collections import UserDict
from collections.abc import Callable, ItemsView, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger_core.errors import LedgerClosed, LedgerLocked, LedgerUnavailable
from ledger_core.ports import COSIGNED, PRUNED, Commit, Reader, Store
from tests.contract.ledger_store.ledger_store_samples import META, Chain, Dump, StoreWorld, dump, path

# More than a store is likely to read at once, so that a scan that pauses has rows left to read.
MANY = 2_500
SCANS: list[Callable[[Reader], Iterator[Any]]] = [
    lambda reader: reader.blocks(),
    lambda reader: reader.entries(),
    lambda reader: reader.entries(1, 2_000),
    lambda reader: reader.submissions(),
    lambda reader: reader.tiles(),
    lambda reader: reader.middles(),
    lambda reader: reader.state(),
    lambda reader: reader.state_rows(),
    lambda reader: reader.changed_after(0),
    lambda reader: reader.checkpoints(),
]
READS: list[Callable[[Reader], Any]] = [
    lambda reader: reader.meta("origin"),
    lambda reader: reader.block_at(0),
    lambda reader: reader.block_of_size(2),
    lambda reader: reader.last_block(),
    lambda reader: reader.entry(0),
    lambda reader: reader.find(b"", 1),
    lambda reader: reader.tile(0, 0),
    lambda reader: reader.middle(0),
    lambda reader: reader.checkpoint(2),
]


class LedgerStoreContract:
    """Facts about any store."""

    def test_an_empty_store_holds_nothing(self, world: StoreWorld) -> None:
        store = world.open()
        assert dump(store) == Dump([], [], [], [], [], [], [], [])
        assert [store.meta("origin"), store.last_block(), store.block_at(9), store.block_of_size(0)] == [None] * 4
        assert [store.entry(0), store.tile(0, 0), store.checkpoint(0), store.meta(PRUNED)] == [None] * 4
        assert (store.find(b"", 0), list(store.changed_after(0))) == ((), [])

    def test_everything_is_there_at_once_and_after_reopening(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        for number in range(1, 4):
            block = chain.add(3, {path(1): b"%d" % number, path(number): b""}, named=[(b"one", number), (b"two", 7)])
            store.commit(block)
            assert dump(store) == chain.dump()
        store.close()
        again = world.open()
        assert dump(again) == chain.dump()
        assert [again.meta(name) for name in META] == list(META.values())

    def test_blocks_are_found_by_height_and_size(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        for height, count in ((3, 1), (4, 5), (9, 2)):
            store.commit(chain.add(count, height=height))
        rows = {each.row.height: each.row for each in chain.commits}
        at = [store.block_at(height) for height in range(-1, 12)]
        assert at == [None, *[rows[0]] * 3, rows[3], *[rows[4]] * 5, *[rows[9]] * 3]
        by_size = {row.size: row for row in rows.values()}
        assert [store.block_of_size(size) for size in range(12)] == [by_size.get(size) for size in range(12)]
        assert store.last_block() == store.block_at(2**64) == rows[9]

    def test_entries_are_given_by_number(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.commit(chain.add(5))
        everything = chain.dump().entries
        assert [store.entry(index) for index in range(7)] == chain.entries
        for start, stop in ((0, None), (2, None), (1, 4), (3, 3), (4, 2), (5, 100), (7, None), (2, 2**64)):
            assert list(store.entries(start, stop)) == everything[start:stop]

    def test_what_does_not_exist_is_none_however_large_its_number(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.commit(chain.add(300, {path(1): b"1"}))
        for number in (-1, -(2**64), 7_000, 2**31, 2**55, 2**56, 2**63 - 1, 2**63, 2**64, 2**100):
            assert [store.entry(number), store.checkpoint(number), store.block_of_size(number)] == [None] * 3
            assert [store.tile(0, number), store.tile(1, number), store.tile(number, 0)] == [None] * 3
            assert store.middle(number) is None
            assert store.find(b"", number) == ()
            # From below every height on, and from above all of them.
            assert list(store.changed_after(number)) == ([(path(1), None)] if number < 0 else [])

    def test_submissions_are_found_by_signer_and_nonce(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        largest = 2**64 - 1
        store.commit(chain.add(4, named=[(b"owner", 1), (b"owner", 1), (b"member", 1)]))
        store.commit(chain.add(6, named=[(b"owner", 1), (b"owner", 2), *((b"member", n) for n in (2**63, largest))]))
        rows = chain.dump().entries
        assert store.find(b"owner", 1) == (rows[2], rows[3], rows[6])
        assert store.find(b"owner", 2) == (rows[7],)
        assert (store.find(b"member", 2**63), store.find(b"member", largest)) == ((rows[8],), (rows[9],))
        assert [store.find(b"member", n) for n in (0, 2, 2**63 - 1, largest - 1)] == [()] * 4
        assert store.find(b"nobody", 1) == ()
        assert sorted(store.submissions()) == chain.dump().submissions

    def test_tiles_grow_and_are_replaced(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        for count in (98, 156, 1, 400, 112):
            store.commit(chain.add(count))
            tiles = {(tile.level, tile.index): tile.hashes for tile in chain.dump().tiles}
            assert {place: store.tile(*place) for place in tiles} == tiles
            assert [store.tile(0, 9), store.tile(1, 1), store.tile(2, 0)] == [None] * 3
            assert list(store.tiles()) == chain.dump().tiles
            middles = dict(chain.dump().middles)
            assert {index: store.middle(index) for index in range(9)} == {at: middles.get(at) for at in range(9)}
            assert list(store.middles()) == sorted(middles.items())

    def test_a_block_that_is_there_already_is_refused_whole(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.commit(chain.add(3, {path(1): b"1"}))
        before, last = chain.dump(), chain.commits[-1]
        follower = Chain(list(chain.commits), list(chain.entries)).add(3, {path(1): b"2"})
        for twice in (last, replace(follower, row=replace(follower.row, height=last.row.height))):
            with pytest.raises(LedgerUnavailable):
                store.commit(twice)
            assert dump(store) == before
        overlapping = replace(follower, row=replace(follower.row, size=follower.row.size - 1))
        with pytest.raises(LedgerUnavailable):
            store.commit(overlapping)
        with pytest.raises(LedgerUnavailable):
            store.begin(META, follower)
        assert dump(store) == before
        store.commit(follower)
        assert store.last_block() == follower.row

    def test_a_write_that_fails_anywhere_leaves_nothing(self, world: StoreWorld) -> None:
        plain, chain = world.open(), Chain()
        chain.begin(plain)
        plain.commit(chain.add(3, {path(1): b"1", path(2): b"1"}))
        plain.commit(chain.add(3, {path(1): b"2", path(2): b"2"}))
        plain.close()
        block = chain.add(4, {path(1): b"3"}, named=[(b"a", 1)])
        whole = chain.dump()
        chain.commits.pop()
        del chain.entries[block.first :]
        before = chain.dump()
        assert self._fails(world, lambda store: store.commit(block), before) >= 6
        assert self._fails(world, lambda store: store.replace_checkpoint(2, "another"), whole) >= 2
        whole.checkpoints[0] = (2, "another")
        assert self._fails(world, lambda store: store.prune(2), whole) >= 2
        whole.state_rows[:] = [replace(row, before=None) for row in whole.state_rows if row.height == 2] + [
            row for row in whole.state_rows if row.height > 2
        ]
        assert dump(world.open_to_read()) == whole

    def _fails(self, world: StoreWorld, write: Callable[[Store], object], before: Dump) -> int:
        """Let ``write`` fail after 0, 1, 2, … rows until it does not; return how often it did."""
        failures = 0
        while True:
            world.fail_after(failures)
            store = world.open()
            settings = [store.meta(name) for name in (PRUNED, COSIGNED)]
            try:
                write(store)
                break
            except LedgerUnavailable:
                failures += 1
            store.close()
            world.fail_after(None)
            again = world.open()
            after = dump(again)
            assert (after.blocks, after.entries, after.submissions) == (
                before.blocks,
                before.entries,
                before.submissions,
            )
            assert after.tiles == before.tiles
            assert (after.state, [again.meta(name) for name in (PRUNED, COSIGNED)]) == (before.state, settings)
            again.close()
        store.close()
        world.fail_after(None)
        return failures

    def test_a_ledger_that_could_not_begin_can_begin_later(self, world: StoreWorld) -> None:
        for rows in range(1, 5):
            world.fail_after(rows)
            store = world.open()
            with pytest.raises(LedgerUnavailable):
                store.begin(META, Chain().add(2, {path(1): b"1"}))
            assert (store.last_block(), store.entry(0), store.meta("origin")) == (None, None, None)
            store.close()
        world.fail_after(None)
        store, chain = world.open(), Chain()
        chain.begin(store)
        assert dump(store) == chain.dump()

    def test_a_cosigned_checkpoint_takes_the_place_of_the_first(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        for _ in range(3):
            store.commit(chain.add())
        assert store.meta(COSIGNED) is None
        for size, largest in ((4, "4"), (8, "8"), (6, "8"), (8, "8")):
            note = f"note of {size}\ncosigned\n"
            store.replace_checkpoint(size, note)
            assert (store.checkpoint(size), store.meta(COSIGNED)) == (note, largest)
        assert [size for size, _ in store.checkpoints()] == [2, 4, 6, 8]
        assert store.checkpoint(2) == "note of 2\n"
        store.close()
        again = world.open()
        assert (again.checkpoint(6), again.meta(COSIGNED)) == ("note of 6\ncosigned\n", "8")

    def test_state_is_kept_by_height_until_pruned(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        for number, height in enumerate((2, 3, 5, 8, 9), 1):
            store.commit(chain.add(1, {path(1): b"%d" % number, path(number): b"own %d" % number}, height=height))
        self._check_state(store, chain, 0)
        total = 0
        for below, kept in ((2, 2), (4, 4), (3, 4), (5, 5), (8, 8)):
            total += store.prune(below)
            assert store.meta(PRUNED) == str(kept)
            self._check_state(store, chain, kept)
        assert (total, store.prune(8)) == (3, 0)
        assert (dump(store).blocks, dump(store).entries) == (chain.dump().blocks, chain.dump().entries)
        assert dump(store).checkpoints == chain.dump().checkpoints

    def _check_state(self, store: Store, chain: Chain, kept: int) -> None:
        """Compare with a dict for each path; ``kept`` is the lowest height that is still whole."""
        model: dict[bytes, dict[int, bytes]] = {}
        for row in chain.dump().state_rows:
            model.setdefault(row.path, {})[row.height] = row.value
        newest = {where: values[max(values)] for where, values in model.items()}
        assert list(store.state()) == sorted(newest.items())
        rows = list(store.state_rows())
        assert [(row.height, row.path) for row in rows] == sorted((row.height, row.path) for row in rows)
        assert {(row.path, row.height): row.before for row in rows} == {
            (row.path, row.height): max(
                ((low.height, low.value) for low in rows if low.path == row.path and low.height < row.height),
                default=(0, None),
            )[1]
            for row in rows
        }
        assert {(row.path, row.height, row.value) for row in rows} == {
            (where, at, values[at])
            for where, values in model.items()
            for at in values
            if not any(at < later <= kept for later in values)
        }
        for height in range(kept, 11):
            expected = {
                where: values[max(at for at in values if at <= height)] if min(values) <= height else None
                for where, values in model.items()
                if max(values) > height
            }
            changed = list(store.changed_after(height))
            assert (dict(changed), len(changed)) == (expected, len(expected))

    def test_a_snapshot_is_a_copy_as_of_its_block(self, world: StoreWorld, tmp_path: Path) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.commit(chain.add(300, {path(1): b"1"}, named=[(b"a", 1)]))
        store.replace_checkpoint(302, "cosigned")
        expected = dump(store)
        store.snapshot(tmp_path / "copy")
        store.commit(chain.add(2))
        copy = world.open_copy(tmp_path / "copy")
        assert dump(copy) == expected
        assert [copy.meta(name) for name in (*META, COSIGNED)] == [*META.values(), "302"]
        copy.close()
        with pytest.raises(LedgerUnavailable):
            store.snapshot(tmp_path / "copy")
        with pytest.raises(LedgerUnavailable):
            store.snapshot(tmp_path / "copy" / "below a file")
        copy = world.open_copy(tmp_path / "copy")
        assert dump(copy) == expected
        copy.close()

    def test_snapshots_while_a_writer_goes_on_are_each_of_one_block(self, world: StoreWorld, tmp_path: Path) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        is_done = threading.Event()

        def write() -> None:
            while not is_done.is_set():
                number = len(chain.commits)
                store.commit(chain.add(5, {path(1): b"%d" % number, path(number): b"x"}))

        writer = threading.Thread(target=write)
        writer.start()
        for number in range(6):
            store.snapshot(tmp_path / f"copy {number}")
        is_done.set()
        writer.join()
        for number in range(6):
            copy = world.open_copy(tmp_path / f"copy {number}")
            check_whole(copy, chain)
            copy.close()

    def test_readers_see_whole_blocks_and_never_an_old_moment(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        blocks = [chain.add(9, {path(1): b"%d" % number, path(number): b"x"}) for number in range(80)]
        durable, failures = [0], list[BaseException]()

        def read() -> None:
            try:
                while durable[0] < blocks[-1].row.height:
                    least = durable[0]
                    row = store.last_block()
                    assert row is not None
                    assert row.height >= least
                    check_reached(store, chain.commits[row.height])
                    assert max(each.height for each in store.entries()) >= least
            except BaseException as failure:
                failures.append(failure)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for block in blocks:
            store.commit(block)
            durable[0] = block.row.height
        for thread in readers:
            thread.join()
        if failures:
            raise failures[0]
        assert dump(store) == chain.dump()

    def test_a_block_half_written_is_not_seen_and_holds_up_no_reader(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        before = chain.dump()
        block, held = chain.add(3, {path(1): b"1"}), HeldState({path(1): b"1"})
        writer = threading.Thread(target=store.commit, args=[replace(block, state=held)])
        seen: list[object] = []

        def read() -> None:
            seen.extend((dump(store), store.last_block(), store.entry(block.first), store.tile(0, 0)))

        reader = threading.Thread(target=read, daemon=True)
        writer.start()
        assert held.reached.wait(10)
        reader.start()
        reader.join(10)
        is_held_up = reader.is_alive()
        held.gate.set()
        writer.join()
        reader.join()
        assert not is_held_up
        assert seen == [before, before.blocks[-1], None, before.tiles[0].hashes]
        assert dump(store) == chain.dump()

    def test_a_scan_that_pauses_holds_up_no_other_read(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        state = {path(number): b"1" for number in range(MANY)}
        store.commit(chain.add(MANY, state, named=[(b"a", number) for number in range(MANY)]))
        paused = [(scan, scan(store), list(scan(store))) for scan in SCANS]
        begun = [(scan, rows, [next(rows)], before) for scan, rows, before in paused]
        for _ in range(3):
            store.commit(chain.add(1, {path(1): b"2"}))
            assert store.last_block() == chain.commits[-1].row
            assert store.entry(len(chain.entries) - 1) == chain.entries[-1]
            assert len(list(store.entries())) == len(chain.entries)
        for _, rows, taken, before in begun:
            taken += rows
            # The moment the scan began, or a later one: the columns that do not change are all there.
            assert len(taken) >= len(before)
            assert taken[:1] == before[:1]

    def test_a_sound_store_finds_nothing_wrong_with_itself(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.commit(chain.add(3, {path(1): b"1"}))
        assert list(store.damage()) == []
        store.close()
        with pytest.raises(LedgerClosed):
            list(store.damage())

    def test_one_writer_at_a_time(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        with pytest.raises(LedgerLocked):
            world.open()
        store.commit(chain.add())
        store.close()
        again = world.open()
        again.commit(chain.add())
        with pytest.raises(LedgerLocked):
            world.open()
        assert dump(again) == chain.dump()

    def test_a_reader_beside_a_writer_reads_and_cannot_write(self, world: StoreWorld) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        reader: Any = world.open_to_read()
        assert dump(reader) == chain.dump()
        writes: list[Callable[[], object]] = [
            lambda: reader.commit(chain.add()),
            lambda: reader.prune(0),
            lambda: reader.replace_checkpoint(2, "x"),
        ]
        for write in writes:
            with pytest.raises(LedgerUnavailable):
                write()
        assert len(list(store.blocks())) == 1
        reader.close()

    def test_a_closed_store_says_so(self, world: StoreWorld, tmp_path: Path) -> None:
        store, chain = world.open(), Chain()
        chain.begin(store)
        store.close()
        store.close()
        block = chain.add()
        writes: list[Callable[[Store], object]] = [
            lambda closed: closed.commit(block),
            lambda closed: closed.prune(0),
            lambda closed: closed.replace_checkpoint(2, "x"),
            lambda closed: closed.snapshot(tmp_path / "copy"),
        ]
        for write in writes:
            with pytest.raises(LedgerClosed):
                write(store)
        for read in READS:
            with pytest.raises(LedgerClosed):
                read(store)
        for scan in SCANS:
            with pytest.raises(LedgerClosed):
                list(scan(store))
        assert not (tmp_path / "copy").exists()


class HeldState(UserDict[bytes, bytes]):
    """Values that a writer waits for, in the middle of its block, until ``gate`` is set."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        super().__init__(values)
        self.reached, self.gate = threading.Event(), threading.Event()

    def items(self) -> ItemsView[bytes, bytes]:
        self.reached.set()
        self.gate.wait(30)
        return super().items()


def check_whole(reader: Reader, chain: Chain) -> None:
    """Check that ``reader`` holds the first blocks of ``chain``, and nothing of the next."""
    found = dump(reader)
    count = len(found.blocks)
    assert count >= 1
    so_far = Chain(chain.commits[:count], chain.entries[: chain.commits[count - 1].row.size])
    assert found == so_far.dump()


def check_reached(reader: Reader, commit: Commit) -> None:
    """Check that all of a block can be read."""
    row = commit.row
    assert (reader.block_at(row.height), reader.block_of_size(row.size)) == (row, row)
    assert reader.entry(row.size - 1) == commit.entries[-1]
    assert reader.checkpoint(row.size) == commit.note
    for tile in commit.tiles:
        kept = reader.tile(tile.level, tile.index)
        assert kept is not None
        assert kept.startswith(tile.hashes)
