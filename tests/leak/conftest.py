"""Prints how many planted leaks were caught, by channel, when the suite ends."""

from __future__ import annotations

import re
from collections import Counter

import pytest

_CAUGHT = re.compile(r"test_a_planted_leak_is_caught\[(\d\d)-")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the kills, if any leak was planted; they come from several processes."""
    passed = (_CAUGHT.search(report.nodeid) for report in terminalreporter.stats.get("passed", ()))
    caught = Counter(int(found[1]) for found in passed if found)
    if caught:
        listed = ", ".join(f"channel {channel}: {caught[channel]}" for channel in sorted(caught))
        terminalreporter.write_line(f"planted leaks caught: {caught.total()} ({listed})")
