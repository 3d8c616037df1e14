"""What is held together of a large message: so many values, or so many bytes, whichever comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.adapters.vault_writer import VaultWriter
from fhir_bridge.fhir.bundles import cut_in_turn
from fhir_bridge.lines.keeping import KeptSealed, in_blocks
from fhir_bridge.lines.pure import Flow
from fhir_bridge.model import blocks
from fhir_bridge.model.ingest import Normalized, Sealed
from tests.support.bridge_world import observation, patient
from tests.unit.lines.test_in_turn import LIMITS, Blocks, bundle, entry, in_turn, received, source

MIB = 1 << 20


@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 20))
def test_a_block_closes_with_the_value_that_fills_it(weights: list[int], most: int, most_bytes: int) -> None:
    made = list(blocks.in_blocks(weights, most, lambda weight: weight, most_bytes))
    assert [weight for block in made for weight in block] == weights
    for block in made:
        assert 1 <= len(block) <= most
        assert sum(block[:-1]) < most_bytes
    for block in made[:-1]:
        assert len(block) == most or sum(block) >= most_bytes


def fat(number: int) -> dict[str, Any]:
    return entry(observation(f"fat-{number}", "p1", note=[{"text": "x" * (600 << 10)}]))


def test_few_large_entries_are_not_held_together() -> None:
    body = bundle("transaction", [entry(patient("p1")), *map(fat, range(8))])
    parts = cut_in_turn(memoryview(body))
    assert parts is not None
    assert [len(some) for _, some in parts.blocks()] == [3, 2, 2, 2]
    for value, some in parts.blocks():
        assert value["entry"] == [each.value for each in some]
    made = list(in_blocks(Flow(received(memoryview(body)), source(), LIMITS)))
    assert [len(record.content) // (600 << 10) for block in made for record in block] == [0, *[1] * 8]
    assert max(sum(len(record.content) for record in block) for block in made) < 2 * MIB


class Counted(Blocks):
    """An overflow in memory that tells its largest block."""

    @property
    def largest(self) -> int:
        return max(map(len, self._held))


@given(st.lists(st.sampled_from((1 << 10, 700 << 10)), max_size=12), st.integers(0, 600))
def test_sealed_records_are_found_by_their_number(sizes: list[int], small: int) -> None:
    sizes = [*sizes, *[8] * small, *sizes]
    records = [Sealed("c", str(number), "1", bytes(size), b"", b"", b"") for number, size in enumerate(sizes)]
    overflow = Counted()
    kept = KeptSealed(overflow)
    for record in records:
        kept.append(record)
    assert len(kept) == len(records)
    assert list(kept) == records
    for at in {0, 1, len(sizes) // 2, len(records) - 1} & set(range(len(records))):
        assert kept[at] == records[at]
        assert kept[at - len(records)] == records[at]
    assert kept[1:4] == records[1:4]
    assert not overflow._held or overflow.largest < 2 * MIB


def test_a_vault_is_given_few_large_rows_at_a_time() -> None:
    connection, journal = Mock(), Mock()
    writer = VaultWriter.__new__(VaultWriter)
    writer._connection, writer._journal = connection, journal
    rows = [
        ("c", str(n), "1", 0, bytes(32), bytes(size), b"", b"") for n, size in enumerate([700 << 10] * 3 + [1] * 9)
    ]
    writer._insert("records", iter(rows))
    given = [call.args[1] for call in connection.executemany.call_args_list]
    assert [len(some) for some in given] == [2, 10]
    assert [row for some in given for row in some] == rows == [call.args[2] for call in journal.note.call_args_list]


def test_slim_records_hold_what_is_the_same_in_many_of_them_once() -> None:
    people = [entry(patient(f"p{n}")) for n in range(2)]
    observations = [observation(f"o{n}", f"p{n % 2}") for n in range(600)]
    for each in observations:
        # Which each has of its own, and is found by.
        del each["identifier"]
    slim = list(in_turn(received(bundle("batch", [*people, *map(entry, observations)]))).records)
    assert len(slim) == 602
    for record in slim:
        assert record.row.type is record.type
        assert record.row.id is record.id
    held: list[Callable[[Normalized], object]] = [
        lambda each: each.type,
        lambda each: each.chart,
        lambda each: each.ruleset,
        lambda each: each.row.origin,
        lambda each: each.row.author,
    ]
    for of in held:
        assert len({id(of(each)) for each in slim}) == len({repr(of(each)) for each in slim}) <= 2
    searched = [each.row.search for each in slim if each.type == "Observation"]
    assert len(set(map(id, searched))) == len(set(map(bytes, searched))) == 1
