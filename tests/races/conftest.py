"""A world for races."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bridge_world import World, fresh, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as opened:
        yield opened
