"""One real server for the whole folder; tests that hurt a server start their own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer, find_postgres

_names = count()


def _programs() -> Path:
    programs = find_postgres()
    assert programs is not None, "PostgreSQL is missing: apt-get install postgresql"
    return programs


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    started = PostgresServer(_programs()).start()
    yield started
    # Not stopped: its last checkpoint would sync the files of a hundred databases, for a minute and more.
    started.kill()
    started.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    started = PostgresServer(_programs()).start()
    yield started
    started.kill()
    started.remove()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """An empty database of one's own."""
    return server.make(f"vault{next(_names)}")
