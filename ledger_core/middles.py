"""The middle of a full tile: its 16 hashes four levels above its own 256.

Kept beside the tile, it lets one place be proved from 30 hashes computed instead
of 255: the 15 above the place's own sixteenth of the tile, which must lead to
its hash in the middle, and the 15 above the middle, whose top the caller
compares. So nothing is served that the tile above does not vouch for; a middle
that is missing costs time only.
"""

from typing import Final

from ledger_core.errors import IntegrityBroken
from ledger_core.hashing import HASH_BYTES
from ledger_core.quickhash import row_above

MIDDLE_LEVELS: Final = 4
MIDDLE_BYTES: Final = (1 << MIDDLE_LEVELS) * HASH_BYTES


def middle_of(hashes: bytes) -> bytes:
    """Return the middle of a full tile, from its 256 hashes."""
    for _ in range(MIDDLE_LEVELS):
        hashes = row_above(hashes)
    return hashes


def siblings_through(hashes: bytes, middle: bytes, place: int) -> tuple[tuple[bytes, ...], bytes]:
    """Return the eight siblings of a place in a full tile, lowest first, and the root they lead to.

    Args:
        hashes: The tile's 256 hashes; not trusted.
        middle: Its middle; not trusted.
        place: 0 to 255.

    Raises:
        IntegrityBroken: The middle is not one of this tile.
    """
    if len(middle) != MIDDLE_BYTES:
        raise IntegrityBroken(f"the middle of a tile has {len(middle)} bytes, not {MIDDLE_BYTES}")
    part, within = divmod(place, 1 << MIDDLE_LEVELS)
    low, below = _climb(hashes[part * MIDDLE_BYTES : (part + 1) * MIDDLE_BYTES], within)
    if below != middle[part * HASH_BYTES : (part + 1) * HASH_BYTES]:
        raise IntegrityBroken("the middle of a tile is not what its hashes lead to")
    high, root = _climb(middle, part)
    return (*low, *high), root


def _climb(row: bytes, place: int) -> tuple[list[bytes], bytes]:
    """Return the siblings of a place in a row, up to the row's root, and that root."""
    siblings: list[bytes] = []
    for level in range(MIDDLE_LEVELS):
        at = (place >> level ^ 1) * HASH_BYTES
        siblings.append(row[at : at + HASH_BYTES])
        row = row_above(row)
    return siblings, row
