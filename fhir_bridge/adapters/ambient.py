"""The machine's own clock and randomness, behind the ports that tests and twin worlds replace."""

from __future__ import annotations

import os
from datetime import UTC, datetime


class SystemClock:
    """Tells the machine's time."""

    def now(self) -> datetime:
        """Return the current instant, aware, UTC."""
        return datetime.now(UTC)


class SystemRandomness:
    """Gives bytes of the operating system's cryptographic source."""

    def token(self, length: int) -> bytes:
        """Return ``length`` unpredictable bytes."""
        return os.urandom(length)
