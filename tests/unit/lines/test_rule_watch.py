"""A watched folder: whatever is saved in it comes into force, wherever it stands, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.rule_watch import RuleWatch
from fhir_bridge.normalize import load_ruleset
from tests.support.bridge_world import ROOT, fresh, running
from tests.support.packs import marking_pack

LIMIT_S = 60
STEP = "rule: marks/more\non: Observation\ndo:\n  - set: {path: method.text, value: '0'}\nwhy: tests\n"


def _same_size_and_time(pack: Path) -> None:
    """Another file under the old one's name, of its size and time: replaced as editors do it."""
    old = pack / "source.yaml"
    saved = old.stat()
    new = pack / "source.yaml~"
    new.write_text(old.read_text().replace("northgate", "southgate"))
    os.utime(new, ns=(saved.st_atime_ns, saved.st_mtime_ns + 1))
    new.replace(old)


def _nested(pack: Path) -> None:
    (pack / "labs").mkdir()
    (pack / "labs" / "more.yaml").write_text(STEP)


def _core_appears(pack: Path) -> None:
    (pack.parent / "core").mkdir()
    (pack.parent / "core" / "source.yaml").write_text("institution: core\n")


SAVES: list[Callable[[Path], object]] = [
    lambda pack: (pack / "first.yaml").write_text((pack / "first.yaml").read_text() + "# saved\n"),
    lambda pack: (pack / "new.yaml").write_text(STEP),
    lambda pack: (pack / "third.yaml").unlink(),
    _same_size_and_time,
    _nested,
    _core_appears,
]


@asynccontextmanager
async def watching(data: Path, pack: Path) -> AsyncIterator[tuple[RuleWatch, Registry]]:
    """A bridge with one hospital whose pack is watched."""
    async with running(fresh(data)) as world:
        given = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(pack)}
        assert (await world.control.post("/institutions", json=given)).status_code == 200
        registry = world.bridge.relabelling._registry
        watch = RuleWatch(registry, world.bridge.rules)
        watch.start()
        async with asyncio.timeout(LIMIT_S):
            # What it compares with: a save before is none.
            while "northgate" not in watch._seen:
                await asyncio.sleep(0.01)
        yield watch, registry


@pytest.mark.parametrize("save", SAVES)
async def test_a_save_of_any_kind_comes_into_force(tmp_path: Path, save: Callable[[Path], object]) -> None:
    pack = marking_pack(tmp_path / "packs" / "pack", "0", also="remove: {path: note}", when="note.exists()")
    (pack / "source.yaml").write_text("institution: northgate\nextends: core\n")
    async with watching(tmp_path, pack) as (watch, registry):
        before = registry.institutions["northgate"].ruleset
        save(pack)
        wanted = load_ruleset(pack).hash
        assert wanted != before
        deadline = time.monotonic() + LIMIT_S
        # Of a file that is emptied and written, what stands between the two steps may come into force first.
        while registry.institutions["northgate"].ruleset != wanted:
            assert time.monotonic() < deadline, watch.failures
            await asyncio.sleep(0.01)
        await watch.stop()


async def test_what_is_no_rule_and_what_is_half_a_pack_change_nothing(tmp_path: Path) -> None:
    pack = tmp_path / "packs" / "pack"
    shutil.copytree(ROOT / "mappings" / "northgate", pack)
    async with watching(tmp_path, pack) as (watch, registry):
        before = registry.institutions["northgate"].ruleset
        (pack / "README.md").write_text("notes")
        next((pack / "examples").glob("*.input.json")).touch()
        await asyncio.sleep(0.2)
        assert (registry.institutions["northgate"].ruleset, watch.failures) == (before, {})
        (pack / "source.yaml").unlink()
        deadline = time.monotonic() + LIMIT_S
        while not watch.failures:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await watch.stop()
        assert registry.institutions["northgate"].ruleset == before
