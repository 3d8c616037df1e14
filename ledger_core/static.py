"""A log as static files: written for any web server, read from a directory or over HTTP.

For monitors, mirrors and other people's clients. The layout is C2SP tlog-tiles:
``checkpoint``, ``tile/<level>/<index>`` and ``tile/entries/<index>``, a part that
is not full under ``.p/<width>``.

``StaticLog`` only reads; it judges no signature and no hash. Prove with
``StaticLog.tree`` after comparing its root with that of a verified checkpoint.

Invariants of ``write_static``:
    * the checkpoint is written last, after everything it needs is durable;
    * what a published checkpoint covers is never written again, and no
      checkpoint replaces one of a longer log or of another history;
    * every entry written hashes to its leaf, every tile to its place above, and
      all to the checkpoint's root.
"""

import fcntl
import os
import shutil
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, IncompleteRead
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from ledger_core.checkpoint import MAX_NOTE_BYTES, Checkpoint, parse_checkpoint, split_note
from ledger_core.errors import IntegrityBroken, LedgerLocked, LedgerUnavailable, NoteInvalid, NotFound
from ledger_core.hashing import EMPTY_LOG, HASH_BYTES, leaf_hash
from ledger_core.log import TILE_BYTES, TILE_LEVELS, TILE_WIDTH, TiledLog, changed_tiles, tile_root

CHECKPOINT: Final = "checkpoint"
MAX_ENTRY_BYTES: Final = 65_535

_LENGTH_BYTES: Final = 2
_MAX_LEVEL: Final = 63
_MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (_LENGTH_BYTES + MAX_ENTRY_BYTES)
_GZIP: Final = 31
_PIECE_BYTES: Final = 65_536

Progress: TypeAlias = Callable[[int, int], None]
"""Told the number of entries written and to be written."""
_Fetch: TypeAlias = Callable[[str, int], bytes]


class StaticSource(Protocol):
    """A log to write: an open ledger, or another ``StaticLog`` to mirror."""

    def checkpoint(self) -> str:
        """Return the newest signed checkpoint; what follows is asked for its size."""
        ...

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first ``width`` hashes of a tile, joined."""
        ...

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the log entries from ``start`` up to, not including, ``stop``."""
        ...


class StaticLog:
    """A log in C2SP tlog-tiles form, in a directory or behind a URL."""

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch = fetch
        self._size: int | None = None

    @classmethod
    def open(cls, address: str | Path, *, timeout_ms: int = 10_000) -> "StaticLog":
        """Open a directory, or the prefix of a log under ``http://`` or ``https://``; reads nothing yet.

        Args:
            address: Directory or URL.
            timeout_ms: Longest time for one file over HTTP, from connecting to its last byte.
        """
        if isinstance(address, str) and address.startswith(("http://", "https://")):
            return cls(_Http(address.rstrip("/"), timeout_ms / 1000).fetch)
        return cls(_Directory(Path(address)).fetch)

    def checkpoint(self) -> str:
        """Return the published checkpoint, unverified; ``entries`` then reads the log of its size.

        Raises:
            NotFound: There is none; likewise below, for a file that is not there.
            NoteInvalid: It has not the form of one.
            LedgerUnavailable: The server did not answer in time; likewise below.
        """
        note, found = _read_checkpoint(self._fetch(CHECKPOINT, MAX_NOTE_BYTES))
        self._size = found.size
        return note

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first ``width`` hashes of a tile, joined, unverified.

        Raises:
            IntegrityBroken: The file is not that many hashes.
        """
        hashes = self._part(f"{level}", level, index, width, TILE_BYTES)
        if len(hashes) != width * HASH_BYTES and len(hashes) != TILE_BYTES:
            raise IntegrityBroken(f"tile {level}/{index} has {len(hashes)} bytes, not {width * HASH_BYTES}")
        return hashes[: width * HASH_BYTES]

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the log entries from ``start`` up to, not including, ``stop``, unverified.

        Raises:
            NotFound: The checkpoint covers fewer entries.
            IntegrityBroken: A bundle is not what its name says.
        """
        if self._size is None:
            self.checkpoint()
        size = self._size or 0
        if not 0 <= start <= stop <= size:
            raise NotFound(f"the log has {size} entries, not {stop} from {start} on")
        for index in range(start // TILE_WIDTH, (stop + TILE_WIDTH - 1) // TILE_WIDTH):
            first = index * TILE_WIDTH
            width = min(TILE_WIDTH, size - first)
            bundle = self._part("entries", 0, index, width, _MAX_BUNDLE_BYTES)
            yield from decode_bundle(bundle, width)[max(start - first, 0) : stop - first]

    def tree(self, size: int) -> TiledLog:
        """Return the tree of the first ``size`` entries, to prove from.

        Raises:
            IntegrityBroken: A tile of its right edge is missing or short.
        """

        def read(level: int, index: int) -> bytes | None:
            width = min(TILE_WIDTH, (size >> TILE_LEVELS * level) - index * TILE_WIDTH)
            try:
                return self.tile(level, index, width)
            except NotFound:
                return None

        return TiledLog(read, size)

    def _part(self, kind: str, level: int, index: int, width: int, limit: int) -> bytes:
        if not (0 <= level <= _MAX_LEVEL and index >= 0 and 0 < width <= TILE_WIDTH):
            raise ValueError(f"there is no tile {level}/{index} of width {width}")
        path = tile_path(kind, index, width)
        try:
            return self._fetch(path, limit)
        except NotFound:
            # A log may drop a part once it is full.
            if width == TILE_WIDTH:
                raise
            return self._fetch(tile_path(kind, index, TILE_WIDTH), limit)


def write_static(source: StaticSource, directory: str | Path, progress: Progress | None = None) -> int:
    """Bring the static files in ``directory`` up to the source's newest checkpoint; return its size.

    The caller trusts the checkpoint, or has verified it; its signatures are not
    judged here. An interrupted run can be repeated.

    Raises:
        IntegrityBroken: Entries, tiles and checkpoint disagree, or the directory holds
            a longer log or another one; nothing was published.
        LedgerLocked: Another run is writing there.
        LedgerUnavailable: The files cannot be written.
    """
    target = Path(directory)
    with _sole_writer(target):
        note, new = _read_checkpoint(source.checkpoint().encode())
        old = _published(target, new)
        written = _Written(target)
        _write_tiles(source, written, old.size, new.size, progress)
        _compare(target, old, new)
        written.settle()
        written.replace(CHECKPOINT, note.encode())
        written.settle()
        _drop_parts(target, old.size, new.size)
    return new.size


def tile_path(kind: str, index: int, width: int) -> str:
    """Return the path of a tile (``kind`` is its level) or entry bundle (``kind`` is ``entries``)."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    part = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{kind}/{'/'.join(reversed(groups))}{part}"


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return entries as a bundle: u16 length ‖ entry for each.

    Raises:
        ValueError: An entry is longer than 65,535 bytes.
    """
    bundle = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise ValueError("an entry of a bundle has at most 65,535 bytes")
        bundle += len(entry).to_bytes(_LENGTH_BYTES, "big")
        bundle += entry
    return bytes(bundle)


def decode_bundle(bundle: bytes, width: int) -> list[bytes]:
    """Return the first ``width`` entries of a bundle that holds exactly these, or 256.

    Raises:
        IntegrityBroken: It does not.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(bundle[at:begin], "big")
        entries.append(bundle[begin:at])
    if at != len(bundle) or len(entries) not in (width, TILE_WIDTH):
        raise IntegrityBroken(f"an entry bundle does not hold {width} entries")
    return entries[:width]


def _read_checkpoint(raw: bytes) -> tuple[str, Checkpoint]:
    try:
        note = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise NoteInvalid("a checkpoint is not UTF-8") from cause
    text, _ = split_note(note)
    return note, parse_checkpoint(text)


def _published(target: Path, new: Checkpoint) -> Checkpoint:
    """Return the directory's checkpoint, which ``new`` must be able to replace; size 0 if there is none."""
    try:
        _, old = _read_checkpoint(_Directory(target).fetch(CHECKPOINT, MAX_NOTE_BYTES))
    except NotFound:
        return Checkpoint(new.origin, 0, EMPTY_LOG)
    if old.origin != new.origin or old.size > new.size:
        raise IntegrityBroken(f"{target.name} holds another log, or {old.size} entries where there are {new.size}")
    return old


def _write_tiles(
    source: StaticSource, written: "_Written", old_size: int, new_size: int, progress: Progress | None
) -> None:
    first = old_size // TILE_WIDTH * TILE_WIDTH
    entries = source.entries(first, new_size) if old_size < new_size else iter(())
    risen: list[list[bytes]] = []
    for (level, index), width in changed_tiles(old_size, new_size).items():
        if level == len(risen):
            risen.append([])
        hashes = source.tile(level, index, width)
        if len(hashes) != width * HASH_BYTES:
            raise IntegrityBroken(f"tile {level}/{index} has {len(hashes)} bytes, not {width * HASH_BYTES}")
        if level == 0:
            bundled = list(islice(entries, width))
            if b"".join(map(leaf_hash, bundled)) != hashes:
                raise IntegrityBroken(f"tile 0/{index} is not what its entries hash to")
            written.replace(tile_path("entries", index, width), encode_bundle(bundled))
            if progress is not None:
                progress(index * TILE_WIDTH + width - first, new_size - first)
        else:
            known, begin = old_size >> TILE_LEVELS * level, index * TILE_WIDTH
            fresh = max(known, begin)
            if (
                b"".join(risen[level - 1][fresh - known : begin + width - known])
                != hashes[(fresh - begin) * HASH_BYTES :]
            ):
                raise IntegrityBroken(f"tile {level}/{index} is not what the tiles below lead to")
        if width == TILE_WIDTH:
            risen[level].append(tile_root(hashes))
        written.replace(tile_path(f"{level}", index, width), hashes)


def _compare(target: Path, old: Checkpoint, new: Checkpoint) -> None:
    tree = StaticLog.open(target).tree(new.size)
    if tree.root(new.size) != new.root:
        raise IntegrityBroken(f"the tiles do not lead to the checkpoint's root of {new.size} entries")
    if tree.root(old.size) != old.root:
        raise IntegrityBroken(f"the log does not continue the {old.size} entries published before")


def _drop_parts(target: Path, old_size: int, new_size: int) -> None:
    """Remove the parts of tiles that are full by now; readers then take the full ones."""
    for (level, index), width in changed_tiles(old_size, new_size).items():
        if width == TILE_WIDTH and index == old_size >> TILE_LEVELS * (level + 1):
            for kind in (f"{level}", "entries") if level == 0 else (f"{level}",):
                shutil.rmtree(target / (tile_path(kind, index, TILE_WIDTH) + ".p"), ignore_errors=True)


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    try:
        target.mkdir(parents=True, exist_ok=True)
        folder = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as cause:
        raise LedgerUnavailable("the directory of static files cannot be opened") from cause
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(folder)
        raise LedgerLocked("another run is writing these static files") from cause
    try:
        yield
    finally:
        os.close(folder)


class _Written:
    """Files replaced as a whole, and made durable together by ``settle``."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._unsettled: list[Path] = []
        self._folders: set[Path] = set()

    def replace(self, path: str, content: bytes) -> None:
        place = self._target / path
        try:
            if place.is_file() and place.read_bytes() == content:
                self._note(place)
                return
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f"{place.name}.new")
            draft.write_bytes(content)
            if path == CHECKPOINT:
                _sync(draft)
            draft.replace(place)
        except OSError as cause:
            raise LedgerUnavailable("a static file cannot be written") from cause
        self._note(place)

    def settle(self) -> None:
        try:
            for place in (*self._unsettled, *sorted(self._folders, reverse=True)):
                _sync(place)
        except OSError as cause:
            raise LedgerUnavailable("the static files cannot be made durable") from cause
        self._unsettled.clear()
        self._folders.clear()

    def _note(self, place: Path) -> None:
        self._unsettled.append(place)
        folder = place.parent
        while folder not in self._folders:
            self._folders.add(folder)
            if folder == self._target:
                self._folders.add(self._target.parent)
                return
            folder = folder.parent


def _sync(place: Path) -> None:
    opened = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Directory:
    def __init__(self, base: Path) -> None:
        self._base = base

    def fetch(self, path: str, limit: int) -> bytes:
        try:
            with (self._base / path).open("rb") as file:
                content = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"there is no {path}") from None
        except OSError as cause:
            raise LedgerUnavailable(f"{path} cannot be read") from cause
        return _bounded(path, content, limit)


class _Http:
    def __init__(self, prefix: str, timeout_s: float) -> None:
        self._prefix, self._timeout_s = prefix, timeout_s

    def fetch(self, path: str, limit: int) -> bytes:
        headers = {"Accept-Encoding": "gzip, identity"}
        deadline = time.monotonic() + self._timeout_s
        try:
            # open() let only http and https pass.
            request = urllib.request.Request(f"{self._prefix}/{path}", headers=headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
                content = _drain(response, limit, deadline)
                is_packed = response.headers.get("Content-Encoding", "identity").lower() == "gzip"
        except urllib.error.HTTPError as problem:
            problem.close()
            if problem.code in (404, 410):
                raise NotFound(f"there is no {path}") from None
            raise LedgerUnavailable(f"{path}: the server answered {problem.code}") from None
        except (OSError, HTTPException, ValueError) as cause:
            raise LedgerUnavailable(f"{path} cannot be fetched") from cause
        return _bounded(path, _unpack(path, content, limit) if is_packed else content, limit)


def _drain(response: HTTPResponse, limit: int, deadline: float) -> bytes:
    """Read one byte more than ``limit`` at most, and not past the deadline, however slowly it comes."""
    content = bytearray()
    while len(content) <= limit:
        if time.monotonic() > deadline:
            raise TimeoutError
        piece = response.read1(min(_PIECE_BYTES, limit + 1 - len(content)))
        if not piece:
            # read1 does not complain of a body shorter than was announced.
            if response.length:
                raise IncompleteRead(bytes(content), response.length)
            break
        content += piece
    return bytes(content)


def _unpack(path: str, packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        content = unpacker.decompress(packed, limit + 1)
    except zlib.error as cause:
        raise IntegrityBroken(f"{path} is not the gzip it is said to be") from cause
    if len(content) <= limit and not unpacker.eof:
        raise IntegrityBroken(f"{path} ends early")
    return content


def _bounded(path: str, content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise IntegrityBroken(f"{path} is longer than {limit} bytes")
    return content
