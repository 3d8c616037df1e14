"""Signed transactions for the ledger's benchmark, made beforehand in all cores and kept in ``.build/bench``.

Identities come from fixed seeds and genesis has a fixed time, so the same
transactions fit every ledger that a benchmark begins. Each opens a consent path
of its own: it adds a log entry and a key to the state, and moves its signer's nonce.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger_core import Genesis, Identity, Join, Ledger, OpenPath, Transaction, open_ledger, sign

MEMBERS: Final = 16
FOLDER: Final = Path(".build/bench")
_CHUNK: Final = 10_000
_LENGTH: Final = struct.Struct(">I")


def _identity(name: str) -> Identity:
    return Identity.from_private_bytes(hashlib.sha256(f"bench {name}".encode()).digest())


OPERATOR: Final = _identity("operator")
LOG_KEY: Final = _identity("log")
SINGLE: Final = _identity("single")
SIGNERS: Final = tuple(_identity(f"member {number}") for number in range(MEMBERS))
GENESIS: Final = Genesis("bench.example/ledger", OPERATOR.public, time_ms=1_700_000_000_000)


def open_bench_ledger(path: Path, *, cache_tiles: int = 1024) -> Ledger:
    """Open a ledger, begun with its members if it is new."""
    ledger = open_ledger(path, log_identity=LOG_KEY, genesis=GENESIS, cache_tiles=cache_tiles)
    if ledger.member(SINGLE.public) is None:
        for number, member in enumerate((*SIGNERS, SINGLE)):
            ledger.send(Join(member.public, f"member {number}"), OPERATOR, [member]).result(60)
    return ledger


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Give an empty folder on the disk of this checkout, and remove it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        yield Path(name)


def consent_path(number: int) -> bytes:
    """Return the path that transaction ``number`` opens."""
    return hashlib.sha256(b"bench path %d" % number).digest()


def envelopes(network: bytes, start: int, stop: int) -> Iterator[bytes]:
    """Yield the signed transactions from number ``start`` on; those of a signer are in order of nonce."""
    for begin in range(start - start % _CHUNK, stop, _CHUNK):
        chunk = _read(_chunk_file(network, begin))
        yield from chunk[max(0, start - begin) : stop - begin]


def prepare(network: bytes, count: int) -> None:
    """Sign ``count`` transactions in every core, unless they are kept from an earlier run."""
    missing = [begin for begin in range(0, count, _CHUNK) if not _chunk_file(network, begin).exists()]
    if not missing:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(_write_chunk, [network] * len(missing), missing), 1):
            print(f"\r  signing beforehand: {done * _CHUNK:,} of {len(missing) * _CHUNK:,}", end="", file=sys.stderr)
    print(file=sys.stderr)


def _write_chunk(network: bytes, begin: int) -> None:
    target = _chunk_file(network, begin)
    part = target.with_suffix(f".{os.getpid()}")
    with part.open("wb") as file:
        for number in range(begin, begin + _CHUNK):
            envelope = _envelope(network, number)
            file.write(_LENGTH.pack(len(envelope)) + envelope)
    part.replace(target)


def _envelope(network: bytes, number: int) -> bytes:
    signer = SIGNERS[number % MEMBERS]
    secret = hashlib.sha256(b"bench secret %d" % number).digest()
    payload = OpenPath(consent_path(number), signer.public, secret)
    return sign(Transaction(network, signer.public, number // MEMBERS + 1, payload), signer)


def _chunk_file(network: bytes, begin: int) -> Path:
    # The first transaction stands for the format: where that changes, what was kept is left aside.
    mark = hashlib.sha256(_envelope(network, 0)).hexdigest()[:12]
    return FOLDER / f"signed-{mark}-{begin:09}.bin"


def _read(file: Path) -> list[bytes]:
    data = file.read_bytes()
    found, at = [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        found.append(data[at : at + length])
        at += length
    return found
