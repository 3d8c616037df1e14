"""Give times that still lack an offset the one of the source's own clocks.

Intake took them because the pack says whose clocks they tell (``time_zone``). Rules come first: ``timezone`` can say
of one element that another zone is meant.
"""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from fhir_bridge.fhir.local_times import LOCAL_TIME, Steps, completed
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.normalize.draft import By, Draft

LOCAL_TIMES = By("core/local-times", "times without an offset tell the source's time_zone")


def complete_times(draft: Draft, zone: ZoneInfo) -> None:
    """Complete every element that R4 says is a time, each as a change of its own."""
    type_name = str(draft.body["resourceType"])
    while _has_one(draft.body):
        found = completed(draft.body, validate_r4(draft.body), type_name, zone)
        for steps, (before, after) in found.items():
            holder: Any = draft.body
            for step in steps[:-1]:
                holder = holder[step]
            holder[steps[-1]] = after
            draft.changed(LOCAL_TIMES, type_name + _written(steps), before, after, is_safe=True)
        if not found:
            return


def _has_one(value: Any) -> bool:
    """Tell whether any text looks like a time without an offset; most records hold none."""
    if type(value) is str:
        return LOCAL_TIME.fullmatch(value) is not None
    if type(value) is dict:
        return any(_has_one(each) for each in value.values())
    return type(value) is list and any(_has_one(each) for each in value)


def _written(steps: Steps) -> str:
    return "".join(f"[{step}]" if type(step) is int else f".{step}" for step in steps)
