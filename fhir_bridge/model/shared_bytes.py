"""The bytes of a large message, held once in memory that processes share instead of once in each.

The memory is a file without a name and without a disk (Linux, memfd_create(2)): it is gone with the last process that
holds it. Elsewhere there is none, and every process holds its own copy.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CAN_SHARE: Final = hasattr(os, "memfd_create")
_AT_ONCE_BYTES = 1 << 20


class SharedBytes:
    """Shared memory being filled, then read through :meth:`view`."""

    def __init__(self) -> None:
        self._file = os.memfd_create("message")
        self._closing = weakref.finalize(self, os.close, self._file)
        self._size = 0

    def add(self, piece: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        left = memoryview(piece)
        while left:
            left = left[os.write(self._file, left) :]
        self._size += len(piece)

    def view(self) -> memoryview:
        """Return what was added; to be called once, and nothing added after."""
        self._closing.detach()
        return attached(self._file, self._size)


@contextmanager
def shared(content: bytes | memoryview) -> Iterator[int]:
    """Give a descriptor of shared memory that holds ``content``, which is copied if it is not there already."""
    if isinstance(content, memoryview) and isinstance(content.obj, _Mapped):
        yield content.obj.file
        return
    made = SharedBytes()
    for start in range(0, len(content), _AT_ONCE_BYTES):
        made.add(content[start : start + _AT_ONCE_BYTES])
    view = made.view()
    assert isinstance(view.obj, _Mapped)
    yield view.obj.file


def attached(descriptor: int, size: int) -> memoryview:
    """Return the view of shared memory behind a descriptor, which the view has from now on."""
    try:
        return memoryview(_Mapped(descriptor, size))
    except BaseException:
        os.close(descriptor)
        raise


class _Mapped(mmap.mmap):
    """Shared memory as this process sees it; let go, with its descriptor, when nobody looks at it any more."""

    file: int

    def __new__(cls, file: int, size: int) -> _Mapped:
        # Populated, so that whoever looks how much memory this process takes sees it.
        made = super().__new__(cls, file, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
        made.file = file
        return made

    def __del__(self) -> None:
        os.close(self.file)
