"""What is said of somebody who is to act for a patient: name, public key, scope, period.

For the lines by which a patient names delegates and an institution attests
guardians; both read the same Parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.json import NotStrictJson, parse, render
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.model.clients import Jwk
from fhir_bridge.model.scopes import PATIENT_SCOPES, ScopeUnknown, is_within, parse_scopes

MANDATE_PARAMETERS: Final = frozenset({"name", "key", "scope", "from", "until"})

_YEAR_S: Final = 366 * 86_400
_SECRETS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class Mandate:
    """Who is to act, with which key, how far and from when to when; ``texts`` is how the notice tells it."""

    key: Jwk
    scopes: tuple[str, ...]
    period_s: tuple[int, int]
    texts: dict[str, str]


def read_mandate(
    given: Mapping[str, str], now: datetime, is_usable: Callable[[Jwk], bool], *, max_years: int
) -> Mandate:
    """Return the mandate that parameters state.

    Raises:
        RecordRefused: Name, key, scope or period are missing or cannot be.
    """
    require_given(given, MANDATE_PARAMETERS - {"from"})
    period = _period(given, int(now.timestamp()), max_years)
    key = _public_key(given["key"])
    if not is_usable(key):
        raise refused("key must be the JSON Web Key of a public signature key with a kid")
    name, scopes = given["name"].strip(), _scopes(given["scope"])
    if not 1 <= len(name) <= 200:
        raise refused("name must have 1 to 200 characters")
    texts = {"name": name, "scope": " ".join(scopes), "from": given.get("from", "now"), "until": given["until"]}
    return Mandate(key, scopes, period, texts)


def read_texts(body: bytes, known: frozenset[str]) -> dict[str, str]:
    """Return the ``valueString`` of each parameter of a body.

    Raises:
        RecordRefused: One that is not known, is given twice, or is no text.
    """
    listed = parse(body).get("parameter")
    given: dict[str, str] = {}
    for item in listed if isinstance(listed, list) else ():
        name: Any = item.get("name") if isinstance(item, dict) else None
        is_known = isinstance(name, str) and name in known and name not in given
        if not is_known or not isinstance(item.get("valueString"), str):
            raise refused(f"parameters are {', '.join(sorted(known))}, each once, as valueString")
        given[name] = item["valueString"]
    return given


def require_given(given: Mapping[str, str], names: frozenset[str]) -> None:
    """Raise RecordRefused unless all of ``names`` are given."""
    missing = sorted(names - given.keys())
    if missing:
        raise refused(f"missing: {', '.join(missing)}")


def told(**values: str) -> Reply:
    """Return texts as Parameters."""
    listed = [{"name": name, "valueString": value} for name, value in values.items()]
    return Reply(200, render({"resourceType": "Parameters", "parameter": listed}), NO_STORE)


def refused(problem: str) -> RecordRefused:
    """Return the refusal of a parameter."""
    return RecordRefused([Issue("error", "invalid", problem, "Parameters.parameter")])


def _period(given: Mapping[str, str], now_s: int, max_years: int) -> tuple[int, int]:
    first, last = interval(given["from"]) if "from" in given else (now_s * 1_000_000, 0), interval(given["until"])
    if first is None or last is None:
        raise refused("from and until must be dates")
    start, end = first[0] // 1_000_000, last[1] // 1_000_000
    if not max(start, now_s) < end <= now_s + max_years * _YEAR_S:
        raise refused(f"until must lie in the future, after from, within {max_years} years")
    return start, end


def _scopes(text: str) -> tuple[str, ...]:
    try:
        asked = parse_scopes(text)
    except ScopeUnknown as error:
        raise refused(str(error)) from error
    if not asked or not is_within(asked, parse_scopes(" ".join(PATIENT_SCOPES))):
        raise refused("scope must be within what a patient's agent may do")
    return tuple(text.split())


def _public_key(text: str) -> Jwk:
    try:
        key = parse(text.encode())
    except NotStrictJson as error:
        raise refused("key must be a JSON Web Key") from error
    if _SECRETS & key.keys():
        raise refused("key holds a private part, which is no longer secret now: make another one")
    return key
