"""A withdrawal between every two steps of an answer, and an answer between every two steps of a withdrawal.

Chance finds the interleavings that are likely; these are all that one change
and one answer have on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.races.scene import CLOSED, EVERYTHING, OPEN, READ, SEARCH, Question, Scene, State, staged
from tests.support import interleaving
from tests.support.bridge_world import Json, World, bundle, fresh, observation, patient, running

_MOST = 200
"""An answer has some thirty stretches; one that had so many would never end."""
_SHARED = frozenset({"ChartBook._load"})
"""Readers and writers wait for the same load of a chart."""
_BOUND = 1_000
"""Index rows held in memory at the most: the least that the setting takes."""
_OTHER: dict[State, State] = {OPEN: CLOSED, CLOSED: OPEN}


async def _across(
    scene: Scene, question: Question, first: State, cooled: Callable[[], Awaitable[object]] | None = None
) -> list[frozenset[str]]:
    """Return what is answered when the state changes from ``first`` before each stretch of the answer in turn."""
    told: list[frozenset[str]] = []
    for at in range(_MOST):
        await scene.set(first)
        if cooled is not None:
            await cooled()
        script = interleaving.Script(lambda: scene.set(_OTHER[first]), at, _SHARED)
        told.append(await interleaving.run(scene.ask(question), script))
        if script.runs == 0:
            return told[:-1]
        # What is asked once the change has returned: the promise itself.
        assert await scene.ask(question) == {_OTHER[first]}, f"stale after the change: {question.path}, stretch {at}"
    raise AssertionError("the answer has no end")


def _is_one_switch(told: list[frozenset[str]], first: State) -> bool:
    """Tell whether changes before some stretch show and those after it do not, and no answer is a mixture."""
    after, before = frozenset({_OTHER[first]}), frozenset({first})
    shows = [each == after for each in told]
    return all(each in (after, before) for each in told) and shows == sorted(shows, reverse=True)


@pytest.mark.slow
async def test_a_withdrawal_between_any_two_steps_of_an_answer_shows_whole_or_not_at_all(world: World) -> None:
    scene = await staged(world, 0)
    for question in scene.questions:
        told = await _across(scene, question, OPEN)
        assert len(told) > 1, "an answer waits for the access log at least"
        assert _is_one_switch(told, OPEN), f"{question.path}: {told}"
        assert told[0] == {CLOSED}
        # What the patient's agent is told is worked out after its question has been recorded.
        assert question.asker == "agent" or told[-1] == {OPEN}


@pytest.mark.slow
async def test_so_does_a_grant(world: World) -> None:
    scene = await staged(world, 0)
    for question in scene.some(READ, SEARCH, EVERYTHING):
        told = await _across(scene, question, CLOSED)
        assert _is_one_switch(told, CLOSED), f"{question.path}: {told}"
        assert told[0] == {OPEN}
        assert told[-1] == {CLOSED}


@pytest.mark.slow
async def test_so_it_is_when_the_charts_have_to_be_read_from_the_vault_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large chart is read before each question and drops the others, so that an answer waits before it decides."""
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_INDEX_MAX_ROWS", str(_BOUND))
    async with running(fresh(tmp_path)) as world:
        scene = await staged(world, 0)
        await world.send(bundle(*_large("large", _BOUND + 1)))
        large = f"/fhir/Observation?patient={await world.patient_id('large')}&_summary=count"

        async def cooled() -> None:
            answer = await world.http.get(large, headers=scene.clinician)
            assert answer.json()["total"] == _BOUND + 1

        for question in scene.some(READ, EVERYTHING):
            warm = len(await _across(scene, question, OPEN))
            told = await _across(scene, question, OPEN, cooled)
            assert len(told) > warm, "then no chart had to be read"
            assert _is_one_switch(told, OPEN), f"{question.path}: {told}"


def _large(local: str, count: int) -> Iterator[tuple[str, str, Json]]:
    yield "PUT", f"Patient/{local}", patient(local)
    for number in range(count):
        made = observation(f"{local}-{number}", local)
        yield "PUT", f"Observation/{made['id']}", made


@pytest.mark.slow
@pytest.mark.parametrize("first", [OPEN, CLOSED])
async def test_answers_between_any_two_steps_of_a_change_switch_once_for_all_charts(
    world: World, first: State
) -> None:
    """The charts of three hospitals change together: no answer has one hospital's records without the other's."""
    scene = await staged(world, 0)
    for question in scene.some(READ, SEARCH, EVERYTHING):
        await scene.set(first)
        told = await _during(scene, question, _OTHER[first])
        assert len(told) > 5
        switched = [each == {_OTHER[first]} for each in told]
        assert all(each in ({OPEN}, {CLOSED}) for each in told), f"{question.path}: {told}"
        assert switched == sorted(switched), f"{question.path}: {told}"
        assert await scene.ask(question) == {_OTHER[first]}


async def _during(scene: Scene, question: Question, state: State) -> list[frozenset[str]]:
    """Return what is answered before each stretch of a change to ``state``."""
    told: list[frozenset[str]] = []

    async def note() -> None:
        told.append(await scene.ask(question))

    await interleaving.run(scene.set(state), interleaving.Script(note, apart=_SHARED))
    return told
