"""A log as it is served, read with suspicion: whatever is wrong with it becomes one of two errors.

``LogMismatch`` says that what is served does not fit together or was not signed,
``LedgerUnavailable`` that it could not be read at all. The first is one of the second:
both may pass, and neither convicts anybody.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import islice
from typing import Final, Protocol

from ledger_core.checkpoint import Checkpoint, NoteKey, parse_checkpoint, split_note
from ledger_core.errors import LedgerError, LedgerUnavailable, LogMismatch, NoteInvalid, NotFound, ProofInvalid
from ledger_core.log import TILE_LEVELS, TILE_WIDTH, Frontier, TiledLog
from ledger_core.proofs import verify_consistency
from ledger_core.transactions import Prepared, prepare
from ledger_core.witness.blocks import EntrySource
from ledger_core.witness.core import keep_signed_lines

_CACHED_TILES: Final = 64
_CHUNK: Final = 64
# Entries held ahead of the machine: at most about a thousand.
_CHUNKS_AHEAD: Final = 16


class LogSource(EntrySource, Protocol):
    """A log in its static form, on a disk or behind HTTP; ``StaticLog`` is one."""

    def checkpoint(self) -> str:
        """Return the newest signed checkpoint that is served."""
        ...

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first ``width`` hashes of a tile."""
        ...


class SourceTiles:
    """The tree of a log as the tiles served now show it; nothing about it is trusted."""

    def __init__(self, source: LogSource) -> None:
        """Read the right edge of what is served.

        Raises:
            LedgerUnavailable: Tiles are missing or malformed.
        """
        with reading():
            size = parse_checkpoint(split_note(source.checkpoint())[0]).size

            def read(level: int, index: int) -> bytes | None:
                width = min(TILE_WIDTH, (size >> TILE_LEVELS * level) - index * TILE_WIDTH)
                return source.tile(level, index, width) if width > 0 else None

            self._log = TiledLog(read, size, cache_tiles=_CACHED_TILES)

    @property
    def size(self) -> int:
        """Number of entries that are served."""
        return self._log.size

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` entries."""
        with reading():
            return self._log.root(size)

    def prove_consistency(self, old_size: int, new_size: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the tree of one size continues that of another; unverified."""
        with reading():
            return self._log.consistency(old_size, self._log.size if new_size is None else new_size)

    def beginning(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return the hashes that show which root the first ``old_size`` of ``new_size`` entries have here."""
        path = self.prove_consistency(old_size, new_size)
        is_power = old_size & (old_size - 1) == 0
        return (self.root(old_size), *path) if is_power and old_size else path

    def covers(self, frontier: Frontier, checkpoint: Checkpoint) -> bool:
        """Tell whether the tree of ``checkpoint`` begins with ``frontier``, as these tiles prove it."""
        if frontier.size > checkpoint.size:
            return False
        try:
            verify_consistency(
                old_size=frontier.size,
                old_root=frontier.root(),
                new_size=checkpoint.size,
                new_root=checkpoint.root,
                path=self.prove_consistency(frontier.size, checkpoint.size),
            )
        except ProofInvalid:
            return False
        return True


def fetch_checkpoint(source: LogSource, trusted: Mapping[str, tuple[NoteKey, ...]]) -> tuple[Checkpoint, str]:
    """Return the checkpoint that a log serves, verified, and its note without foreign lines.

    Raises:
        LogMismatch: It is no checkpoint of a trusted log.
        LedgerUnavailable: It could not be read.
    """
    with reading():
        note = source.checkpoint()
    try:
        checkpoint = parse_checkpoint(split_note(note)[0])
        keys = trusted.get(checkpoint.origin)
        if keys is None:
            raise LogMismatch(
                f"no key of {checkpoint.origin} is trusted here: its operator has one for `witness trust`"
            )
        return checkpoint, keep_signed_lines(note, keys)
    except NoteInvalid as cause:
        raise LogMismatch(f"what the log serves is no checkpoint of a trusted log: {cause}") from cause


def read_entries(source: EntrySource, start: int, stop: int) -> Iterator[bytes]:
    """Yield the entries that a log serves, at most as many as asked for.

    Raises:
        LedgerUnavailable: They could not be read.
    """
    with reading():
        yield from islice(source.entries(start, stop), stop - start)


def prepare_ahead(entries: Iterator[bytes], pool: Executor) -> Iterator[Prepared]:
    """Yield the entries in order, their signatures checked by ``pool`` before they are needed."""
    under_way: deque[Future[list[Prepared]]] = deque()
    for chunk in iter(lambda: list(islice(entries, _CHUNK)), []):
        under_way.append(pool.submit(_prepare_chunk, chunk))
        if len(under_way) > _CHUNKS_AHEAD:
            yield from under_way.popleft().result()
    while under_way:
        yield from under_way.popleft().result()


@contextmanager
def reading() -> Iterator[None]:
    """Translate whatever a source raises."""
    try:
        yield
    except LedgerUnavailable:
        raise
    except NotFound as cause:
        raise LedgerUnavailable(f"the log does not serve all of it yet: {cause}") from cause
    except LedgerError as cause:
        raise LogMismatch(f"what the log serves does not fit together: {cause}") from cause
    except (OSError, ValueError, EOFError) as cause:
        raise LedgerUnavailable(f"the log cannot be read: {type(cause).__name__}") from cause


def _prepare_chunk(entries: list[bytes]) -> list[Prepared]:
    return [prepare(entry) for entry in entries]
