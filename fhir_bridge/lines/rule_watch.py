"""Put a pack in force whenever it is saved: for the machine of an engineer who tries rules on live messages.

The folders are looked at a hundred times a second, which costs the status of each of their files and folders: no
library, and it works on every file system. What is saved in two steps is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fhir_bridge.errors import BridgeError
from fhir_bridge.lines.registry import Institution, Registry
from fhir_bridge.lines.rules import Rules
from fhir_bridge.normalize import files_of, layers_of
from fhir_bridge.telemetry import logger

_log = logger("rules")
_LOOK_S = 0.01
_SETTLE_S = 0.005
AUTHOR = "watch"

_Stamps = tuple[tuple[int, int], ...]
_NOTHING = (0, 0)


@dataclass(frozen=True, slots=True)
class _Look:
    """What there was to see of a pack.

    Attributes:
        state: Name, time and size of each file that can change a record: what shows that the pack was saved.
        places: Those files, and the folders that they could come and go in.
        stamps: Time and size of each place, taken before ``state``: while they stay, so does the state.
    """

    directory: str
    state: tuple[tuple[str, int, int], ...]
    places: tuple[str, ...]
    stamps: _Stamps


class RuleWatch:
    """Looks at the folders that institutions were registered with."""

    def __init__(self, registry: Registry, rules: Rules) -> None:
        self._registry = registry
        self._rules = rules
        self._seen: dict[str, _Look] = {}
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
            for known in await asyncio.to_thread(self._stirred, list(self._registry.institutions.values())):
                try:
                    await self._look(known)
                except Exception as error:
                    _log.error("rules not watched", institution=known.name, code=type(error).__name__)
            await asyncio.sleep(_LOOK_S)

    def _stirred(self, institutions: list[Institution]) -> list[Institution]:
        """Return those whose folders show any change at all, or have not been looked at."""
        found = []
        for known in institutions:
            seen = self._seen.get(known.name)
            if seen is None or seen.directory != known.ruleset_dir or _stamps(seen.places) != seen.stamps:
                found.append(known)
        return found

    async def _look(self, known: Institution) -> None:
        name, directory = known.name, known.ruleset_dir
        look = await asyncio.to_thread(_look_at, directory)
        seen = self._seen.get(name)
        if seen is None or seen.directory != directory or seen.state == look.state:
            self._seen[name] = look
            return
        await asyncio.sleep(_SETTLE_S)
        if await asyncio.to_thread(_stamps, look.places) != look.stamps:
            return
        self._seen[name] = look
        try:
            await self._rules.reload(name, directory, AUTHOR)
            self.failures.pop(name, None)
        except BridgeError as error:
            self.failures[name] = str(error)
            _log.error("rules as before", institution=known.name, code=error.code)


def _look_at(directory: str) -> _Look:
    folder = Path(directory)
    try:
        layers = layers_of(folder)
        files = [path for layer in layers for path in files_of(layer)]
    except (BridgeError, OSError):
        # Half saved, or not a pack any more: told once it stays so.
        layers, files = [folder], sorted(folder.glob("*.yaml"))
    folders = {folder.parent, *(below for layer in layers for below in (layer, *_folders(layer)))}
    places = (*map(str, files), *sorted(map(str, folders)))
    stamps = _stamps(places)
    now = _stamps(map(str, files))
    return _Look(directory, tuple((str(p), *stamp) for p, stamp in zip(files, now, strict=True)), places, stamps)


def _folders(layer: Path) -> list[Path]:
    return [path for path in layer.rglob("*") if path.is_dir()]


def _stamps(places: Iterable[str]) -> _Stamps:
    return tuple(map(_stamp, places))


def _stamp(place: str) -> tuple[int, int]:
    try:
        found = os.stat(place)
    except OSError:
        return _NOTHING
    return found.st_mtime_ns, found.st_size
