"""How fast FHIRPath runs: ours beside two libraries, one after the other in the same process, on one core.

``fhirpathpy`` compiles an expression once, as ours does. ``fhirpathrs`` (Rust) has no such thing and reads it anew
each time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median
from typing import Any

import fhirpathrs
from fhirpathpy import compile as compile_with_library
from fhirpathpy.models import models

from fhir_bridge.fhir.fhirpath import compile_expression
from fhir_bridge.fhir.tables import r4
from tests.bench.feeding import Figures
from tests.support.fhirpath_suite import cases, resource

AIMS = {"fhirpath.birthDate": "300,000 or more", "fhirpath.Patient.name.given": "300,000 or more"}

_SIMPLE = (
    "birthDate",
    "Patient.name.given",
    "name.where(use = 'official').given",
    "name.where(given = 'Jim').exists()",
    "name.select(given | family).count()",
    "birthDate < @1980",
)
_PATIENT = "patient-example.xml"
_NOW = datetime(2026, 11, 29, tzinfo=UTC)
Ask = Callable[[], object]


def fhirpath(rounds: int) -> dict[str, Figures]:
    """Return evaluations a second: of simple paths over one Patient, and of the official suite's expressions.

    Of the suite, those are asked that every engine here answers; each once a round.
    """
    engines = {"ours": _ours, "fhirpathpy": _library, "fhirpathrs": _rust}
    figures: Figures = {}
    for text in _SIMPLE:
        tried = {name: _tried(engine, text, _PATIENT) for name, engine in engines.items()}
        figures[text] = _told(_rates({name: ask for name, ask in tried.items() if ask is not None}, rounds))
    # A library's trace() prints.
    asked = [case for case in cases() if case.invalid is None and "trace(" not in case.expression]
    suites = {n: [_tried(engine, c.expression, c.input) for c in asked] for n, engine in engines.items()}
    answered = [at for at in range(len(asked)) if all(found[at] is not None for found in suites.values())]
    whole = {name: _all_of([found[at] for at in answered]) for name, found in suites.items()}
    rates = _rates(whole, rounds)
    figures[f"suite ({len(answered)} expressions)"] = _told({k: rate * len(answered) for k, rate in rates.items()})
    return {"fhirpath": figures}


def _ours(text: str, name: str) -> Ask:
    body = resource(name)
    expression = compile_expression(text, body["resourceType"], r4(), with_clock=True)
    return lambda: expression.select(body, now=_NOW)


def _library(text: str, name: str) -> Ask:
    body = _plain(name)
    compiled = compile_with_library(text, models["r4"])
    return lambda: compiled(body, {"resource": body})


def _rust(text: str, name: str) -> Ask:
    body = _plain(name)
    return lambda: fhirpathrs.evaluate(text, body)


def _plain(name: str) -> Any:
    """The input with numbers as other libraries read them."""
    return json.loads(json.dumps(resource(name), default=lambda number: float(Decimal(number))))


def _tried(engine: Callable[[str, str], Ask], text: str, name: str) -> Ask | None:
    """The question, or None where the engine cannot answer it, whatever it raises then."""
    try:
        ask = engine(text, name)
        ask()
    except Exception:
        return None
    return ask


def _all_of(asks: list[Ask | None]) -> Ask:
    every = [ask for ask in asks if ask is not None]

    def ask() -> None:
        for each in every:
            each()

    return ask


def _rates(asks: Mapping[str, Ask], rounds: int) -> dict[str, float]:
    """Middle rate of each engine; they take turns, so that a slow moment of the machine meets all."""
    times = {name: _times_in(ask, 0.1) for name, ask in asks.items()}
    found: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(rounds):
        for name, ask in asks.items():
            begun = time.process_time()
            for _ in range(times[name]):
                ask()
            found[name].append(times[name] / (time.process_time() - begun))
    return {name: median(rates) for name, rates in found.items()}


def _times_in(ask: Ask, seconds: float) -> int:
    times = 1
    while True:
        begun = time.process_time()
        for _ in range(times):
            ask()
        spent = time.process_time() - begun
        if spent > seconds / 4:
            return max(1, round(times * seconds / spent))
        times *= 4


def _told(rates: Mapping[str, float]) -> str:
    ours = rates["ours"]
    beside = "".join(f", {name} {rate:,.0f} (x{ours / rate:.0f})" for name, rate in rates.items() if name != "ours")
    return f"{ours:,.0f}/s{beside}"
