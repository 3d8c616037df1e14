"""Searches to ask both servers, made from the records that both hold.

Each question is of a *shape*: type, parameter, and the form in which it is asked. Values come from the records, so
that most questions find something and few find everything; which values is chosen by a fixed seed. What the right
answer is, nothing here says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from urllib.parse import quote

from fhir_bridge.fhir.search import SearchValues, extract, implied_systems, names_beside, parameters_of, targets_of
from fhir_bridge.model.ids import DIRECTORY_TYPES

Json = dict[str, Any]
Pairs = list[tuple[str, str]]

PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_OF_THE_SERVER = frozenset({"_id", "_lastUpdated"})
"""Each server has its own of these; :func:`_controls` asks what can be compared."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 4_102_444_800_000_000
"""The year 2100: later bounds stand for "without an end"."""


@dataclass(frozen=True, slots=True)
class Question:
    """One search.

    Attributes:
        shape: What it tries, without values.
        pairs: Parameters in order; the person is named by ``patient`` where the type has one.
        is_ordered: The order of the answer is part of it.
    """

    shape: str
    type: str
    pairs: tuple[tuple[str, str], ...]
    is_ordered: bool = False

    @property
    def path(self) -> str:
        """The request below the base."""
        return f"{self.type}?" + "&".join(f"{quote(n, safe='_:.')}={quote(v, safe='')}" for n, v in self.pairs)


@dataclass(frozen=True, slots=True)
class _Chart:
    """What one person's questions are made from."""

    patient: str
    rows: Mapping[str, Sequence[tuple[str, SearchValues]]]
    everywhere: Mapping[str, tuple[str, SearchValues]]
    random: Random
    asked: list[Question] = field(default_factory=list)

    def ask(self, form: str, type_name: str, *pairs: tuple[str, str], ordered: bool = False) -> None:
        """Note a question."""
        named = next((n for n in ("patient", "subject") if n in parameters_of(type_name)), None)
        of = [(named, self.patient)] if named and type_name != "Patient" else []
        if type_name == "Patient":
            of = [("_id", self.patient)]
        elif not of and type_name not in DIRECTORY_TYPES:
            return
        self.asked.append(Question(f"{type_name} {form}", type_name, (*of, *pairs), ordered))

    def values(self, type_name: str, name: str) -> list[Any]:
        """Return the distinct values that a type has of a parameter."""
        return list(dict.fromkeys(v for _, found in self.rows.get(type_name, ()) for v in found.get(name, ())))


def questions(patient: str, records: Sequence[Json], directory: Sequence[Json], seed: int) -> list[Question]:
    """Return every question that the records of one person give rise to."""
    rows: dict[str, list[tuple[str, SearchValues]]] = {}
    everywhere = {}
    for each in (*records, *directory):
        row = each["id"], extract(each)
        everywhere[f"{each['resourceType']}/{each['id']}"] = row
        rows.setdefault(each["resourceType"], []).append(row)
    chart = _Chart(patient, rows, everywhere, Random(seed))
    for type_name in sorted(rows):
        for name, kind in sorted(parameters_of(type_name).items()):
            if chart.values(type_name, name) and name not in _OF_THE_SERVER:
                _KINDS.get(kind, _nothing)(chart, type_name, name)
        _controls(chart, type_name)
        _includes(chart, type_name)
        _links(chart, type_name)
    return [each for each in dict.fromkeys(chart.asked) if len(each.path) < 1_500]


def _nothing(chart: _Chart, type_name: str, name: str) -> None:
    """Ask nothing about a kind without a form of its own."""


def _missing(chart: _Chart, type_name: str, name: str) -> None:
    for text in ("true", "false"):
        chart.ask(f"{name}:missing", type_name, (f"{name}:missing", text))


def _tokens(chart: _Chart, type_name: str, name: str) -> None:
    found = chart.values(type_name, name)
    system, code = chart.random.choice(found)
    other = chart.random.choice(found)
    chart.ask(f"{name} code", type_name, (name, _token(code)))
    chart.ask(f"{name} |code", type_name, (name, f"|{_token(code)}"))
    chart.ask(f"{name} code of other case", type_name, (name, _token(code.swapcase())))
    chart.ask(f"{name}:not", type_name, (f"{name}:not", _whole(system, code)))
    is_bare = not system
    system = system or implied_systems(type_name, name).get(code, "")
    if system:
        chart.ask(f"{name} system|code", type_name, (name, f"{_token(system)}|{_token(code)}"))
        chart.ask(f"{name} system|", type_name, (name, f"{_token(system)}|"))
        chart.ask(f"{name} wrong system|code", type_name, (name, f"urn:none|{_token(code)}"))
    if other[1] != code:
        both = _token(code) if is_bare else _whole(system, code), _whole(*other)
        chart.ask(f"{name} or", type_name, (name, ",".join(both)))
        chart.ask(f"{name} and", type_name, *((name, each) for each in both))
        chart.ask(f"{name}:not or", type_name, (f"{name}:not", ",".join(both)))
    if f"{name}:of-type" in names_beside(type_name):
        for typed in chart.values(type_name, f"{name}:of-type")[:1]:
            chart.ask(f"{name}:of-type", type_name, (f"{name}:of-type", "|".join(map(_token, typed))))
    _missing(chart, type_name, name)


def _dates(chart: _Chart, type_name: str, name: str) -> None:
    low, _ = chart.random.choice(chart.values(type_name, name))
    if abs(low) > _LATEST:
        return
    at = _EPOCH + timedelta(microseconds=low)
    for prefix in PREFIXES:
        for form, text in _written(at).items():
            chart.ask(f"{name} {prefix or 'no prefix'} {form}", type_name, (name, prefix + text))
    later = (at + timedelta(days=400)).strftime("%Y-%m-%d")
    chart.ask(f"{name} between", type_name, (name, f"ge{at:%Y-%m-%d}"), (name, f"lt{later}"))
    chart.ask(f"{name} or", type_name, (name, f"{at:%Y-%m-%d},{later}"))
    _missing(chart, type_name, name)


def _written(at: datetime) -> dict[str, str]:
    offset = at + timedelta(hours=2)
    return {
        "year": f"{at:%Y}",
        "month": f"{at:%Y-%m}",
        "day": f"{at:%Y-%m-%d}",
        "second": f"{at:%Y-%m-%dT%H:%M:%S}Z",
        "offset": f"{offset:%Y-%m-%dT%H:%M:%S}+02:00",
    }


def _strings(chart: _Chart, type_name: str, name: str) -> None:
    text = chart.random.choice(chart.values(type_name, name))
    middle = text[1:-1] or text
    chart.ask(f"{name} whole", type_name, (name, _escaped(text)))
    chart.ask(f"{name} start", type_name, (name, _escaped(text[: max(1, len(text) // 2)])))
    chart.ask(f"{name} other case", type_name, (name, _escaped(text.swapcase())))
    chart.ask(f"{name} middle", type_name, (name, _escaped(middle)))
    chart.ask(f"{name}:contains", type_name, (f"{name}:contains", _escaped(middle)))
    chart.ask(f"{name}:exact", type_name, (f"{name}:exact", _escaped(text)))
    chart.ask(f"{name}:exact other case", type_name, (f"{name}:exact", _escaped(text.swapcase())))
    chart.ask(f"{name} or", type_name, (name, f"{_escaped(text)},zzz"))
    _missing(chart, type_name, name)


def _uris(chart: _Chart, type_name: str, name: str) -> None:
    text = chart.random.choice(chart.values(type_name, name))
    chart.ask(f"{name} whole", type_name, (name, _escaped(text)))
    chart.ask(f"{name} start", type_name, (name, _escaped(text[:-1])))
    _missing(chart, type_name, name)


def _numbers(chart: _Chart, type_name: str, name: str) -> None:
    text = chart.random.choice(chart.values(type_name, name))
    for prefix in PREFIXES:
        chart.ask(f"{name} {prefix or 'no prefix'}", type_name, (name, prefix + text))
    _missing(chart, type_name, name)


def _quantities(chart: _Chart, type_name: str, name: str) -> None:
    number, system, code, *_ = chart.random.choice(chart.values(type_name, name))
    for prefix in PREFIXES:
        chart.ask(f"{name} {prefix or 'no prefix'} number", type_name, (name, prefix + number))
        if system and code:
            whole = f"{prefix}{number}|{_token(system)}|{_token(code)}"
            chart.ask(f"{name} {prefix or 'no prefix'} unit", type_name, (name, whole))
    if code:
        chart.ask(f"{name} code alone", type_name, (name, f"{number}||{_token(code)}"))
    chart.ask(f"{name} whole number", type_name, (name, str(round(Decimal(number)))))
    _missing(chart, type_name, name)


def _references(chart: _Chart, type_name: str, name: str) -> None:
    found = [v for v in chart.values(type_name, name) if v in chart.everywhere]
    if not found:
        return
    text = chart.random.choice(found)
    kind, _, name_of = text.partition("/")
    if name not in ("patient", "subject"):
        chart.ask(f"{name} Type/id", type_name, (name, text))
        chart.ask(f"{name} id", type_name, (name, name_of))
        chart.ask(f"{name}:Type", type_name, (f"{name}:{kind}", name_of))
        chart.ask(f"{name} absent", type_name, (name, f"{kind}/none"))
        chart.ask(f"{name} or", type_name, (name, f"{text},{chart.random.choice(found)}"))
    _missing(chart, type_name, name)


def _composites(chart: _Chart, type_name: str, name: str) -> None:
    first = next(iter(chart.values(type_name, name)), None)
    if first is None or any(not part for part in first):
        return
    texts = [_of_component(part[0]) for part in first]
    if all(texts):
        chart.ask(f"{name}", type_name, (name, "$".join(str(text) for text in texts)))


def _of_component(value: Any) -> str | None:
    if type(value) is str:
        return _escaped(value)
    if len(value) == 2 and type(value[0]) is str:
        return _whole(value[0], value[1])
    if len(value) > 2:
        return str(value[0])
    if type(value[0]) is int and abs(value[0]) < _LATEST:
        return f"{_EPOCH + timedelta(microseconds=value[0]):%Y-%m-%d}"
    return None


def _controls(chart: _Chart, type_name: str) -> None:
    rows = chart.rows[type_name]
    some = ",".join(name for name, _ in rows[:3])
    chart.ask("everything of the type", type_name)
    if type_name != "Patient":
        chart.ask("_id", type_name, ("_id", rows[0][0]))
        chart.ask("_id or", type_name, ("_id", some))
    chart.ask("_lastUpdated ge", type_name, ("_lastUpdated", "ge2000-01-01"))
    chart.ask("_lastUpdated lt", type_name, ("_lastUpdated", "lt2000-01-01"))
    for count in ("0", "1", "7"):
        chart.ask(f"_count={count}", type_name, ("_count", count))
    for total in ("none", "estimate", "accurate"):
        chart.ask(f"_total={total}", type_name, ("_total", total))
    for summary in ("true", "text", "data", "false", "count"):
        chart.ask(f"_summary={summary}", type_name, ("_summary", summary))
    chart.ask("_elements", type_name, ("_elements", "id,meta"))
    chart.ask("_sort _id", type_name, ("_sort", "_id"), ordered=True)
    chart.ask("_sort -_id", type_name, ("_sort", "-_id"), ordered=True)
    chart.ask("_sort and pages", type_name, ("_sort", "-_id"), ("_count", "3"), ordered=True)
    for name, kind in sorted(parameters_of(type_name).items()):
        if kind in _SORTED and chart.values(type_name, name) and name not in _OF_THE_SERVER:
            chart.ask(f"_sort {kind} {name}", type_name, ("_sort", f"{name},_id"), ordered=_SORTED[kind])
            chart.ask(f"_sort {kind} -{name}", type_name, ("_sort", f"-{name},_id"), ordered=_SORTED[kind])


_SORTED = {
    "date": True,
    "string": True,
    "uri": True,
    "number": True,
    "quantity": True,
    "token": False,
    "reference": False,
}
"""Kinds to sort by, and whether their order says itself: for codes and references R4 leaves it to the server."""


def _includes(chart: _Chart, type_name: str) -> None:
    for name in _pointing(chart, type_name):
        chart.ask(f"_include {name}", type_name, ("_include", f"{type_name}:{name}"))
        for target in sorted({v.partition("/")[0] for v in chart.values(type_name, name) if v in chart.everywhere}):
            both = ("_include", f"{type_name}:{name}:{target}")
            chart.ask(f"_include {name}:{target}", type_name, both)
            for further in _pointing(chart, target)[:2]:
                again = ("_include:iterate", f"{target}:{further}")
                chart.ask(f"_include {name}:{target} :iterate {further}", type_name, both, again)
    chart.ask("_include *", type_name, ("_include", "*"))
    for source in sorted(chart.rows):
        for name in _pointing(chart, source):
            if any(v.startswith(f"{type_name}/") and v in chart.everywhere for v in chart.values(source, name)):
                chart.ask(f"_revinclude {source}:{name}", type_name, ("_revinclude", f"{source}:{name}"))


def _pointing(chart: _Chart, type_name: str) -> list[str]:
    """Return the reference parameters by which records of a type point to records that are there."""
    names = (name for name, kind in sorted(parameters_of(type_name).items()) if kind == "reference")
    return [name for name in names if any(v in chart.everywhere for v in chart.values(type_name, name))]


def _links(chart: _Chart, type_name: str) -> None:
    for name in _pointing(chart, type_name):
        value = chart.random.choice([v for v in chart.values(type_name, name) if v in chart.everywhere])
        target = value.partition("/")[0]
        for criterion, text in _simple(chart, value):
            chart.ask(f"{name}:{target}.{criterion}", type_name, (f"{name}:{target}.{criterion}", text))
            if targets_of(type_name, name) == (target,):
                chart.ask(f"{name}.{criterion}", type_name, (f"{name}.{criterion}", text))
    for source in sorted(chart.rows):
        for name in _pointing(chart, source):
            pointed = [
                v for v in chart.values(source, name) if v.startswith(f"{type_name}/") and v in chart.everywhere
            ]
            if pointed:
                row = chart.random.choice([r for r in chart.rows[source] if pointed[0] in r[1].get(name, ())])
                for criterion, text in _simple(chart, f"{source}/{row[0]}"):
                    has = f"_has:{source}:{name}:{criterion}"
                    chart.ask(has.replace(":", " "), type_name, (has, text))


def _simple(chart: _Chart, place: str) -> Iterator[tuple[str, str]]:
    """Yield a token, a string and a date criterion that the record at a place meets."""
    type_name = place.partition("/")[0]
    _, found = chart.everywhere[place]
    kinds = parameters_of(type_name)
    for wanted in ("token", "string", "date"):
        names = [name for name in sorted(found) if kinds.get(name) == wanted]
        if names:
            name = chart.random.choice(names)
            text = _text_of(wanted, chart.random.choice(found[name]))
            if text:
                yield name, text


def _text_of(kind: str, value: Any) -> str | None:
    if kind == "token":
        return _whole(value[0], value[1])
    if kind == "string":
        return _escaped(value)
    return None if abs(value[0]) > _LATEST else f"ge{_EPOCH + timedelta(microseconds=value[0]):%Y-%m-%d}"


def _whole(system: str, code: str) -> str:
    return f"{_token(system)}|{_token(code)}" if system else _token(code)


def _token(text: str) -> str:
    return _escaped(text)


def _escaped(text: str) -> str:
    """Escape as search.html#escaping asks."""
    for special in ("\\", ",", "$", "|"):
        text = text.replace(special, f"\\{special}")
    return text


_KINDS: Mapping[str, Callable[[_Chart, str, str], None]] = {
    "token": _tokens,
    "date": _dates,
    "string": _strings,
    "uri": _uris,
    "number": _numbers,
    "quantity": _quantities,
    "reference": _references,
    "composite": _composites,
}
