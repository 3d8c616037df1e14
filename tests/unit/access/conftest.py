"""The sign-in world as a fixture."""

from __future__ import annotations

import pytest

from tests.support.access_world import World


@pytest.fixture
def world() -> World:
    return World()
