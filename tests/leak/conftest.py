"""Prints how many planted leaks were caught, and the cases of all stretches, by channel, when the suite ends."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

_CAUGHT = re.compile(r"test_a_planted_leak_is_caught\[(\d\d)-")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what ran; the figures come from several processes, with their reports."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, ())]
    told = [(name, value) for report in reports for name, value in report.user_properties]
    tallies = [json.loads(str(value)) for name, value in told if name == "tally"]
    if tallies:
        terminalreporter.write_line("\n".join(_table(tallies)))
    passed = (_CAUGHT.search(report.nodeid) for report in terminalreporter.stats.get("passed", ()))
    caught = Counter(int(found[1]) for found in passed if found)
    if caught:
        listed = ", ".join(f"channel {channel}: {caught[channel]}" for channel in sorted(caught))
        terminalreporter.write_line(f"planted leaks caught: {caught.total()} ({listed})")
    for text in (str(value) for name, value in told if name == "searched"):
        terminalreporter.write_line(f"plants/caught.toml names another world, searched for {text}")


def _table(tallies: list[dict[str, dict[str, int]]]) -> list[str]:
    columns = ("cases", "answered", "differences")
    sums = {name: Counter[int]() for name in columns}
    for tally in tallies:
        for name in columns:
            sums[name].update({int(channel): count for channel, count in tally[name].items()})
    head = "leak hunt: channel, cases, answered with 2xx, differences"
    rows = [
        f"{channel:>7}  " + "  ".join(f"{sums[name][channel]:>7}" for name in columns) for channel in sums["cases"]
    ]
    return [head, *sorted(rows), "    all  " + "  ".join(f"{sums[name].total():>7}" for name in columns)]
