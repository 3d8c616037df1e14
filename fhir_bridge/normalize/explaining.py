"""Say of every value of a record where it comes from: the bytes that were sent, the rules in order, the value.

Pure, and made for two readers: an institution's own engineer who asks why, and somebody who distrusts us, holds
original, lineage and record, and has them checked against the ledger by a receipt.

Invariants:
    * a value is said to be untouched or moved only if the bytes of its span decode to it, numbers to their very text;
    * where the lineage does not give the record, that is said, of the whole and of every value it concerns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.fhir.spans import Span, all_spans, resource_steps, steps_of
from fhir_bridge.model.ingest import Body, Change
from fhir_bridge.normalize.labelling import RULE as SENSITIVITY
from fhir_bridge.normalize.links import DISPLAY, REFERENCES
from fhir_bridge.normalize.originals import fhir_in, reread
from fhir_bridge.normalize.origins import Leaf, Traced, leaves, planted, trace
from fhir_bridge.normalize.pack import Ruleset
from fhir_bridge.normalize.stamping import ID, STAMP
from fhir_bridge.ports.formats import Drawn, SourceFormat

_HOUSE = frozenset({ID.rule, STAMP.rule, REFERENCES.rule, DISPLAY.rule})
_STAMPED = ("meta.versionId", "meta.lastUpdated")
_READING = Change("", None, None, "csv", "read of a row as the pack's source.yaml describes the file")
_STAMPING = Change("", None, None, STAMP.rule, "version and time are given when a record is stored")


RulePlaces = Mapping[str, Mapping[str, Any]]
"""Rule → version and place in the pack, of the very ruleset that made a record."""


class Kind(StrEnum):
    """How a value came to stand where it stands."""

    UNTOUCHED = "untouched"
    MOVED = "moved"
    CONVERTED = "converted"
    MADE = "made"
    HOUSE = "house"
    REMOVED = "removed"
    UNTOLD = "untold"


MEANS = {
    Kind.UNTOUCHED: "as it was sent, where it was sent",
    Kind.MOVED: "as it was sent, from another place",
    Kind.CONVERTED: "turned by a rule into another value",
    Kind.MADE: "put there by a rule",
    Kind.HOUSE: "given by fhir-bridge itself, whatever the rules say",
    Kind.REMOVED: "sent, and taken out",
    Kind.UNTOLD: "not accounted for by the lineage",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of one value.

    Attributes:
        place: Where it stands in the record; of what was removed, where it was sent.
        text: The value as JSON; what was removed as it was sent.
        source: The element that it comes from, as lineage writes it; None if no element gave it.
        span: The bytes of that element in the original.
        sent: Those bytes.
        part: What of an original that is no FHIR it was read of, in the sender's words: ``column 'Wert'``.
        changes: What was done to it, in order.
    """

    place: str
    kind: Kind
    text: str
    source: str | None
    span: Span | None
    sent: str | None
    changes: tuple[Change, ...]
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Statements about the values asked for; ``accounts`` says that the whole lineage gives the whole record."""

    statements: tuple[Statement, ...]
    accounts: bool


def read_lineage(lineage: bytes) -> list[Change]:
    """Return the changes of a lineage, in order, whichever release wrote it.

    Raises:
        ValueError: It is not one.
    """
    try:
        found = parse_any(lineage or b"[]")
        return [Change(**change) for change in found]
    except (RecordRefused, TypeError):
        raise ValueError("not a lineage") from None


def explain(
    original: bytes,
    record: Body,
    changes: Sequence[Change],
    path: str = "",
    formats: Sequence[SourceFormat] = (),
) -> Explanation:
    """Explain the values of a record at or below a path; all of them without one.

    Args:
        original: The entry or the resource exactly as it was sent.
        record: The record as it is served, or a preview of it.
        changes: Its lineage.
        path: Plain, with or without the type in front; a list's number may be left out and then means every item.
            Where the record has no such element, one that was sent is meant.
        formats: What reads an original that is no FHIR, as the pack describes it.

    Raises:
        ValueError: The original is not JSON, and none of the formats reads it.
    """
    sent = fhir_in(original)
    if sent is not None:
        return _Explainer(original, sent, None, record, changes).explanation(path)
    # A row can give several records, and a translated one looks like its neighbour: the sender's id tells them apart.
    given = [c.before for c in changes if c.rule == ID.rule and c.element == f"{record['resourceType']}.id"]
    local = given[0] if given else record.get("id")
    found = [
        _Explainer(original, parse(render(drawn.resource)), drawn, record, changes).explanation(path)
        for drawn in reread(original, formats)
        if drawn.resource is not None and drawn.resource["id"] == local
    ]
    if not found:
        raise ValueError("the original is not JSON, and no pack is given that makes this record of it")
    return next((each for each in found if each.accounts), found[0])


def changed_elements(before: Body, after: Body) -> set[str]:
    """Return the elements whose values differ between two records, items of lists not told apart."""
    name = str(before["resourceType"])
    old, new = _values(before, name), _values(after, name)
    return {place for place in {*old, *new} if old.get(place) != new.get(place)} - {
        f"{name}.{each}" for each in _STAMPED
    }


def _values(record: Body, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for place, leaf in leaves(planted(record), name):
        found.setdefault(re.sub(r"\[\d+\]", "", place), []).append(_text(leaf))
    return found


def rules_of(pack: Ruleset) -> RulePlaces:
    """Return version and place of each rule of a pack."""
    return {
        rule.name: {"version": rule.version, "place": f"{rule.spot.file}:{rule.spot.line}"} for rule in pack.rules
    }


def described(told: Explanation, rules: RulePlaces) -> dict[str, Any]:
    """Return an explanation as JSON."""
    return {
        "accounts": told.accounts,
        "statements": [_statement(each, rules) for each in told.statements],
    }


class _Explainer:
    def __init__(
        self, original: bytes, sent: Body, drawn: Drawn | None, record: Body, changes: Sequence[Change]
    ) -> None:
        self._original = original
        self._drawn = drawn
        self._changes = changes
        self._type = str(record["resourceType"])
        self._base = () if drawn is not None else resource_steps(original)
        self._spans = {} if drawn is not None else all_spans(original, self._base)
        for step in self._base:
            sent = sent.get(str(step), {})
        self._held = dict(leaves(planted(record), self._type))
        try:
            self._traced = trace(sent, changes)
        except ValueError:
            self._traced = Traced(planted(sent), ())
        self._told = dict(leaves(self._traced.tree, self._type))

    def explanation(self, path: str) -> Explanation:
        asked = _pattern(path, self._type)
        found = [self._statement(place) for place in self._held if asked.fullmatch(place)]
        if not found:
            found = [*self._gone_elsewhere(asked), *self._removed(asked)]
        places = {*self._held, *self._told} - {f"{self._type}.{each}" for each in _STAMPED}
        accounts = all(self._accounts(place) for place in places)
        return Explanation(tuple(found), accounts)

    def _accounts(self, place: str) -> bool:
        held, told = self._held.get(place), self._told.get(place)
        return held is not None and told is not None and _text(held) == _text(told)

    def _statement(self, place: str) -> Statement:
        text = _text(self._held[place])
        if place.partition(".")[2] in _STAMPED and not self._accounts(place):
            return Statement(place, Kind.HOUSE, text, None, None, None, (_STAMPING,))
        if not self._accounts(place):
            return Statement(place, Kind.UNTOLD, text, None, None, None, ())
        leaf = self._told[place]
        return self._about(place, self._kind(place, leaf), leaf)

    def _kind(self, place: str, leaf: Leaf) -> Kind:
        origin = leaf.origin
        if self._drawn is not None and origin.source is not None:
            # Whatever it looks like now, a cell was text.
            return Kind.MADE if self._drawn.source_of(origin.source) is None else Kind.CONVERTED
        if origin.is_exact and origin.source is not None:
            # The type may have got another name since: what counts is the way below it.
            same = steps_of(origin.source) == steps_of(place)
            return Kind.UNTOUCHED if same else Kind.MOVED
        rule = self._changes[origin.changes[-1]].rule
        if rule in _HOUSE or rule.startswith(f"{SENSITIVITY} "):
            return Kind.HOUSE
        return Kind.MADE if origin.source is None else Kind.CONVERTED

    def _about(self, place: str, kind: Kind, leaf: Leaf, also: Sequence[int] = ()) -> Statement:
        source = leaf.origin.source
        span = None if source is None else self._spans.get((*self._base, *steps_of(source)))
        sent = None if span is None else span.of(self._original).decode()
        changes = tuple(self._changes[number] for number in (*leaf.origin.changes, *also))
        if self._drawn is None or source is None:
            return Statement(place, kind, _text(leaf), source, span, sent, changes)
        part = self._drawn.source_of(source)
        held = None if part is None else source
        return Statement(place, kind, _text(leaf), held, None, None, (_READING, *changes), part)

    def _gone_elsewhere(self, asked: re.Pattern[str]) -> Iterator[Statement]:
        for place, leaf in self._told.items():
            if leaf.origin.source is not None and asked.fullmatch(leaf.origin.source) and place in self._held:
                yield self._statement(place)

    def _removed(self, asked: re.Pattern[str]) -> Iterator[Statement]:
        kept = {leaf.origin.source for leaf in self._told.values()}
        for number, tree in self._traced.removed:
            for _, leaf in leaves(tree, ""):
                source = leaf.origin.source
                if source is not None and source not in kept and asked.fullmatch(source):
                    kept.add(source)
                    yield self._about(source, Kind.REMOVED, leaf, (number,))


def _statement(told: Statement, rules: RulePlaces) -> dict[str, Any]:
    span = told.span
    source: dict[str, Any] | None = None
    if told.source is not None:
        source = {"element": told.source}
        if told.part is not None:
            source["part"] = told.part
        if span is not None:
            source |= {"start": span.start, "end": span.end, "text": told.sent}
    return {
        "element": told.place,
        "kind": told.kind.value,
        "value": told.text,
        "source": source,
        "rules": [_change(change, rules) for change in told.changes],
    }


def _change(change: Change, rules: RulePlaces) -> dict[str, Any]:
    told = {"rule": change.rule, "reason": change.reason, **rules.get(change.rule, {})}
    if change.element:
        told["element"] = change.element
    return told | ({"table": change.table} if change.table else {})


def _text(leaf: Leaf) -> str:
    return render(leaf.value).decode()


def _pattern(path: str, type_name: str) -> re.Pattern[str]:
    """Return what matches the place of a value at or below a path.

    Raises:
        ValueError: It is not written like a path.
    """
    bare = path.strip()
    if bare.partition(".")[0] != type_name:
        bare = f"{type_name}.{bare}" if bare else type_name
    steps_of(bare)
    parts = [re.escape(part) + ("" if part.endswith("]") else r"(?:\[\d+\])*") for part in bare.split(".")]
    # A resource may have borne another type when it was sent.
    return re.compile(r"\w+" + "".join(rf"\.{part}" for part in parts[1:]) + r"(?:[.\[].*)?")
