"""A small network for the ledger's tests: identities from fixed seeds, and sound samples to spoil."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger_core import (
    Anchor,
    Genesis,
    Identity,
    Join,
    Ledger,
    MerkleBatch,
    Opening,
    OpenPart,
    SealedPart,
    open_ledger,
    part_digest,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "ledger" / "published.json").read_text("utf-8")
)


def identity(number: int) -> Identity:
    return Identity.from_private_bytes(bytes([number]) * 32)


def filler(number: int) -> bytes:
    return bytes([number]) * 32


OPERATOR, NORTH, SOUTH, PATIENT, LOG_KEY = (identity(number) for number in range(1, 6))
GENESIS = Genesis("test.example/ledger", OPERATOR.public)
RECORD = b'{"resourceType":"Basic","id":"canary"}'


@dataclass(frozen=True, slots=True)
class Anchored:
    opening: Opening
    batch: MerkleBatch
    place: int
    index: int


def open_test_ledger(folder: Path, *, genesis: Genesis | None = GENESIS, name: str = "ledger.db") -> Ledger:
    return open_ledger(folder / name, log_identity=LOG_KEY, genesis=genesis)


def join(ledger: Ledger, member: Identity = NORTH, name: str = "north") -> None:
    ledger.send(Join(member.public, name), OPERATOR, [member]).result(10)


def sample_opening() -> Opening:
    parts: dict[str, OpenPart | SealedPart] = {
        "lineage": SealedPart(part_digest(filler(21), b"lineage")),
        "normalised": OpenPart.of(filler(22), RECORD),
        "original": OpenPart.of(filler(23), b'{"id":"1"}'),
    }
    return Opening(filler(20), {"id": "abc", "version": 3, "ruleset": filler(9)}, parts)


def anchor_record(ledger: Ledger, *, leaves: int = 5, place: int = 2) -> Anchored:
    opening = sample_opening()
    commitments = [filler(40 + number) for number in range(leaves)]
    commitments[place] = opening.commitment()
    batch = MerkleBatch(commitments)
    accepted = ledger.send(Anchor(batch.root, batch.count), NORTH).result(10)
    return Anchored(opening, batch, place, accepted.index)
