"""Counts the planted leaks that were caught, and prints them by channel when the suite ends."""

from __future__ import annotations

from collections import Counter

import pytest

_KILLS: pytest.StashKey[Counter[int]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Begin with none."""
    config.stash[_KILLS] = Counter()


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> Counter[int]:
    """Caught leaks by channel."""
    return request.config.stash[_KILLS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the kills, if any leak was planted."""
    caught = config.stash[_KILLS]
    if caught:
        listed = ", ".join(f"channel {channel}: {caught[channel]}" for channel in sorted(caught))
        terminalreporter.write_line(f"planted leaks caught: {caught.total()} ({listed})")
