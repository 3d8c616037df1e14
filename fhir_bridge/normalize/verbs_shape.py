"""Verbs that move, make and drop elements, from ``set`` to ``narrative``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from fhir_bridge.normalize.draft import OWN, By, Draft, copied
from fhir_bridge.normalize.verb_args import PATH, SIBLING, TARGET, TEXT, VALUE, Act, Args, Verb, one_of


def _set(args: Args) -> Act:
    place, value, by = args.place("path"), args.json("value"), args.bench.by

    def act(draft: Draft) -> None:
        for holder, key, where in place.make(draft.body):
            before = holder.get(key)
            if before != value:
                holder[key] = copied(value)
                draft.changed(by, where, before, value, sources=OWN if before is not None else None)

    return act


def _default(args: Args) -> Act:
    place, value, by = args.place("path"), args.json("value"), args.bench.by

    def act(draft: Draft) -> None:
        if place.find(draft.body):
            return
        for holder, key, where in place.make(draft.body):
            holder[key] = copied(value)
            draft.changed(by, where, None, value)

    return act


def _copy(args: Args) -> Act:
    source, target, by = args.place("from"), args.place("to"), args.bench.by

    def act(draft: Draft) -> None:
        found = source.find(draft.body)
        if not found or target.find(draft.body):
            return
        value = found[0].value
        is_wrapped = target.is_list and type(value) is not list
        for holder, key, where in target.make(draft.body):
            holder[key] = [copied(value)] if is_wrapped else copied(value)
            draft.changed(by, where, None, holder[key], sources={"[0]" if is_wrapped else "": found[0].place})

    return act


def _rename(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    name = args.sibling("to")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            if name not in found.parent:
                move(draft, by, found.parent, found.key, name, found.place.removesuffix("." + found.key))

    return act


def _remove(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            draft.changed(by, found.place, found.parent.pop(found.key), None)
            beside = found.place.removesuffix(found.key) + "_" + found.key
            draft.changed(by, beside, found.parent.pop("_" + found.key, None), None)

    return act


def _coerce(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    kind = args.choice("to", tuple(_COERCIONS))
    convert, origin = _COERCIONS[kind](args.optional_text("system")), _ORIGINS.get(kind, _same_place)

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            before = found.value
            after = convert(before)
            if after is not before and after is not None:
                beside = found.parent.get(f"_{found.key}") if type(found.parent) is dict else None
                if beside is not None and (joined := _joined(after, beside)) is not None:
                    after = joined
                    del found.parent[f"_{found.key}"]
                    draft.changed(by, f"{found.place.removesuffix(str(found.key))}_{found.key}", beside, None)
                found.parent[found.key] = after
                draft.changed(by, found.place, before, after, sources=origin(before, after, found.place))

    return act


def _joined(after: Any, beside: Any) -> Any:
    """Put what stood beside a primitive into the object it became; None where it became none."""
    if type(after) is dict and type(beside) is dict:
        return {**beside, **after}
    if type(after) is list and type(beside) is list and len(after) == len(beside):
        made = [_joined(each, held or {}) for each, held in zip(after, beside, strict=True)]
        return made if all(each is not None for each in made) else None
    return None


def _to_concept(system: str | None) -> Callable[[Any], Any]:
    def one(value: Any) -> Any:
        if type(value) is str:
            return {"coding": [{"system": system, "code": value} if system else {"code": value}]}
        if type(value) is dict and "coding" not in value and "code" in value:
            return {"coding": [value]}
        return value

    return _over(one)


def _to_coding(system: str | None) -> Callable[[Any], Any]:
    def one(value: Any) -> Any:
        if type(value) is str:
            return {"system": system, "code": value} if system else {"code": value}
        codings = value.get("coding") if type(value) is dict else None
        return codings[0] if codings and len(codings) == 1 and set(value) == {"coding"} else value

    return _over(one)


def _over(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def each(value: Any) -> Any:
        if type(value) is not list:
            return one(value)
        made = [one(item) for item in value]
        return value if all(a is b for a, b in zip(made, value, strict=True)) else made

    return each


def _to_annotation(_system: str | None) -> Callable[[Any], Any]:
    return _over(lambda value: {"text": value} if type(value) is str else value)


def _to_list(_system: str | None) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is list else [value]


def _to_single(_system: str | None) -> Callable[[Any], Any]:
    # More than one value has no home in a single element: left alone, so that validation quarantines it.
    return lambda value: value[0] if type(value) is list and len(value) == 1 else value


def _to_string(_system: str | None) -> Callable[[Any], Any]:
    return _over(lambda v: str(v) if isinstance(v, (int, Decimal)) and not isinstance(v, bool) else v)


def _to_decimal(_system: str | None) -> Callable[[Any], Any]:
    return _over(_number)


def _number(value: Any) -> Any:
    if type(value) is not str:
        return value
    try:
        number = Decimal(value.strip())
    except InvalidOperation:
        return value
    return number if number.is_finite() else value


def _to_integer(_system: str | None) -> Callable[[Any], Any]:
    def one(value: Any) -> Any:
        number = _number(value)
        if isinstance(number, Decimal) and number == number.to_integral_value():
            return int(number)
        return value

    return _over(one)


def _to_boolean(_system: str | None) -> Callable[[Any], Any]:
    words = {"true": True, "false": False}
    return _over(lambda v: words.get(v.strip().lower(), v) if type(v) is str else v)


_COERCIONS: dict[str, Callable[[str | None], Callable[[Any], Any]]] = {
    "CodeableConcept": _to_concept,
    "Coding": _to_coding,
    "Annotation": _to_annotation,
    "list": _to_list,
    "single": _to_single,
    "string": _to_string,
    "decimal": _to_decimal,
    "integer": _to_integer,
    "boolean": _to_boolean,
}


Origin = Callable[[Any, Any, str], dict[str, str]]
"""Where the parts of a coerced value come from: value before, value after, its place."""


def _same_place(_before: Any, _after: Any, _place: str) -> dict[str, str]:
    return {}


def _each(one: Callable[[Any], tuple[str, str]]) -> Origin:
    """Say it of every item that was coerced: where what was there stands now, and which part of it that is."""

    def origin(before: Any, after: Any, place: str) -> dict[str, str]:
        if type(before) is not list:
            to, part = one(before)
            return {to: place + part}
        found = {}
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            if old is not new:
                to, part = one(old)
                found[f"[{index}]" + (f".{to}" if to else "")] = f"{place}[{index}]{part}"
        return found

    return origin


_ORIGINS: dict[str, Origin] = {
    "CodeableConcept": _each(lambda value: ("coding[0].code" if type(value) is str else "coding[0]", "")),
    "Coding": _each(lambda value: ("code", "") if type(value) is str else ("", ".coding[0]")),
    "Annotation": _each(lambda _value: ("text", "")),
    "list": lambda _before, _after, place: {"[0]": place},
    "single": lambda _before, _after, place: {"": f"{place}[0]"},
}


def _split(args: Args) -> Act:
    place, by, separator = args.place("path"), args.bench.by, args.text("on")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            items = list(found.each())
            if not all(type(item) is str for item, _ in items):
                continue
            parts = [(part.strip(), where) for item, where in items for part in item.split(separator)]
            if len(parts) > len(items):
                before, kept = found.value, [(part, where) for part, where in parts if part]
                found.parent[found.key] = after = [part for part, _ in kept]
                sources = {f"[{index}]": where for index, (_, where) in enumerate(kept)}
                draft.changed(by, found.place, before, after, sources=sources)

    return act


def _merge(args: Args) -> Act:
    source, by = args.place("path"), args.bench.by
    name = args.sibling("into")

    def act(draft: Draft) -> None:
        for found in source.find(draft.body):
            items, moved = list(found.each()), found.parent.pop(found.key)
            held = found.parent.get(name)
            known = held if type(held) is list else [] if held is None else [held]
            target = found.place.removesuffix(found.key) + name
            new = [(item, where) for item, where in items if item not in known]
            found.parent[name] = [*known, *(item for item, _ in new)]
            sources = {f"[{len(known) + index}]": where for index, (_, where) in enumerate(new)}
            if held is not None and held is not known:
                sources["[0]"] = target
            draft.changed(by, target, held, found.parent[name], sources=sources)
            draft.changed(by, found.place, moved, None)

    return act


def _extension(args: Args) -> Act:
    place, url, by = args.place("path"), args.text("url"), args.bench.by
    key = args.optional_text("as")
    kinds = sorted(place.types)
    if key is None and len(kinds) != 1:
        raise args.values.spot.broken("'as' must say which value[x] holds the element")
    value_key = key or "value" + kinds[0][0].upper() + kinds[0][1:]

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            items, moved = list(found.each()), found.parent.pop(found.key)
            held = found.parent.setdefault("extension", [])
            where = found.place.removesuffix("." + found.key)
            for item, source in items:
                made = {"url": url, value_key: item}
                draft.changed(by, f"{where}.extension[{len(held)}]", None, made, sources={value_key: source})
                held.append(made)
            draft.changed(by, found.place, moved, None)

    return act


def _narrative(args: Args) -> Act:
    args.choice("policy", ("drop",))
    by = args.bench.by

    def act(draft: Draft) -> None:
        if "text" in draft.body:
            draft.changed(by, f"{draft.body.get('resourceType')}.text", draft.body.pop("text"), None)

    return act


def _replace_key(holder: dict[str, Any], old: str, new: str) -> None:
    """Rename a key and the one of its primitive extension, keeping the order of the object."""
    items = list(holder.items())
    holder.clear()
    for key, value in items:
        holder[new if key == old else "_" + new if key == "_" + old else key] = value


def move(draft: Draft, by: By, holder: dict[str, Any], old: str, new: str, place: str) -> None:
    """Rename ``old`` to ``new`` in ``holder`` when it is there and ``new`` is free; for registered functions."""
    if old in holder and new not in holder:
        beside = holder.get("_" + new)
        _replace_key(holder, old, new)
        draft.renamed[id(holder), new] = old
        draft.moved(by, f"{place}.{old}", f"{place}.{new}", holder[new])
        if "_" + new in holder and holder["_" + new] is not beside:
            draft.moved(by, f"{place}._{old}", f"{place}._{new}", holder["_" + new], beside)


VERBS = {
    "set": Verb({"path": TARGET, "value": VALUE}, _set, "puts the value there, makes parents (not with a filter)"),
    "default": Verb({"path": TARGET, "value": VALUE}, _default, "puts the value there where the element is absent"),
    "copy": Verb({"from": PATH, "to": TARGET}, _copy, "copies the first value where the target is absent"),
    "rename": Verb({"path": TARGET, "to": SIBLING}, _rename, "gives the element another name beside its siblings"),
    "remove": Verb({"path": TARGET}, _remove, "removes the element; the lineage keeps what was there"),
    "coerce": Verb(
        {"path": TARGET, "to": one_of(*_COERCIONS), "system": TEXT.maybe()},
        _coerce,
        "gives the values another type; what does not fit is left for validation",
    ),
    "split": Verb({"path": TARGET, "on": TEXT}, _split, "cuts texts into several"),
    "merge": Verb({"path": TARGET, "into": SIBLING}, _merge, "appends one list to its sibling"),
    "extension": Verb(
        {"path": TARGET, "url": TEXT, "as": TEXT.maybe()},
        _extension,
        "moves an element into an extension of its parent",
    ),
    "narrative": Verb({"policy": one_of("drop")}, _narrative, "removes the narrative"),
}
