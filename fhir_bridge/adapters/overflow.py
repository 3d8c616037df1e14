"""Files without a name that hold, sealed, what a large message makes until it is committed.

Such a file has no entry in any folder, so that the kernel takes it back when the process ends, however it ends; its
key is nowhere but in memory, so that what a disk may still hold of it opens no more.

Invariants:
    * nothing is written but what :func:`fhir_bridge.seal.seal_blob` gives;
    * a block opens only under its own number.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from pathlib import Path

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.seal import open_blob, seal_blob

_DOMAIN = "overflow"
_KEY_BYTES = 32


class FileOverflow:
    """Keeps the Overflow port's promises in one file without a name."""

    def __init__(self, folder: Path, randomness: Randomness) -> None:
        """Make the file.

        Raises:
            Unavailable: The disk gives none.
        """
        self._randomness = randomness
        self._key = randomness.token(_KEY_BYTES)
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise Unavailable("the disk has no room for a large message") from error
        weakref.finalize(self, os.close, self._file)
        self._lock = threading.Lock()
        self._ends = [0]

    def put(self, content: bytes) -> int:
        """See :class:`fhir_bridge.ports.overflow.Overflow`."""
        with self._lock:
            number = len(self._ends) - 1
            envelope = seal_blob(self._key, _DOMAIN, str(number), content, self._randomness)
            try:
                if os.pwrite(self._file, envelope, self._ends[-1]) != len(envelope):
                    raise Unavailable("the disk has no room for a large message")
            except OSError as error:
                raise Unavailable("the disk has no room for a large message") from error
            self._ends.append(self._ends[-1] + len(envelope))
        return number

    def get(self, number: int) -> bytes:
        """See :class:`fhir_bridge.ports.overflow.Overflow`."""
        start, end = self._ends[number], self._ends[number + 1]
        try:
            envelope = os.pread(self._file, end - start, start)
        except OSError as error:
            raise Unavailable("the disk does not give back a part of a large message") from error
        if len(envelope) != end - start:
            raise IntegrityBroken("a part of a large message is gone from the disk")
        return open_blob(self._key, _DOMAIN, str(number), envelope)


class FileOverflows:
    """Makes them in one folder, which should be on the disk of the data: memory is what they spare."""

    def __init__(self, folder: Path, randomness: Randomness | None = None) -> None:
        self._folder = folder
        self._randomness = randomness or SystemRandomness()

    def open(self) -> FileOverflow:
        """See :class:`fhir_bridge.ports.overflow.Overflows`."""
        return FileOverflow(self._folder, self._randomness)
