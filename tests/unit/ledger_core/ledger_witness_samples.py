"""A log for witness tests: its trees computed from the words of RFC 9162, its lies made on purpose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ledger_core.checkpoint import Checkpoint, log_key, sign_checkpoint
from ledger_core.keys import Identity
from ledger_core.machine import Genesis, Header, State, apply_block, begin
from ledger_core.transactions import Anchor, Transaction, sign
from ledger_core.witness.core import format_request
from ledger_core.witness.home import Home
from ledger_core.witness.records import Records
from ledger_core.witness.service import Response, Vouching, Witness

ORIGIN = "log.example/one"
LOG, OTHER, OPERATOR = (Identity.from_private_bytes(bytes([number]) * 32) for number in (71, 72, 73))
LOG_VKEY = log_key(ORIGIN, LOG.public).vkey()
KEYS = (log_key(ORIGIN, LOG.public),)
NOW_S = 1_800_000_000


def tree_root(entries: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162 section 2.1.1."""
    if len(entries) < 2:
        return sha256(b"\0" + entries[0]).digest() if entries else sha256().digest()
    k = split(len(entries))
    return sha256(b"\1" + tree_root(entries[:k]) + tree_root(entries[k:])).digest()


def consistency(m: int, entries: Sequence[bytes]) -> tuple[bytes, ...]:
    """PROOF(m, D_n) of RFC 9162 section 2.1.4.1."""
    return subproof(m, entries, True) if 0 < m < len(entries) else ()


def subproof(m: int, entries: Sequence[bytes], whole: bool) -> tuple[bytes, ...]:
    if m == len(entries):
        return () if whole else (tree_root(entries),)
    k = split(len(entries))
    if m <= k:
        return (*subproof(m, entries[:k], whole), tree_root(entries[k:]))
    return (*subproof(m - k, entries[k:], False), tree_root(entries[:k]))


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def plain_entries(count: int, *, branch: str = "a", shared: int = 0) -> list[bytes]:
    """Entries of a log that holds no ledger; branches share their first ``shared`` ones."""
    return [f"{'a' if number < shared else branch}{number}".encode() for number in range(count)]


@dataclass
class SampleLog:
    """A log that signs and serves whatever it is told to."""

    entries_list: list[bytes]
    origin: str = ORIGIN
    identity: Identity = LOG
    served: int | None = None
    time_s: int = NOW_S
    dropped: set[int] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.entries_list) if self.served is None else self.served

    def note(self, size: int | None = None, *, time_s: int | None = None) -> str:
        size = self.size if size is None else size
        checkpoint = Checkpoint(self.origin, size, tree_root(self.entries_list[:size]))
        return sign_checkpoint(checkpoint, self.identity, time_s=self.time_s if time_s is None else time_s)

    def body(self, size: int, old: int = 0, *, time_s: int | None = None) -> bytes:
        proof = consistency(old, self.entries_list[:size])
        return format_request(self.note(size, time_s=time_s), old, proof)

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        return consistency(old_size, self.entries_list[: self.size if new_size is None else new_size])

    def checkpoint(self) -> str:
        return self.note()

    def tile(self, level: int, index: int, width: int) -> bytes:
        step = 256**level
        first = index * 256
        return b"".join(
            tree_root(self.entries_list[place * step : (place + 1) * step]) for place in range(first, first + width)
        )

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from (entry for number, entry in enumerate(self.entries_list[:stop]) if number >= start)


class Bench:
    """A witness in a folder, with a clock that stands where it is put."""

    def __init__(self, folder: Path, *, name: str = "witness.example/w", role: str = "witness") -> None:
        self.home = Home.create(folder, name, role=role)
        self.home.trust(LOG_VKEY)
        self.records = Records(folder / "records.db")
        self.now_s = NOW_S
        self.said: list[str] = []
        self.witness = self.make()

    def make(self, replay: Vouching | None = None) -> Witness:
        return Witness(self.home, self.records, clock_s=lambda: self.now_s, replay=replay, report=self.said.append)

    def add(self, body: bytes) -> Response:
        return self.witness.add_checkpoint(body)

    def evidence(self) -> list[str]:
        return sorted(case.name.rpartition("-")[0] for case in self.home.evidence.glob("*"))


def ledger_blocks(count: int, *, per_block: int = 2, seed: int = 0) -> tuple[list[bytes], State]:
    """Entries of a real ledger: genesis and ``count`` blocks of anchors."""
    genesis = Genesis("replayed.example/ledger", OPERATOR.public)
    block = begin(genesis)
    entries, state, nonce = list(block.entries), block.state, 0
    for height in range(1, count + 1):
        envelopes = []
        for _ in range(per_block):
            nonce += 1
            envelopes.append(anchor(genesis.network, nonce, seed))
        block = apply_block(state, Header(height, height * 1000), envelopes)
        entries += block.entries
        state = block.state
    return entries, state


def anchor(network: bytes, nonce: int, seed: int = 0, *, signer: Identity = OPERATOR) -> bytes:
    root = sha256(f"{seed}/{nonce}".encode()).digest()
    return sign(Transaction(network, signer.public, nonce, Anchor(root, 1)), signer)
