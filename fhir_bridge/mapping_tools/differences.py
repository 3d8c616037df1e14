"""What two versions of a pack make of one sample, compared record by record and counted.

Cost: intake once, both rulesets on every record. Kept are counts and a few examples for each kind of difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fhir_bridge.fhir.json import render
from fhir_bridge.mapping_tools.reading import RuleText, core_of, read_pack
from fhir_bridge.mapping_tools.sample import PASSED, Message, Outcome, outcomes_of, taken
from fhir_bridge.normalize import load_ruleset

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
_MAX_KINDS = 5_000
_CODE = re.compile(r"[\w.:/+*^-]{0,40}")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Example:
    """One record in which a difference shows; values are JSON texts."""

    record: str
    place: str
    before: str
    after: str


@dataclass(slots=True)
class Difference:
    """One element path of which records come out otherwise.

    Attributes:
        how: ``added``, ``removed`` or ``changed``.
        code: What the record is about (its first coding), where that tells more than the path.
        rule: Of the new version that wrote or removed it, else of the old one; empty for none.
    """

    path: str
    how: str
    code: str
    rule: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """Two versions of a pack over one sample.

    Attributes:
        rules: (what happened to it, rule) for every rule that is not the same.
        verdicts: (before, after, why) → records that now pass or no longer do.
    """

    records: int = 0
    differing: int = 0
    rules: list[tuple[str, str]] = field(default_factory=list)
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    verdict_examples: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)
    flags: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: dict[tuple[str, str, str, str], Difference] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """True when no record comes out otherwise, whatever became of the rules."""
        return not self.differing

    def by_volume(self) -> list[Difference]:
        """The differences, the most frequent first."""
        return sorted(self.differences.values(), key=lambda d: (-d.count, d.path, d.code, d.how))


def compare(
    old: Path,
    new: Path,
    messages: Iterable[Message],
    *,
    examples: int = 3,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Put a sample through two packs and count what comes out otherwise.

    Args:
        examples: How many records to name for each difference.

    Raises:
        RulesetBroken: One of the packs does not load.
    """
    before, after = load_ruleset(old), load_ruleset(new)
    found = Comparison(rules=list(_rules(old, new)))
    is_judged_alike = (
        before.fhir_version is after.fhir_version
        and before.profiles is after.profiles is None
        and not (before.formats or after.formats)
    )
    for message in messages:
        count = found.records
        first = taken(message, before)
        second = first if is_judged_alike else taken(message, after)
        pairs = zip_longest(outcomes_of(message, first, before), outcomes_of(message, second, after))
        for one, other in pairs:
            found.records += 1
            _compare(found, one, other, examples)
        progress(found.records - count)
    return found


def _rules(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Which rules are new, gone or written otherwise."""
    before, after = _texts(old), _texts(new)
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield ADDED, name
        elif name not in after:
            yield REMOVED, name
        elif before[name] != after[name]:
            yield CHANGED, name


def _texts(folder: Path) -> Mapping[str, bytes]:
    read = read_pack(folder, folder.name)
    core = core_of(read)
    rules: list[RuleText] = [*(core.rules if core else ()), *read.rules]
    return {rule.name: render(rule.node.plain()) for rule in rules}


def _compare(found: Comparison, one: Outcome | None, other: Outcome | None, examples: int) -> None:
    if one is None or other is None or one.verdict != other.verdict:
        found.differing += 1
        _count_verdict(found, one, other, examples)
        return
    if one.verdict != PASSED or one.made is None or other.made is None:
        return
    codes = Counter((f.code, f.diagnostics) for f in other.flags)
    codes.subtract(Counter((f.code, f.diagnostics) for f in one.flags))
    is_different = False
    for key, count in codes.items():
        found.flags[key] += count
        is_different = is_different or count != 0
    if one.made != other.made or render(one.made) != render(other.made):
        is_different = True
        _count_values(found, one, other, examples)
    found.differing += is_different


def _count_verdict(found: Comparison, one: Outcome | None, other: Outcome | None, examples: int) -> None:
    before, after = (one.verdict if one else "absent"), (other.verdict if other else "absent")
    issues = (other.issues if other and other.issues else one.issues if one else ()) or ()
    key = (before, after, issues[0].diagnostics if issues else "")
    found.verdicts[key] += 1
    named = found.verdict_examples.setdefault(key, [])
    if len(named) < examples:
        named.append((other or one).name)  # type: ignore[union-attr]  # one of both is there


def _count_values(found: Comparison, one: Outcome, other: Outcome, examples: int) -> None:
    about = _about(one.sent or {})
    name = str((other.made or {}).get("resourceType", ""))
    for place, was, now in _differing(one.made, other.made, name):
        how = ADDED if was is None else REMOVED if now is None else CHANGED
        rule = _rule_behind(place, other) or _rule_behind(place, one)
        key = (_INDEX.sub("", place), how, about, rule)
        difference = found.differences.get(key)
        if difference is None:
            if len(found.differences) >= _MAX_KINDS:
                continue
            difference = found.differences[key] = Difference(*key)
        difference.count += 1
        if len(difference.examples) < examples:
            difference.examples.append(Example(one.name, place, was or "", now or ""))


Differing = Iterator[tuple[str, str | None, str | None]]
"""Place and both values as JSON texts, None where there is none."""


def _differing(was: Any, now: Any, place: str) -> Differing:
    if type(was) is dict and type(now) is dict:
        for key in dict.fromkeys([*now, *was]):
            yield from _differing(was.get(key), now.get(key), f"{place}.{key}")
    elif type(was) is list and type(now) is list:
        yield from _lists(was, now, place)
    elif was is None or now is None:
        for at, text in _texts_below(now if was is None else was, place):
            yield (at, None, text) if was is None else (at, text, None)
    elif _text(was) != _text(now):
        yield place, _text(was), _text(now)


def _lists(was: Sequence[Any], now: Sequence[Any], place: str) -> Differing:
    """Members that both have are matched first, so that one more at the front is one more and not all others."""
    matcher = SequenceMatcher(None, [_text(each) for each in was], [_text(each) for each in now], autojunk=False)
    for tag, low, high, start, end in matcher.get_opcodes():
        if tag != "equal":
            for offset in range(max(high - low, end - start)):
                before = was[low + offset] if low + offset < high else None
                after = now[start + offset] if start + offset < end else None
                yield from _differing(before, after, f"{place}[{(start if after is not None else low) + offset}]")


def _texts_below(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if type(value) is dict:
        for key, each in value.items():
            yield from _texts_below(each, f"{place}.{key}")
    elif type(value) is list:
        for index, each in enumerate(value):
            yield from _texts_below(each, f"{place}[{index}]")
    elif value is not None:
        yield place, _text(value)


def _about(body: Mapping[str, Any]) -> str:
    """The first code of a record as the sender wrote it: ``system|code``; a text in its place is a person's value."""
    code = body.get("code")
    codings = code.get("coding") if type(code) is dict else None
    first = codings[0] if type(codings) is list and codings else None
    if type(first) is not dict:
        return ""
    written = str(first.get("code", ""))
    return f"{first.get('system', '')}|{written if _CODE.fullmatch(written) else '(a text)'}"


def _rule_behind(place: str, outcome: Outcome) -> str:
    """The last rule that changed the element or what holds it."""
    for change in reversed(outcome.changes):
        if place == change.element or place.startswith((change.element + ".", change.element + "[")):
            return change.rule
    return ""


def _text(value: Any) -> str:
    return render(value).decode()


def as_json(found: Comparison, *, show_values: bool) -> dict[str, Any]:
    """The comparison as one JSON document; values of records only if asked for."""
    return {
        "records": found.records,
        "differing": found.differing,
        "rules": [{"rule": name, "how": how} for how, name in found.rules],
        "verdicts": [
            {
                "before": before,
                "after": after,
                "why": why,
                "count": count,
                "records": found.verdict_examples[before, after, why],
            }
            for (before, after, why), count in found.verdicts.most_common()
        ],
        "flags": [
            {"code": code, "words": words, "difference": count}
            for (code, words), count in sorted(found.flags.items())
            if count
        ],
        "elements": [
            {
                "path": d.path,
                "how": d.how,
                "code": d.code,
                "rule": d.rule,
                "count": d.count,
                "examples": [_example(each, show_values) for each in d.examples],
            }
            for d in found.by_volume()
        ],
    }


def _example(example: Example, show_values: bool) -> dict[str, str]:
    named = {"record": example.record, "place": example.place}
    return named | ({"before": example.before, "after": example.after} if show_values else {})
