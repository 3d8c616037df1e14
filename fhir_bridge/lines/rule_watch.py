"""Put a pack in force whenever it is saved: for the machine of an engineer who tries rules on live messages.

The folders are looked at some fifty times a second, which costs a file's status each: no library, and it works on
every file system. What is saved in two steps is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.registry import Institution, Registry
from fhir_bridge.lines.rules import Rules
from fhir_bridge.normalize import files_of, layers_of
from fhir_bridge.telemetry import logger

_log = logger("rules")
_LOOK_S = 0.02
_SETTLE_S = 0.005
AUTHOR = "watch"

_State = tuple[tuple[str, int, int], ...]


class RuleWatch:
    """Looks at the folders that institutions were registered with."""

    def __init__(self, registry: Registry, rules: Rules) -> None:
        self._registry = registry
        self._rules = rules
        self._seen: dict[str, tuple[str, _State]] = {}
        self._task: asyncio.Task[None] | None = None
        self.failures: dict[str, str] = {}
        """What was wrong with the last save of an institution's pack; nothing for one that is in force."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look_forever(), name="watch-rules")

    async def stop(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _look_forever(self) -> None:
        while True:
            for known in list(self._registry.institutions.values()):
                try:
                    await self._look(known)
                except Exception as error:
                    _log.error("rules not watched", institution=known.name, code=type(error).__name__)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, known: Institution) -> None:
        name, directory = known.name, known.ruleset_dir
        state = await asyncio.to_thread(_state, Path(directory))
        seen = self._seen.get(name)
        if seen is None or seen[0] != directory:
            self._seen[name] = (directory, state)
            return
        if state == seen[1]:
            return
        await asyncio.sleep(_SETTLE_S)
        if await asyncio.to_thread(_state, Path(directory)) != state:
            return
        self._seen[name] = (directory, state)
        try:
            await self._rules.reload(name, directory, AUTHOR)
            self.failures.pop(name, None)
        except BridgeError as error:
            self.failures[name] = str(error)
            _log.error("rules as before", institution=known.name, code=error.code)


def _state(directory: Path) -> _State:
    """Return what shows that a pack was saved: name, time and size of each of its files."""
    try:
        folders = layers_of(directory)
        return tuple((str(p), (s := p.stat()).st_mtime_ns, s.st_size) for f in folders for p in files_of(f))
    except (BridgeError, OSError):
        # Half saved, or not a pack any more: told once it stays so.
        return tuple((str(p), 0, 0) for p in sorted(directory.glob("*.yaml")))
