"""Clock and randomness, so that two worlds can be compared and a test can fix both."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the current instant, aware, UTC."""
        ...


class Randomness(Protocol):
    """Gives unpredictable bytes."""

    def token(self, length: int) -> bytes:
        """Return ``length`` bytes from a cryptographic source."""
        ...
