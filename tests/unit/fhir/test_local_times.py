"""Times without an offset: what the clocks of a zone told, against offsets that the zones' own history states."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.local_times import NoSuchTime, completed, offset_of, with_texts

ZONES = ("America/St_Johns", "Asia/Kolkata", "Europe/Vienna", "Pacific/Chatham", "UTC")


@pytest.mark.parametrize(
    ("zone", "text", "offset"),
    [
        ("America/St_Johns", "2020-01-15T08:00:00", "-03:30"),
        ("America/St_Johns", "2020-07-15T08:00:00.812", "-02:30"),
        ("Asia/Kolkata", "2020-07-15T08:00:00.123456789", "+05:30"),
        ("Europe/Vienna", "2026-10-25T02:30:00", "+02:00"),  # comes twice: the earlier
        ("UTC", "2016-12-31T23:59:60", "+00:00"),
    ],
)
def test_the_offset_of_that_day_is_meant(zone: str, text: str, offset: str) -> None:
    assert offset_of(text, ZoneInfo(zone)) == offset


@pytest.mark.parametrize(
    ("zone", "text", "words"),
    [
        ("Europe/Vienna", "2026-03-29T02:30:00", "skipped"),
        ("America/St_Johns", "1911-05-01T12:00:00", "off by seconds"),
        ("UTC", "2026-02-31T12:00:00", "no calendar"),
        ("Pacific/Apia", "0001-01-01T00:00:00", "no calendar"),
    ],
)
def test_a_time_that_no_clock_told_has_no_offset(zone: str, text: str, words: str) -> None:
    with pytest.raises(NoSuchTime, match=words):
        offset_of(text, ZoneInfo(zone))


@given(st.datetimes(datetime(1950, 1, 1), datetime(2060, 1, 1)), st.sampled_from(ZONES))  # noqa: DTZ001 - made aware
def test_a_completed_time_is_the_moment_that_the_clock_told(utc: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    local = utc.replace(tzinfo=UTC, microsecond=0).astimezone(zone)
    text = local.isoformat()[:19]
    read = datetime.fromisoformat(text + offset_of(text, zone))
    # In UTC: Python holds a time that comes twice for unequal to any of another zone (PEP 495).
    assert read.astimezone(UTC) == local.astimezone(UTC) or local.fold == 1


def test_only_what_the_validator_misses_an_offset_in_is_completed() -> None:
    body = {"resourceType": "X", "a": [{"t": "2020-01-15T08:00:00"}], "s": "2020-01-15T08:00:00", "d": "2020"}
    issues = [Issue("error", "value", "", p) for p in ("E[3].X.a[0].t", "E[3].X.d", "E[3].X.a[7].t", "Other.s")]
    issues.append(Issue("error", "structure", "", "E[3].X.s"))
    found = completed(body, issues, "E[3].X", ZoneInfo("UTC"))
    assert found == {("a", 0, "t"): ("2020-01-15T08:00:00", "2020-01-15T08:00:00+00:00")}
    made = with_texts(body, {steps: text for steps, (_, text) in found.items()})
    assert made == {**body, "a": [{"t": "2020-01-15T08:00:00+00:00"}]}
    assert body["a"] == [{"t": "2020-01-15T08:00:00"}]
