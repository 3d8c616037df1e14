"""Log lines: every field from a closed list, no text but codes, a request's id, nothing of what libraries quote."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Request, Response

from fhir_bridge import telemetry
from tests.support.bridge_world import fresh, running

ROOT = Path(__file__).parents[3]
NUMBERS = {"port", "batch", "charts", "messages", "offset", "partition", "partitions", "times", "versions"}
TEXTS = {
    "code": {
        "error.code",
        "cut.code",
        "kind_of(error)",
        "told[topic]",
        "type(error).__name__",
        "getattr(error, 'code', type(error).__name__)",
    },
    "institution": {
        "self._institutions[partition.topic]",
        "self._institutions[topic]",
        "sealed.institution",
        "change.target.name",
        "institution.name",
        "known.name",
    },
    "task": {"name"},
    "bus": {"'kafka' if kafka else 'spool'"},
}
"""Every expression whose value a line may tell as text: codes, names of classes and of tasks."""
HEAD = {"at", "level", "part", "event", "request"}
CANARY = "Kanarienvogel"
_RAISE = f"""
import logging, warnings
from fhir_bridge import telemetry
telemetry.configure()
warnings.warn("{CANARY}")
try:
    {{}}["{CANARY}"]
except KeyError:
    logging.getLogger("uvicorn.error").exception("body was {CANARY}")
logging.getLogger("asyncio").error("never retrieved: %s", "{CANARY}")
telemetry.logger("ingest").error("commit failed", code="unavailable", messages=3)
"""


def _calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted((ROOT / "fhir_bridge").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            on = ast.unparse(node.func.value)
            if node.func.attr in ("info", "error") and (on == "_log" or on.startswith("telemetry.logger(")):
                yield f"{file.name}:{node.lineno}", node


def test_every_line_is_made_of_fixed_words_codes_and_numbers() -> None:
    calls = list(_calls())
    assert len(calls) > 20
    for place, call in calls:
        (event,) = call.args
        words = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
        assert all(isinstance(each, ast.Constant) for each in words), place
        for field in call.keywords:
            assert field.arg in NUMBERS | set(TEXTS), place
            if field.arg in TEXTS:
                assert ast.unparse(field.value) in TEXTS[field.arg], place


def test_the_type_of_fields_is_that_list() -> None:
    declared = {name: str(kind) for name, kind in telemetry.Fields.__annotations__.items()}
    assert {name for name, kind in declared.items() if "'int'" in kind} == NUMBERS
    assert {name for name, kind in declared.items() if "'str'" in kind} == set(TEXTS)


def test_what_a_library_logs_is_told_by_its_kind_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _RAISE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert CANARY not in done.stderr + done.stdout
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(each["part"], each["event"], each["code"]) for each in lines] == [
        ("py.warnings", "library", "WARNING"),
        ("uvicorn.error", "library", "KeyError"),
        ("asyncio", "library", "ERROR"),
        ("ingest", "commit failed", "unavailable"),
    ]
    assert all(set(each) <= HEAD | NUMBERS | set(TEXTS) for each in lines)


async def test_a_line_names_the_request_that_its_answer_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_handlers: None
) -> None:
    async with running(fresh(tmp_path)) as world:
        app = world.bridge.http

        def failing(_: Request) -> Response:
            telemetry.logger("http").error("unexpected error", code="x")
            return Response("done")

        telemetry.configure()
        app.router.add_route("/fhir/probe", failing)
        app.router.routes.insert(0, app.router.routes.pop())
        answer = await world.http.get("/fhir/probe")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [each for each in lines if each["event"] == "unexpected error"]
    assert line["request"] == answer.headers["x-request-id"]


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Put back what :func:`telemetry.configure` changes for the whole process."""
    loggers = [logging.getLogger(), logging.getLogger("fhir_bridge")]
    before = [(each, each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)
