"""Times that lack an offset: read by the clocks of a stated zone, or not at all.

FHIR demands an offset with every time of day (R4 datatypes.html#dateTime); hospitals whose systems tell local time
leave it out. Whose clocks these are is stated by whoever knows the sender and never assumed. Which elements hold
times is the validator's knowledge: what it complains about, and no other text, is completed.

Invariants:
    * nothing but the offset is added; digits and precision stay;
    * a time that the zone's clocks skipped is left as it was sent; of an hour that came twice the earlier is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fhir_bridge.errors import Issue

LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?", re.ASCII)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]+)\]")
Steps = tuple[str | int, ...]


class NoSuchTime(ValueError):
    """The clocks of a zone never told this time, or it cannot be written; the text says why."""


def offset_of(text: str, zone: ZoneInfo) -> str:
    """Return the offset (``+05:30``) that clocks of ``zone`` had when they told ``text``; of two, the earlier.

    Args:
        text: ``YYYY-MM-DDThh:mm:ss``, with or without a fraction. A leap second has the offset of the second before.

    Raises:
        NoSuchTime: The clocks skipped it, no calendar has it, or the offset then had seconds.
    """
    try:
        # What is smaller than a microsecond moves no clock.
        moment = datetime.fromisoformat(f"{text[:17]}{min(int(text[17:19]), 59):02d}").replace(tzinfo=zone)
        back = moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise NoSuchTime("no calendar has this time") from None
    if back != moment.replace(tzinfo=None):
        raise NoSuchTime(f"clocks of {zone.key} skipped this time")
    offset = moment.isoformat()[19:]
    if len(offset) != len("+00:00"):
        raise NoSuchTime(f"clocks of {zone.key} were off by seconds then: send such times with an offset")
    return offset


def completed(resource: Any, issues: Iterable[Issue], place: str, zone: ZoneInfo) -> dict[Steps, tuple[str, str]]:
    """Return where a validator misses an offset that ``zone`` can give: steps → the text as sent, and with it.

    Args:
        issues: What the validator found in ``resource``, which stands at ``place`` in its message.
    """
    found: dict[Steps, tuple[str, str]] = {}
    for issue in issues:
        steps, text = _local_time(resource, issue, place)
        if text:
            try:
                found[steps] = text, text + offset_of(text, zone)
            except NoSuchTime:
                continue
    return found


def with_reasons(resource: Any, issues: Iterable[Issue], place: str, zone: ZoneInfo) -> list[Issue]:
    """Return the issues; those about times that ``zone`` cannot complete say why, see :func:`completed`."""
    told = []
    for issue in issues:
        _, text = _local_time(resource, issue, place)
        if text:
            try:
                offset_of(text, zone)
            except NoSuchTime as wrong:
                issue = replace(issue, diagnostics=str(wrong))
        told.append(issue)
    return told


def _local_time(resource: Any, issue: Issue, place: str) -> tuple[Steps, str]:
    """Where the time without an offset stands that an issue is about, and the time; no text if it is about none."""
    if issue.code != "value" or not issue.expression.startswith(f"{place}."):
        return (), ""
    steps = _steps(issue.expression[len(place) :])
    text = _value_at(resource, steps)
    return (steps, text) if type(text) is str and LOCAL_TIME.fullmatch(text) else ((), "")


def with_texts(value: Any, texts: Mapping[Steps, str]) -> Any:
    """Return a JSON value with other texts at some places; whatever does not lead there is shared."""
    if () in texts:
        return texts[()]
    below: dict[str | int, dict[Steps, str]] = {}
    for steps, text in texts.items():
        below.setdefault(steps[0], {})[steps[1:]] = text
    made = value.copy()
    for step, inner in below.items():
        made[step] = with_texts(value[step], inner)
    return made


def _steps(path: str) -> Steps:
    return tuple(name or int(index) for name, index in _STEP.findall(path))


def _value_at(value: Any, steps: Steps) -> Any:
    for step in steps:
        if type(value) is dict:
            value = value.get(step)
        elif type(value) is list and type(step) is int and step < len(value):
            value = value[step]
        else:
            return None
    return value
