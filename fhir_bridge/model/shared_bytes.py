"""The bytes of a large message, held once in memory that processes share instead of once in each.

The memory is a file without a name and without a folder (Linux, memfd_create(2)): it is gone with the last process
that holds it. Where there is none, or a sandbox refuses it, every process holds its own copy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fhir_bridge.errors import Unavailable

_AT_ONCE_BYTES = 1 << 20
_NOEXEC_SEAL = 0x0008
"""MFD_NOEXEC_SEAL of Linux 6.3, without which ``vm.memfd_noexec=2`` refuses; older kernels refuse it instead."""
_PLAIN = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING if hasattr(os, "memfd_create") else 0
_SEALS = (
    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    if hasattr(fcntl, "F_ADD_SEALS")
    else 0
)
_USED_UP = "there is no memory to share for a large message"


class SharedBytes:
    """Shared memory being filled, then read through :meth:`view`."""

    def __init__(self) -> None:
        """Begin with none.

        Raises:
            Unavailable: No descriptor or no memory is left; safe to retry.
        """
        try:
            self._file = os.memfd_create("message", _FLAGS or _PLAIN)
        except OSError as error:
            raise Unavailable(_USED_UP) from error
        self._closing = weakref.finalize(self, os.close, self._file)
        self._size = 0

    def add(self, piece: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            Unavailable: No memory is left; safe to retry.
        """
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise Unavailable(_USED_UP) from error
        self._size += len(piece)

    def view(self) -> memoryview:
        """Return what was added, which nobody changes or shortens any more, whoever has the descriptor.

        To be called once, and nothing added after.

        Raises:
            Unavailable: No descriptor or no memory is left; safe to retry.
        """
        try:
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            raise Unavailable(_USED_UP) from error
        self._closing.detach()
        return attached(self._file, self._size)


@contextmanager
def shared(content: bytes | memoryview) -> Iterator[int]:
    """Give a descriptor of shared memory that holds ``content``, which is copied if it is not there already.

    Raises:
        Unavailable: No descriptor or no memory is left; safe to retry.
    """
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
    """Return the view of shared memory behind a descriptor, which the view has from now on.

    Raises:
        Unavailable: No descriptor or no memory is left; safe to retry.
    """
    try:
        return memoryview(_Mapped(descriptor, size))
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise Unavailable(_USED_UP) from error
        raise


class _Mapped(mmap.mmap):
    """Shared memory as this process sees it; let go, with its descriptor, when nobody looks at it any more."""

    file: int

    def __new__(cls, file: int, size: int) -> _Mapped:
        # Populated, so that whoever looks how much memory this process takes sees it. Private, for before Linux 6.7
        # what is sealed cannot be mapped otherwise; its pages are shared all the same, for nobody writes to them.
        made = super().__new__(cls, file, size, flags=mmap.MAP_PRIVATE | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
        made.file = file
        return made

    def __del__(self) -> None:
        os.close(self.file)


def _flags() -> int | None:
    """Return the flags with which memory can be made and looked at here; None if it cannot, whatever the flags."""
    if not hasattr(os, "memfd_create"):
        return None
    for flags in (_PLAIN | _NOEXEC_SEAL, _PLAIN):
        try:
            file = os.memfd_create("probe", flags)
        except OSError:
            continue
        try:
            os.write(file, b"probe")
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(file)
            return None
        try:
            attached(file, len(b"probe"))
        except Unavailable:
            return None
        return flags
    return None


_FLAGS: Final = _flags()
CAN_SHARE: Final = _FLAGS is not None
