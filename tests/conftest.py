"""What holds for all tests: no deadlines, a collector with little to walk through, and who runs beside whom.

``make check`` runs what is quick, ``make test`` then the rest in several processes at once (pytest-xdist, ``--dist
loadscope``). There a module's tests stay in one process, for most of them share a service, a broker or a server that
takes long to start; tests of the folders in ``SCATTERED`` share nothing dear and go wherever there is room. What may
take longest begins first, and single tests fill the rest, else all would wait for one process at the end.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # xdist comes without types

QUICK = ("tests/unit/", "tests/contract/")
"""Folders of which ``make check`` runs what is not marked as slow."""
SCATTERED = (*QUICK, "tests/leak/", "tests/fault/ledger/")

# From here on: the collector would walk again and again through modules and tests that are only being loaded.
gc.set_threshold(50_000, 20, 50)

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


class ByModule(LoadScopeScheduling):  # type: ignore[misc]  # xdist comes without types
    """Gives each process whole modules, and of some folders single tests."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(SCATTERED) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule | None:
    """Distribute by module where xdist is asked to."""
    return ByModule(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is quick before pytest selects by marks; in a process of several, put the longest modules first.

    How long a module may take says its longest limit of time. pytest-randomly has shuffled the tests by now, and each
    module keeps its order.
    """
    for item in items:
        if item.nodeid.startswith(QUICK) and item.get_closest_marker("slow") is None:
            item.add_marker("quick")
    if hasattr(config, "workerinput"):
        longest = {item.path: 0.0 for item in items}
        for item in items:
            longest[item.path] = max(longest[item.path], _limit_s(item))
        items.sort(key=lambda item: (item.nodeid.startswith(SCATTERED), -longest[item.path]))


def pytest_collection_finish() -> None:
    """Spare the collector what lives to the end: modules, and what they have read."""
    _spare_the_collector()


@pytest.fixture(autouse=True, scope="module")
def _collected_by_module() -> Iterator[None]:
    """Collect what a module's tests leave behind while they are the ones to blame, and spare what stays."""
    yield
    _spare_the_collector()


def _spare_the_collector() -> None:
    gc.collect()
    gc.freeze()


def _limit_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None else 0.0
