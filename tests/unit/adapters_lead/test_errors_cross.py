"""Every deliberate error crosses from a worker as it was raised."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fhir_bridge
from fhir_bridge.adapters.workers import WorkerRooms
from fhir_bridge.errors import BridgeError, Issue, RulesetBroken
from fhir_bridge.intake import Limits
from fhir_bridge.normalize.yaml_text import Spot
from tests.unit.adapters_lead.test_worker_rooms import GOOD, SOURCE, _received

SAMPLES: dict[str, Any] = {
    "issues": [Issue("error", "invalid", "what is wrong", "Patient.name")],
    "spot": Spot("source.yaml", 3, 7),
    "limit": 5,
    "retry_after_s": 9,
    "offset": 11,
}


def kinds(base: type[BridgeError] = BridgeError) -> Iterator[type[BridgeError]]:
    """Yield every error that there is."""
    yield base
    for each in base.__subclasses__():
        yield from kinds(each)


def everything() -> list[type[BridgeError]]:
    for module in pkgutil.walk_packages(fhir_bridge.__path__, "fhir_bridge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return sorted(
        {kind for kind in kinds() if kind.__module__.startswith("fhir_bridge.")}, key=lambda kind: kind.__name__
    )


def sample(kind: type[BridgeError]) -> BridgeError:
    made = next(each for each in kind.__mro__ if "__init__" in vars(each))
    if made is BaseException or not issubclass(made, BridgeError):
        return kind("a message")
    return kind(**{name: SAMPLES.get(name, "a text") for name in inspect.signature(made).parameters})


@pytest.mark.parametrize("kind", everything(), ids=lambda kind: kind.__name__)
def test_an_error_comes_as_it_went(kind: type[BridgeError]) -> None:
    went = sample(kind)
    came = pickle.loads(pickle.dumps(went))
    assert type(came) is kind
    assert (str(came), came.args, vars(came)) == (str(went), went.args, vars(went))
    assert str(came)


async def test_a_pack_that_does_not_load_is_told_with_its_place(tmp_path: Path) -> None:
    rooms = WorkerRooms(1, Limits())
    try:
        with pytest.raises(RulesetBroken, match=r"source\.yaml"):
            await rooms.process(_received(GOOD), replace(SOURCE, ruleset_dir=str(tmp_path)))
    finally:
        await rooms.close()
