"""The judge of lineage: replays it, and asks every statement about every value for the bytes that were sent.

The replay knows nothing of sources: it puts ``after`` where ``element`` says, and must reach the record. Spans are
judged by decoding the bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.model.ingest import Change
from fhir_bridge.normalize import Explanation, Kind, explain

_KEY = re.compile(r"\w+|\[\d+\]")


def replayed(sent: Any, changes: Sequence[Change]) -> Any:
    """The second, simple definition: each change is a value put in its place, or taken out of it."""
    body = parse(render(sent))
    for change in changes:
        if not change.element:
            continue
        names = [int(n[1:-1]) if n[0] == "[" else n for n in _KEY.findall(change.element)[1:]]
        holder: Any = body
        for name, following in itertools.pairwise(names):
            fresh: Any = [] if isinstance(following, int) else {}
            if isinstance(holder, list) and len(holder) == name:
                holder.append(fresh)
            elif isinstance(holder, dict) and name not in holder:
                holder[name] = fresh
            holder = holder[name]
        if change.after is None:
            del holder[names[-1]]
        elif isinstance(holder, list) and len(holder) == names[-1]:
            holder.append(change.after)
        else:
            holder[names[-1]] = change.after
    return body


def ordered(value: Any) -> Any:
    """A value whose objects' keys have one order and whose numbers are their texts."""
    if isinstance(value, dict):
        return {key: ordered(item) for key, item in sorted(value.items()) if item not in ({}, [])}
    if isinstance(value, list):
        return [ordered(item) for item in value]
    return value if isinstance(value, str | bool) or value is None else str(value)


def text_of(data: bytes) -> str:
    """The value of a JSON text, numbers kept as written."""
    return render(parse_any(data)).decode()


def check(sent: Any, original: bytes, record: Any, changes: Sequence[Change]) -> Explanation:
    """Replay the lineage, then judge every statement about the record."""
    assert ordered(replayed(sent, changes)) == ordered(record)
    told = explain(original, record, changes)
    assert told.accounts
    values = dict(_leaves(record, record["resourceType"]))
    assert {each.place for each in told.statements} == set(values)
    for each in told.statements:
        assert each.text == values[each.place]
        assert each.kind is not Kind.UNTOLD
        assert each.changes or each.kind is Kind.UNTOUCHED
        assert (each.source is None) == (each.span is None), each
        if each.kind in (Kind.UNTOUCHED, Kind.MOVED):
            assert each.span is not None
            assert text_of(each.span.of(original)) == each.text, each
    return told


def _leaves(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}[{number}]")
    else:
        yield place, render(value).decode()
