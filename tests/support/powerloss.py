"""What a disk holds after loss of power, worked out from the operations that reached the operating system.

For tests that must know whether an acknowledgement outlives the machine. A run
over the VFS in ``powerloss_vfs`` records a history; ``Platter`` takes any prefix
of it and says what may be found afterwards:

* DROPPED: what was synced, nothing else; names not synced vanish, deleted ones return;
* KEPT: everything, as after kill -9, where the operating system lives on;
* TORN_512, TORN_4096: each sector holds any one of the contents it had since its
  file was synced, each file any one of its lengths, each name may be there or
  not. Room that was never written reads as zeros or as rubbish.

Names are paths below one folder; a name and its neighbours are durable together,
those of another directory are not.

A truncation is there whole or not at all, and what was written after it is there
only if it is: file systems that journal their metadata (ext4, XFS) or copy on write
keep this order, and SQLite's write-ahead log relies on it.

A sector is either old or new, never a mixture, and its neighbours are safe: what
SQLite calls powersafe overwrite and takes for granted by default.

Invariants:
    * a file's sync makes its content durable, not its name: names need their directory synced;
    * a failed sync makes nothing durable and forgets what it was asked to keep, as
      Linux does, so a later success proves nothing about it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new, empty file."""

    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes handed to the operating system."""

    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A new length."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync that returned, successfully or not; ``names_too`` when the directory was synced after it."""

    name: str
    names_too: bool
    succeeded: bool = True


@dataclass(frozen=True, slots=True)
class Delete:
    """A name removed; ``names_too`` when the directory was synced after it."""

    name: str
    names_too: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """Something the world outside had learnt by then; an acknowledgement, for instance."""

    what: object


Event = Create | Write | Truncate | Sync | Delete | Mark


class Loss(Enum):
    """How unkind the disk is."""

    DROPPED = "everything unsynced is gone"
    KEPT = "nothing is gone"
    TORN_512 = "sectors of 512 bytes, old or new"
    TORN_4096 = "sectors of 4096 bytes, old or new"


@dataclass(slots=True)
class _Inode:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()


class Platter:
    """The durable and the volatile content of a folder and those below it, as its history goes on."""

    def __init__(self, image: Mapping[str, bytes] | None = None) -> None:
        self._durable = {name: _Inode(bytearray(data)) for name, data in (image or {}).items()}
        self._live = dict(self._durable)

    def apply(self, event: Event) -> None:
        """Go one event further."""
        match event:
            case Create(name):
                self._live[name] = _Inode()
            case Write(name) | Truncate(name):
                self._live[name].pending.append(event)
            case Sync(name, names_too, succeeded):
                if succeeded:
                    self._live[name].sync()
                    if names_too:
                        self._sync_names(name)
                else:
                    self._live[name].pending.clear()
            case Delete(name, names_too):
                del self._live[name]
                if names_too:
                    self._sync_names(name)
            case Mark():
                pass

    def _sync_names(self, beside: str) -> None:
        folder = PurePath(beside).parent
        elsewhere = {name: inode for name, inode in self._durable.items() if PurePath(name).parent != folder}
        here = {name: inode for name, inode in self._live.items() if PurePath(name).parent == folder}
        self._durable = elsewhere | here

    def after(self, loss: Loss, rng: random.Random) -> dict[str, bytes]:
        """Return one content of the directory that this loss may leave behind."""
        if loss is Loss.DROPPED:
            return {name: bytes(inode.durable) for name, inode in self._durable.items()}
        if loss is Loss.KEPT:
            return {name: _kept(inode) for name, inode in self._live.items()}
        sector = 512 if loss is Loss.TORN_512 else 4096
        found: dict[str, bytes] = {}
        for name in sorted({*self._durable, *self._live}):
            inode = rng.choice((self._durable.get(name), self._live.get(name)))
            if inode is not None:
                found[name] = _torn(inode, sector, rng)
        return found


def materialise(image: Mapping[str, bytes], folder: Path) -> None:
    """Write an image into a new folder, for its owner alone."""
    folder.mkdir(mode=0o700, parents=True)
    for name, data in image.items():
        for above in reversed(PurePath(name).parents):
            (folder / above).mkdir(mode=0o700, exist_ok=True)
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)


def _kept(inode: _Inode) -> bytes:
    content = bytearray(inode.durable)
    for change in inode.pending:
        _apply(content, change)
    return bytes(content)


def _torn(inode: _Inode, sector: int, rng: random.Random) -> bytes:
    cuts = [number for number, change in enumerate(inode.pending) if isinstance(change, Truncate)]
    reached = rng.randint(0, len(cuts))
    first = cuts[reached - 1] + 1 if reached else 0
    end = cuts[reached] if reached < len(cuts) else len(inode.pending)
    lengths = _lengths(inode, end)
    longest = max(lengths)
    content = bytearray(inode.durable)
    unwritten = longest - len(content)
    content += rng.randbytes(unwritten) if rng.random() < 0.5 else bytes(unwritten)
    # Each sector stops at a moment of its own; at one of the two ends in half of the losses.
    moments = range(end + 1) if rng.random() < 0.5 else range(0, end + 1, max(1, end))
    stops = [rng.choice(moments) for _ in range(-(-longest // sector))]
    for number, change in enumerate(inode.pending[:end]):
        if isinstance(change, Truncate):
            content[change.size :] = bytes(max(0, longest - change.size))
            continue
        for place, data in _pieces(change, sector):
            if number < stops[place // sector]:
                content[place : place + len(data)] = data
    del content[rng.choice(lengths[first:]) :]
    return bytes(content)


def _lengths(inode: _Inode, end: int) -> list[int]:
    """Return the length before each of the first ``end`` changes and after the last of them."""
    lengths = [len(inode.durable)]
    for change in inode.pending[:end]:
        lengths.append(change.size if isinstance(change, Truncate) else max(lengths[-1], _end(change)))
    return lengths


def _pieces(change: Write, sector: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of a change, cut at the sectors' borders."""
    done = 0
    while done < len(change.data):
        place = change.offset + done
        step = min(sector - place % sector, len(change.data) - done)
        yield place, change.data[done : done + step]
        done += step


def _end(change: Write) -> int:
    return change.offset + len(change.data)


def _apply(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content += bytes(change.size - len(content))
        return
    content += bytes(max(0, _end(change) - len(content)))
    content[change.offset : _end(change)] = change.data
