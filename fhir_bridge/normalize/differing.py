"""Compare what two rulesets make of one message, without a word of what the message says.

For trials beside live traffic. A difference is named by the rule behind it, the element's path without its indexes,
and the code of what the record is about; never by a value.

Invariants:
    * nothing that could be about a person comes out: paths, names of rules, codes of records and of issues, counts;
    * what comes out is bounded, whatever is compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.model.ingest import Normalized, Processed, Quarantined

_INDEX = re.compile(r"\[\d+\]")
_MAX_CODE = 80
_MAX_KINDS = 200
"""So many kinds of difference of one message are told apart."""
_REST = "others"


class Difference(NamedTuple):
    """A kind of difference: ``what`` happened, by which rule, at which element, of records of which code.

    ``what`` is ``changed``, or what becomes of the record under the candidate: ``quarantined``, ``refused``,
    ``taken``.
    """

    what: str
    rule: str = ""
    path: str = ""
    code: str = ""


def differences(now: Processed, then: Processed) -> Counter[Difference]:
    """Return how often what the candidate makes (``then``) differs from what the rules in force make (``now``)."""
    found: Counter[Difference] = Counter()
    if now.refused or then.refused:
        if bool(now.refused) != bool(then.refused):
            what, issues = ("refused", then.refused) if then.refused else ("taken", now.refused)
            found[Difference(what, "", issues[0].expression and _plain(issues[0].expression), issues[0].code)] += 1
        return found
    before, after = _entries(now), _entries(then)
    for index in sorted(before.keys() | after.keys()):
        for each in _entry(before.get(index), after.get(index)):
            if each in found or len(found) < _MAX_KINDS:
                found[each] += 1
            else:
                found[Difference("changed", "", _REST)] += 1
    return found


def worse(now: Processed, then: Processed) -> tuple[int, int]:
    """Return how many entries there are, and how many of them only the rules in force take."""
    taken = _taken(now)
    return max(1, len(_entries(now))), len(taken - _taken(then))


_Entry = Normalized | Quarantined | str


def _entries(processed: Processed) -> dict[int, _Entry]:
    found: dict[int, _Entry] = {each.index: each for each in processed.records}
    found |= {each.index: each for each in processed.quarantined}
    return found | {each.index: each.issues[0].code for each in processed.refusals}


def _taken(processed: Processed) -> set[int]:
    return set() if processed.refused else {each.index for each in processed.records}


def _entry(now: _Entry | None, then: _Entry | None) -> Iterator[Difference]:
    if isinstance(now, Normalized) and isinstance(then, Normalized):
        yield from _records(now, then)
    elif isinstance(then, Normalized):
        yield Difference("taken", "", then.type, _code(then))
    elif type(now) is not type(then):
        what = "refused" if isinstance(then, str) else "quarantined"
        issue = then.issues[0].code if isinstance(then, Quarantined) and then.issues else str(then or "")
        yield Difference(what, "", now.type if isinstance(now, Normalized) else "", issue)


def _records(now: Normalized, then: Normalized) -> Iterator[Difference]:
    if now.content == then.content:
        return
    code = _code(then)
    rules = [*_rules(then), *_rules(now)]
    paths = {_plain(path) for path in _paths(_body(now), _body(then), then.type)}
    for path in sorted(paths):
        yield Difference("changed", _rule(path, rules), path, code)


def _body(record: Normalized) -> Any:
    return parse(record.content) if record.content else None


def _paths(now: Any, then: Any, place: str) -> Iterator[str]:
    """Yield the path of every leaf that differs; numbers are compared by their text."""
    if type(now) is dict and type(then) is dict:
        for key in now.keys() | then.keys():
            yield from _paths(now.get(key), then.get(key), f"{place}.{key}")
    elif type(now) is list and type(then) is list:
        for index in range(max(len(now), len(then))):
            yield from _paths(_at(now, index), _at(then, index), place)
    elif render(now) != render(then):
        yield place


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _rules(record: Normalized) -> list[tuple[str, str]]:
    """Return path and rule of what was changed in a record, the last change first."""
    changes: list[Mapping[str, Any]] = parse_any(record.lineage) if record.lineage else []
    return [(_plain(str(change["element"])), str(change["rule"])) for change in reversed(changes)]


def _rule(path: str, rules: list[tuple[str, str]]) -> str:
    for element, rule in rules:
        if path == element or path.startswith(element + ".") or element.startswith(path + "."):
            return rule
    return ""


def _plain(path: str) -> str:
    return _INDEX.sub("", path)


def _code(record: Normalized) -> str:
    return record.row.codes[0][:_MAX_CODE] if record.row.codes else ""
