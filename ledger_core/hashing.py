"""Domain-separated hashes: tree leaves and nodes, framed messages, content digests.

History trees use SHA-256 as RFC 9162 section 2.1.1 has it (0x00 before a leaf,
0x01 before a node), so that other people's verifiers agree. State trees use
0x10 and 0x11, so that no node of one tree can pass for a node of the other.
State trees come in two suites (SHA-256, BLAKE3-256); within one tree values,
leaves and nodes are hashed with the same function. Content is digested with
BLAKE3-256 or SHA-256. Suite numbers are counted apart for each use.

``frame`` joins a domain string and parts with their lengths, so that two
different lists of parts never give the same bytes.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Protocol

from blake3 import blake3

from ledger_core.errors import NotCanonical

HASH_BYTES: Final = 32
SUITE_SHA256: Final = 1
SUITE_BLAKE3: Final = 1
TREE_SHA256: Final = 1
TREE_BLAKE3: Final = 2
DIGEST_BLAKE3: Final = 1
DIGEST_SHA256: Final = 2
STATE_LEAF: Final = b"\x10"
STATE_NODE: Final = b"\x11"
EMPTY_STATE: Final = bytes(HASH_BYTES)
EMPTY_LOG: Final = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


class Hasher(Protocol):
    """What hashlib's objects offer; any digest suite must offer the same."""

    @property
    def digest_size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def name(self) -> str: ...
    def update(self, data: bytes, /) -> object: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> "Hasher": ...


def _new_blake3(data: bytes = b"") -> Hasher:
    return blake3(data)


def _new_sha256(data: bytes = b"") -> Hasher:
    return _sha256(data)


def sha256(data: bytes) -> bytes:
    """Return plain SHA-256."""
    return _sha256(data).digest()


def blake3_256(data: bytes) -> bytes:
    """Return plain BLAKE3 with 32 bytes of output."""
    return blake3(data).digest()


CONTENT_SUITES: Final[Mapping[int, Callable[[bytes], Hasher]]] = {
    DIGEST_BLAKE3: _new_blake3,
    DIGEST_SHA256: _new_sha256,
}
TREE_SUITES: Final[Mapping[int, Callable[[bytes], bytes]]] = {TREE_SHA256: sha256, TREE_BLAKE3: blake3_256}


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry of a history tree (RFC 9162 section 2.1.1)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children of a history tree."""
    return _sha256(b"\x01" + left + right).digest()


def tree_suite(suite: int) -> Callable[[bytes], bytes]:
    """Return the hash function of a state tree's suite.

    Raises:
        NotCanonical: The suite is unknown.
    """
    if suite not in TREE_SUITES:
        raise NotCanonical(f"unknown tree suite {suite}")
    return TREE_SUITES[suite]


def state_leaf_hash(path: bytes, value_hash: bytes, suite: int = TREE_SHA256) -> bytes:
    """Hash a leaf of the state tree; ``path`` and ``value_hash`` are 32 bytes each."""
    return tree_suite(suite)(STATE_LEAF + path + value_hash)


def state_node_hash(left: bytes, right: bytes, suite: int = TREE_SHA256) -> bytes:
    """Hash two children of the state tree; an empty child is 32 zero bytes."""
    return tree_suite(suite)(STATE_NODE + left + right)


def frame(domain: str, *parts: bytes) -> bytes:
    """Join a domain and parts: u8 length ‖ domain, then u64 length ‖ part for each, big-endian."""
    framed = [_framed_domain(domain)]
    for part in parts:
        framed += (len(part).to_bytes(8, "big"), part)
    return b"".join(framed)


@lru_cache(maxsize=256)
def _framed_domain(domain: str) -> bytes:
    """Return length and name; a program has a few dozen domains."""
    name = domain.encode("ascii")
    return bytes((len(name),)) + name


def tagged_hash(domain: str, *parts: bytes) -> bytes:
    """Return SHA-256 of ``frame(domain, *parts)``."""
    return _sha256(frame(domain, *parts)).digest()


def content_digest(content: bytes, suite: int = SUITE_BLAKE3) -> bytes:
    """Digest content of any length under a numbered suite (1 is BLAKE3-256, 2 is SHA-256).

    Raises:
        NotCanonical: The suite is unknown.
    """
    if suite not in CONTENT_SUITES:
        raise NotCanonical(f"unknown content digest suite {suite}")
    return CONTENT_SUITES[suite](content).digest()
