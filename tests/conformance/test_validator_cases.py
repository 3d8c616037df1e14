"""HL7's validator's test cases: the same verdict as ours on those about R4 alone, or a difference that is explained.

A verdict is whether anything of severity error or fatal is found. Needs ``make cases`` (a jar by Maven); what is
missing is a failure. Left out are cases of other releases, of XML, which ours does not read, and those that come with
packages, profiles or other resources to validate against.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.fhir.validate import is_refused, validate_r4

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests/peers/cases/differences.toml"
WHERE = "org/hl7/fhir/testcases/validator/"
COMES_WITH = ("packages", "package-map", "profiles", "supporting", "logical", "fetcher", "ips", "bundle-param")
SETTINGS = (
    *("examples", "security-checks", "noHtmlInMarkdown", "validateReference", "validateContains"),
    *("no-experimental-content", "for-publication"),
)
"""What the validator does not ask for by itself, switched on or off for a case."""
NOT_R4_ALONE = {"terminology", "profile"}
"""Classes of differences that need what R4's base definitions do not hold."""

pytestmark = pytest.mark.slow


@cache
def jar() -> ZipFile:
    found = sorted((ROOT / ".build/cases").glob("fhir-test-cases-*.jar"))
    assert found, "the validator's test cases are missing: make cases"
    return ZipFile(found[-1])


def explained() -> dict[str, str]:
    """Return the class of each difference in the table."""
    table = tomllib.loads(TABLE.read_text("utf-8"))
    return {name: kind for kind, rows in table.items() for name in rows}


@cache
def manifest() -> list[dict[str, Any]]:
    return list(json.loads(jar().read(WHERE + "manifest.json"))["test-cases"])


def cases() -> Iterator[tuple[str, bytes, bool]]:
    """Yield name, content and whether the validator refuses it."""
    for case in manifest():
        told = case.get("java", {}).get("outcome")
        about_r4 = str(case.get("version", "")).startswith("4.0") and case["file"].endswith(".json")
        alone = case.get("module") in (None, "general") and not any(case.get(name) for name in COMES_WITH)
        if about_r4 and alone and case.get("use-test") is not False and isinstance(told, dict):
            yield case["name"], jar().read(WHERE + case["file"]), has_error(told)


def has_error(outcome: dict[str, Any]) -> bool:
    """Tell whether an OperationOutcome refuses."""
    return any(issue["severity"] in ("error", "fatal") for issue in outcome.get("issue", []))


def _is_refused(content: bytes) -> bool:
    try:
        return is_refused(validate_r4(parse(content, max_depth=200, max_bytes=len(content) + 1)))
    except NotStrictJson:
        return True


def test_every_verdict_is_the_validators_or_a_difference_that_is_explained() -> None:
    known = explained()
    judged = list(cases())
    differ = {name for name, content, refused in judged if _is_refused(content) != refused}
    kinds = Counter(known[name] for name in differ if name in known)
    r4_alone = [name for name, *_ in judged if known.get(name) not in NOT_R4_ALONE]
    with_settings = {case["name"] for case in manifest() if any(name in case for name in SETTINGS)}
    for text, names in (
        ("of all", [name for name, *_ in judged]),
        ("that need no terminologies and no profiles", r4_alone),
        ("of these, as the validator is by itself", [name for name in r4_alone if name not in with_settings]),
    ):
        print(f"\n{sum(name not in differ for name in names)} of {len(names)} verdicts agree {text}", end="")
    print(f"; differences: {dict(kinds)}")
    assert {name for name, kind in known.items() if kind == "setting"} <= with_settings
    assert len(judged) > 140
    # Whoever took everything would agree on half of them.
    assert sum(refused for name, _, refused in judged if name not in differ) > 30
    assert differ == set(known), (differ - set(known), set(known) - differ)
