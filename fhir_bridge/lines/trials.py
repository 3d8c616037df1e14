"""What the trials of rulesets have found since the service started; the ground on which a canary is withdrawn.

Kept in memory: a trial that a restart interrupts goes on and counts anew. Nothing that a candidate made is in here,
only names of rules, paths of elements, codes and counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fhir_bridge import metrics
from fhir_bridge.model.ingest import Processed, Received, SourceContext, Tried
from fhir_bridge.normalize import Difference
from fhir_bridge.ports.rooms import Rooms
from fhir_bridge.settings import RulesSettings
from fhir_bridge.telemetry import logger

_log = logger("rules")
_MAX_KINDS = 1_000
_REST = Difference("changed", "", "others")
_MAX_TOLD = 50


@dataclass(slots=True)
class Found:
    """What one trial has found so far."""

    ruleset: str
    messages: int = 0
    entries: int = 0
    worse: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    differences: Counter[Difference] = field(default_factory=Counter)

    def add(self, tried: Tried) -> None:
        """Count one message."""
        self.messages += 1
        self.entries += tried.entries
        self.worse += tried.worse
        if tried.failed:
            self.failed[tried.failed] += 1
        for kind, count in tried.differences:
            known = Difference(*kind)
            has_room = known in self.differences or len(self.differences) < _MAX_KINDS
            self.differences[known if has_room else _REST] += count

    def described(self) -> dict[str, Any]:
        """Return the counts, the most frequent differences first."""
        return {
            "messages": self.messages,
            "entries": self.entries,
            "worse": self.worse,
            "failed": dict(self.failed),
            "differences": [
                {**kind._asdict(), "count": count} for kind, count in self.differences.most_common(_MAX_TOLD)
            ],
            "kinds_of_difference": len(self.differences),
        }


class Trials:
    """Collects what trials find, and asks for the withdrawal of a canary that does worse."""

    def __init__(self, settings: RulesSettings) -> None:
        self._settings = settings
        self._found: dict[str, Found] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.withdraw: Callable[[str, str, str], Awaitable[None]] | None = None

    def note(self, institution: str, tried: Tried) -> None:
        """Count what a trial found on one message of an institution."""
        found = self._found.get(institution)
        if found is None or found.ruleset != tried.ruleset:
            found = self._found[institution] = Found(tried.ruleset)
        found.add(tried)
        metrics.TRIALS.labels(
            institution, "failed" if tried.failed else "differs" if tried.differences else "same"
        ).inc()
        if tried.is_used and self._is_too_bad(found):
            self._end(institution, found)

    def found(self, institution: str, ruleset: str) -> Found:
        """Return what the trial of a ruleset has found; nothing for one that has just begun."""
        found = self._found.get(institution)
        return found if found is not None and found.ruleset == ruleset else Found(ruleset)

    def forget(self, institution: str) -> None:
        """Begin to count anew."""
        self._found.pop(institution, None)

    async def settle(self) -> None:
        """Wait for withdrawals under way."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _is_too_bad(self, found: Found) -> bool:
        least, percent = self._settings.canary_worse_entries, self._settings.canary_worse_percent
        return found.worse >= least and found.worse * 100 > found.entries * percent

    def _end(self, institution: str, found: Found) -> None:
        reason = f"{found.worse} of {found.entries} entries were not taken that the rules in force take"
        if self.withdraw is not None and not self._ending:
            task = asyncio.create_task(self._ended(institution, found.ruleset, reason), name="withdraw")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _ended(self, institution: str, ruleset: str, reason: str) -> None:
        assert self.withdraw is not None
        try:
            await self.withdraw(institution, ruleset, reason)
        except Exception as error:
            _log.error("canary not withdrawn", code=getattr(error, "code", type(error).__name__))


class TriedRooms:
    """Rooms whose findings about trials are collected."""

    def __init__(self, rooms: Rooms, trials: Trials) -> None:
        self._rooms = rooms
        self._trials = trials

    async def process(self, received: Received, source: SourceContext) -> Processed:
        """See :class:`fhir_bridge.ports.rooms.Rooms`."""
        done = await self._rooms.process(received, source)
        if done.tried is not None:
            self._trials.note(received.institution, done.tried)
        return done

    async def close(self) -> None:
        """See :class:`fhir_bridge.ports.rooms.Rooms`."""
        await self._rooms.close()
