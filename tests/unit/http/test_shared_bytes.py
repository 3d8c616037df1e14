"""Memory that processes share, where the kernel gives it and where it does not."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from typing import Any

import pytest

from fhir_bridge.errors import Unavailable
from fhir_bridge.model import shared_bytes
from fhir_bridge.model.shared_bytes import SharedBytes, shared

MFD_NOEXEC_SEAL = 8
"""linux/memfd.h"""
make = os.memfd_create


def refused(*_: Any) -> int:
    """Be a sandbox that does not know the call (seccomp), or a kernel with none."""
    raise PermissionError(errno.EPERM, "no")


def strict(name: str, flags: int = os.MFD_CLOEXEC) -> int:
    """Be a kernel with ``vm.memfd_noexec=2``."""
    if not flags & MFD_NOEXEC_SEAL:
        raise PermissionError(errno.EACCES, "no")
    return make(name, flags & ~MFD_NOEXEC_SEAL)


def old(name: str, flags: int = os.MFD_CLOEXEC) -> int:
    """Be a kernel before Linux 6.3."""
    if flags & MFD_NOEXEC_SEAL:
        raise OSError(errno.EINVAL, "no")
    return make(name, flags)


@pytest.mark.parametrize(("kernel", "is_able"), [(refused, False), (strict, True), (old, True)])
def test_it_is_tried_once_whether_there_is_any(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., int], is_able: bool
) -> None:
    monkeypatch.setattr(os, "memfd_create", kernel)
    before = descriptors()
    flags = shared_bytes._flags()
    assert (flags is not None) == is_able
    assert descriptors() == before
    if flags is not None:
        os.close(kernel("used as it was tried", flags))


def test_a_mapping_that_fails_is_used_up_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOMEM, "used up")

    monkeypatch.setattr(shared_bytes, "_Mapped", fail)
    made = SharedBytes()
    made.add(b"x")
    with pytest.raises(Unavailable):
        made.view()
    assert descriptors() == before


def test_what_is_shared_is_what_was_added() -> None:
    before = descriptors()
    made = SharedBytes()
    made.add(b"ab")
    made.add(b"cd")
    view = made.view()
    with shared(view) as descriptor:
        assert os.pread(descriptor, 9, 0) == b"abcd"
    assert bytes(view) == b"abcd"
    del view, made
    assert descriptors() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda file: os.pwrite(file, b"x", 0),
        lambda file: os.ftruncate(file, 0),
        lambda file: os.ftruncate(file, 9),
        lambda file: mmap.mmap(file, 4, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        lambda file: fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0),
    ],
    ids=["write", "shorten", "lengthen", "map", "seal"],
)
def test_a_worker_changes_nothing_of_what_it_is_given(change: Callable[[int], Any]) -> None:
    made = SharedBytes()
    made.add(b"abcd")
    view = made.view()
    with shared(view) as descriptor, pytest.raises(PermissionError):
        change(descriptor)
    assert bytes(view) == b"abcd"


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
