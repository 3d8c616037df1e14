"""The hashes of ``hashing``, quicker on short inputs and for many at a time; for whoever builds trees.

A leaf or two children are a block or two of SHA-256. On those the interpreter's
own code takes half to four fifths of the time of OpenSSL's, which hashlib gives
and which is quicker on longer data (2026-11). Verifiers do without.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256 as _long_sha256
from struct import Struct
from typing import Final

from ledger_core.errors import NotCanonical
from ledger_core.hashing import HASH_BYTES, TREE_BLAKE3, TREE_SHA256, TREE_SUITES

try:
    from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]  # CPython's own, without a stub
except ImportError:  # some builds leave it out
    _sha256 = _long_sha256

_SHORT_BYTES: Final = 100
_each_pair = Struct(f"{2 * HASH_BYTES}s").iter_unpack


def quick_sha256(data: bytes) -> bytes:
    """Return plain SHA-256."""
    digest: bytes = (_sha256 if len(data) < _SHORT_BYTES else _long_sha256)(data).digest()
    return digest


_QUICK: Final[Mapping[int, Callable[[bytes], bytes]]] = {
    TREE_SHA256: quick_sha256,
    TREE_BLAKE3: TREE_SUITES[TREE_BLAKE3],
}


def quick_suite(suite: int) -> Callable[[bytes], bytes]:
    """Return the hash function of a state tree's suite.

    Raises:
        NotCanonical: The suite is unknown.
    """
    if suite not in _QUICK:
        raise NotCanonical(f"unknown tree suite {suite}")
    return _QUICK[suite]


def leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    """Hash short entries of a history tree, such as commitments, as ``hashing.leaf_hash`` does each."""
    return [_sha256(b"\x00" + leaf).digest() for leaf in leaves]


def node_hashes(row: Sequence[bytes]) -> list[bytes]:
    """Hash a row of a history tree two by two, as ``hashing.node_hash`` does; an odd one at the end is left out."""
    return [_sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]


def row_above(row: bytes) -> bytes:
    """Hash a row of joined hashes of a history tree, two by two, to the joined row above it."""
    return b"".join([_sha256(b"\x01" + pair).digest() for (pair,) in _each_pair(row)])
