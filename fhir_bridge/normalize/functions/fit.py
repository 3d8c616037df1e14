"""``fit-to-r4``: what rules of the stage ``version`` left over takes the shape that R4 defines.

Rules know what an element means; this function knows only the two definitions. Where R4 has the element it gets R4's
cardinality, datatype and codes; where R4 has none it becomes the extension that HL7 reserved for it. What R4 requires
and the sender's release did not ask for is marked absent with ``data-absent-reason``, never made up. A resource whose
type R4 lacks becomes a Basic, as HL7's cross-version guides have it.

Invariants:
    * no value of the sender disappears: it stands in the result or in the account of changes;
    * an element that can turn a record's meaning around is never moved where nobody reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.reference_text import contained_types, type_of
from fhir_bridge.fhir.releases import BASIC, WITHOUT_R4, type_in_r4
from fhir_bridge.fhir.tables import Definitions, Element, r4
from fhir_bridge.normalize.code_maps import CodeMap, MapRow
from fhir_bridge.normalize.draft import By, Draft, Unconvertible
from fhir_bridge.normalize.functions.casts import cast, parts_of
from fhir_bridge.normalize.functions.cross_version import (
    absent,
    extension_of,
    guessed,
    is_value,
    items_of,
    keys_of,
    plain_keys,
    required,
    url_of,
)
from fhir_bridge.normalize.functions.datatypes import DATATYPES
from fhir_bridge.normalize.functions.editing import listed
from fhir_bridge.normalize.functions.homes import Home, Placing, codes_of, extend, homes_of, path_of, with_note
from fhir_bridge.normalize.regrouping import Pieces, regroup
from fhir_bridge.normalize.verb_args import Act, Args

_TABLE_SYSTEM = re.compile(r"http://hl7\.org/fhir/(v[23])/(?P<name>[A-Za-z0-9-]+)(?:/[\d.]+)?")
_TYPES = {"STU3": "http://hl7.org/fhir/resource-types", "R4B": "http://hl7.org/fhir/resource-types"}
_FHIR_TYPES = "http://hl7.org/fhir/fhir-types"
# What Basic has under the same name, and the elements that say whom a record is about.
_SHARED = frozenset(
    {"id", "meta", "implicitRules", "language", "text", "contained", "extension", "modifierExtension"}
)
_ABOUT = ("subject", "patient", "for")
# Modifiers that R4 has as plain extensions or says otherwise.
_HARMLESS = frozenset({"Patient.animal", "Device.name.display", "Money.comparator", "MedicationStatement.taken"})


def fit_to_r4(args: Args) -> Act:
    """Make the closure.

    Arguments: ``map`` names the code systems that R4 renamed, ``codes`` the codes of elements that R4 has otherwise,
    ``wider`` those for which R4 has only a wider code; all but the first name elements in the column of systems.
    """
    bench = args.bench
    release = bench.releases[0]
    renamed = {row.code: row.target.code for row in _rows(args, "map")}
    same = {(row.system, row.code): row.target.code for row in _rows(args, "codes")}
    # Without a target: R4 has no code at all, and an extension tells.
    wider = {(row.system, row.code): row.target.code for row in _rows(args, "wider")}

    def act(draft: Draft) -> None:
        fit = _Fit(draft, bench.by, release, renamed, same, wider)
        name = draft.body["resourceType"]
        if name in WITHOUT_R4:
            fit.basic(draft.body, name)
        elif name in _resource_types():
            fit.object(draft.body, name, draft.sent_type, name)
        else:
            raise Unconvertible(Issue("error", "not-supported", "R4 has no such resource type", name))

    return act


def _rows(args: Args, key: str) -> tuple[MapRow, ...]:
    if args.values.get(key) is None:
        return ()
    table: CodeMap = args.named(key, args.bench.tables.maps, "map")
    return table.rows


class _Fit:
    """One walk over one resource."""

    def __init__(
        self,
        draft: Draft,
        by: By,
        release: Definitions,
        renamed: Mapping[str, str],
        same: Mapping[tuple[str, str], str],
        wider: Mapping[tuple[str, str], str],
    ) -> None:
        self._draft = draft
        self._by = by
        self._release = release
        self._renamed = renamed
        self._same = same
        self._wider = wider
        self._datatypes = DATATYPES[release.release]
        self._contained = {i: type_in_r4(name) for i, name in contained_types(draft.body).items()}

    def object(self, holder: dict[str, Any], name: str, sent: str | None, place: str) -> None:
        """Fit an object of the R4 type ``name`` that was of the sender's type ``sent``, and all below it."""
        convert = self._datatypes.get(name)
        if convert is not None:
            convert(self._draft, self._by, holder, place)
        if name in ("Coding", "Identifier"):
            self._system(holder, place)
        if name == "Reference" and type(holder.get("type")) is str:
            before, holder["type"] = holder["type"], type_in_r4(holder["type"])
            self._draft.changed(self._by, f"{place}.type", before, holder["type"])
        known, old = keys_of("R4", name), keys_of(self._release.release, sent)
        made: list[dict[str, Any]] = []
        for key in plain_keys(holder):
            # STU3's Claim.payee has an element of that name.
            if key != "resourceType" or "." in name:
                was = self._draft.renamed.get((id(holder), key), key)
                number = len(holder.get("extension", ())) + len(made)
                made += self._element(holder, key, known, old.get(was), f"{sent or name}.{was}", place, number)
        if made:
            if "extension" not in known:
                raise Unconvertible(Issue("error", "not-supported", f"R4 allows no extension on {name}", place))
            extend(holder, made)
        self._mark_absent(holder, name, sent, place, made)

    def _element(
        self,
        holder: dict[str, Any],
        key: str,
        known: Mapping[str, tuple[Element, str]],
        origin: tuple[Element, str] | None,
        path: str,
        place: str,
        number: int,
    ) -> list[dict[str, Any]]:
        """Give one element its place in R4; return the extensions for what has none, ``number`` being the first's."""
        same = known.get(key)
        # Contained resources went through every rule before the one that holds them.
        if same is not None and same[1] == "Resource":
            return []
        if same is not None and origin is not None and self._stays(holder, key, (key, *same), origin, place):
            return []
        homes = homes_of(key, origin, known)
        kind = origin[1] if origin else homes[0][2] if homes else None
        if kind is None:
            return self._all_out(holder, key, path, place, number)
        element = origin[0] if origin else None
        placing = Placing()
        for item, sibling, where in _placed_items(holder, key, place):
            is_now = self._kind_of(item, kind, homes)
            self._place(placing, homes, is_now, element, item, sibling, path, where)
        self._write(holder, key, placing, homes, place, number)
        return placing.extensions

    def _kind_of(self, item: Any, kind: str, homes: list[Home]) -> str:
        """Return the datatype of a value: the sender's, or R4's if a rule has given it that already."""
        now = homes[0][2] if homes else kind
        if now == kind or item is None:
            return kind
        row = self._release.types.get(kind)
        is_primitive = row is not None and row.kind == "primitive-type"
        if is_primitive is (type(item) is dict):
            return now
        if type(item) is dict and not all(k in keys_of(self._release.release, kind) for k in plain_keys(item)):
            return now
        return kind

    def _stays(self, holder: dict[str, Any], key: str, home: Home, origin: tuple[Element, str], place: str) -> bool:
        """Fit an element that R4 has just so; False when its datatype, number, codes or targets differ."""
        _name, element, now = home
        sent, kind = origin
        value = holder.get(key)
        if now != kind or element.targets != sent.targets:
            return False
        if element.codes is not None and not (type(value) is str and value in _allowed(element.codes)):
            return False
        if key in holder and element.many is not (type(value) is list):
            return False
        for index, item in enumerate(value if type(value) is list else [value]):
            where = f"{place}.{key}[{index}]" if type(value) is list else f"{place}.{key}"
            if type(item) is dict:
                self.object(item, now, kind if kind in self._release.types else None, where)
        return True

    def _place(
        self,
        placing: Placing,
        homes: list[Home],
        kind: str,
        element: Element | None,
        item: Any,
        sibling: Any,
        path: str,
        place: str,
    ) -> None:
        for part_kind, part, within in parts_of(kind, item):
            fit, where = (self._unheard(), place) if within is None else (self, place + within)
            for home in homes:
                if not placing.is_full(home, homes) and fit._take(
                    placing, home, part_kind, element, part, sibling, path, where
                ):
                    break
            else:
                fit._move_out(placing, part_kind, element, part, sibling, path, where)

    def _unheard(self) -> _Fit:
        """The same for a value that stands nowhere yet: what is done to it is on record once it has its place."""
        unheard = copy(self)
        unheard._draft = replace(self._draft, changes=[])
        return unheard

    def _take(
        self,
        placing: Placing,
        home: Home,
        kind: str,
        element: Element | None,
        value: Any,
        sibling: Any,
        path: str,
        place: str,
    ) -> bool:
        """Put a value into a home of R4 if it fits there."""
        key, now, now_kind = home
        if value is None:
            if kind == now_kind or r4().types[now_kind].kind == "primitive-type":
                placing.placed.setdefault(key, []).append((None, sibling, place))
                return True
            # "Not known", say, of a code that R4 has as a concept: an object can hold it where R4 asks for no more.
            if "." in now_kind or required(now_kind) or type(sibling) is not dict:
                return False
            placing.placed.setdefault(key, []).append((dict(sibling), None, place))
            return True
        done = cast(value, kind, now_kind, element, self._release)
        if done is None:
            return False
        made = done.value
        if type(made) is dict:
            self._fit_cast(value, made, kind, now_kind, place)
        translated = self._translated(made, now, now_kind, path)
        if translated is None or not self._may_point(made, now, now_kind, element):
            return False
        is_whole = done.is_whole and (translated == made or (path_of(element, path), str(made)) in self._same)
        if not is_whole:
            self._fit_within(value, kind, place)
            note = extension_of(self._release, url_of(self._release.release, path_of(element, path)), kind, value)
            translated, sibling = with_note(translated, sibling, note)
        if sibling is not None and type(translated) is dict and type(value) is not dict:
            translated = {**sibling, **translated}
            sibling = None
        placing.placed.setdefault(key, []).append((translated, sibling, place))
        return True

    def _fit_cast(self, value: Any, made: dict[str, Any], kind: str, now_kind: str, place: str) -> None:
        """Fit what a cast has made: the value itself, a piece of it, or something around it."""
        sent = kind if kind in self._release.types else None
        if made is value:
            self.object(made, now_kind, sent, place)
        elif type(value) is dict and value.get("coding", [None])[0] is made:
            self.object(made, now_kind, sent, f"{place}.coding[0]")
        else:
            if type(value) is dict:
                self.object(value, kind, sent, place)
            self._unheard().object(made, now_kind, sent, place)

    def _translated(self, value: Any, element: Element, kind: str, path: str) -> Any:
        """Return a value with a code that R4 allows, or None when R4 has none for it."""
        if element.codes is None:
            return value
        codes = r4().codes[element.codes]
        if kind in ("code", "string", "uri"):
            if any(value in found for found in codes.values()):
                return value
            key = (path.removesuffix("[x]"), value)
            return self._same.get(key) or self._wider.get(key) or None
        if kind == "CodeableConcept":
            codings = value.get("coding", ())
            fits = any(c.get("code") in codes.get(c.get("system", ""), ()) for c in codings)
            return value if fits or (not codings and "extension" in value) else None
        if kind == "Coding" and "code" in value:
            return value if any(value["code"] in found for found in codes.values()) else None
        return value

    def _may_point(self, value: Any, element: Element, kind: str, sent: Element | None) -> bool:
        if kind != "Reference" or not element.targets or (sent is not None and sent.targets == element.targets):
            return True
        target = type_of(value, self._contained)
        return target is None or type_in_r4(target) in element.targets

    def _move_out(
        self,
        placing: Placing,
        kind: str,
        element: Element | None,
        value: Any,
        sibling: Any,
        path: str,
        place: str,
    ) -> None:
        is_told = any((path, code) in self._wider for code in codes_of(value))
        turns = element is not None and element.modifier and value is not False
        if (turns or value == "entered-in-error") and not is_told and path not in _HARMLESS:
            text = (
                f"R4 has no place for what {path} says here, and it can turn the record's meaning around; "
                f"a rule of the pack with 'from: {self._release.release}' can decide"
            )
            raise Unconvertible(Issue("error", "not-supported", text, place))
        self._fit_within(value, kind, place)
        url = url_of(self._release.release, path_of(element, path))
        placing.extensions.append(extension_of(self._release, url, kind, value, sibling))

    def _fit_within(self, value: Any, kind: str, place: str) -> None:
        """Give a value that goes into an extension R4's shape, down to what R4 knows."""
        if type(value) is not dict:
            return
        if is_value(kind):
            self.object(value, kind, kind, place)
            return
        known = keys_of(self._release.release, kind)
        for key, below in value.items():
            child = known[key][1] if key in known else "Extension" if key == "extension" else None
            for index, item in enumerate(below if type(below) is list else [below]):
                if child is not None and type(item) is dict:
                    where = f"{place}.{key}[{index}]" if type(below) is list else f"{place}.{key}"
                    self._fit_within(item, child, where)

    def _all_out(self, holder: dict[str, Any], key: str, path: str, place: str, number: int) -> list[dict[str, Any]]:
        """Move out an element that no release knows by this name."""
        placing = Placing()
        kind = guessed(holder.get(key))
        for item, sibling, where in _placed_items(holder, key, place):
            self._move_out(placing, kind, None, item, sibling, path, where)
        self._write(holder, key, placing, [], place, number)
        return placing.extensions

    def _write(
        self, holder: dict[str, Any], key: str, placing: Placing, homes: list[Home], place: str, number: int
    ) -> None:
        """Put what was placed where the element stood."""
        before = {k: holder[k] for k in (key, "_" + key) if k in holder}
        after: dict[str, Any] = {}
        read: dict[str, dict[str, str]] = {}
        for name, element, _kind in homes:
            found = placing.placed.get(name)
            if not found:
                continue
            values, siblings = [v for v, _, _ in found], [s for _, s, _ in found]
            if any(v is not None for v in values):
                after[name] = values if element.many else values[0]
                held = 0 if name in before else len(listed(holder.get(name)))
                read[name] = {f"[{held + n}]" if element.many else "": w for n, (_, _, w) in enumerate(found)}
            if any(s is not None for s in siblings):
                after["_" + name] = siblings if element.many else siblings[0]
        self._tell_extensions(placing.extensions, before, place, number)
        if after == before:
            return
        sent = dict(holder)
        holder.clear()
        for name, value in sent.items():
            if name not in before:
                holder.setdefault(name, value)
                continue
            for added, made in after.items():
                # Another element went to the same home: both stand in the list.
                there = None if added in before else sent.get(added)
                holder[added] = [*there, *made] if type(there) is list and type(made) is list else made
        names = dict.fromkeys([*before, *after])
        regroup(
            self._draft,
            self._by,
            place,
            {name: sent.get(name) for name in names},
            {name: holder.get(name) for name in names},
            read,
        )

    def _tell_extensions(
        self, made: list[dict[str, Any]], before: Mapping[str, Any], place: str, number: int
    ) -> None:
        """Put extensions on record while what they hold still stands in its element."""
        if not made:
            return
        pieces = Pieces({f"{place}.{key}": value for key, value in before.items()})
        for index, each in enumerate(made, number):
            where = f"{place}.extension[{index}]"
            self._draft.changed(self._by, where, None, each, sources=pieces.sources(each, where))

    def _system(self, holder: dict[str, Any], place: str) -> None:
        before = holder.get("system")
        after = _system(before, self._renamed) if type(before) is str else before
        if after != before:
            holder["system"] = after
            self._draft.changed(self._by, f"{place}.system", before, after)

    def _mark_absent(
        self, holder: dict[str, Any], name: str, sent: str | None, place: str, moved: list[dict[str, Any]]
    ) -> None:
        """Mark what R4 requires and the sender's release did not, or what could not stay."""
        old = self._release.types.get(sent or name)
        for element in required(name):
            keys = element.json_keys()
            if any(key in holder or "_" + key in holder for key in keys):
                continue
            before = old.elements.get(element.name) if old else None
            if before is not None and before.min > 0 and not moved:
                continue
            key, kind = next(iter(keys.items()))
            written, value = absent(element, key, kind)
            holder[written] = value
            self._draft.changed(self._by, f"{place}.{written}", None, value)

    def basic(self, body: dict[str, Any], sent: str) -> None:
        """Make a Basic of a resource whose type R4 lacks; every element of its own becomes an extension."""
        known = keys_of(self._release.release, sent)
        about = next((key for key in _ABOUT if key in known and known[key][1] == "Reference" and key in body), None)
        made: list[dict[str, Any]] = []
        kept: dict[str, Any] = {"resourceType": BASIC}
        for key in plain_keys(body):
            if known.get(key, ("", ""))[1] == "code" and body.get(key) == "entered-in-error":
                text = "a Basic cannot say that it was entered in error, and would look valid"
                raise Unconvertible(Issue("error", "not-supported", text, f"{sent}.{key}"))
            if key in _SHARED or (key == "identifier" and known[key][0].many):
                kept |= {k: body[k] for k in (key, "_" + key) if k in body}
            elif key == about and type(body[key]) is dict:
                kept["subject"] = body[key]
            elif key != "resourceType":
                made += self._child_of_basic(body, key, known.get(key), sent)
        kept["code"] = {"coding": [{"system": _TYPES.get(self._release.release, _FHIR_TYPES), "code": sent}]}
        before = dict(body)
        body.clear()
        body.update(kept)
        extend(body, made)
        regroup(self._draft, self._by, sent, before, body, {"resourceType": {"": f"{sent}.resourceType"}})
        self.object(body, BASIC, None, BASIC)

    def _child_of_basic(
        self, body: dict[str, Any], key: str, known: tuple[Element, str] | None, sent: str
    ) -> list[dict[str, Any]]:
        element, kind = known if known else (None, "string")
        url = url_of(self._release.release, path_of(element, f"{sent}.{key}"))
        made = []
        for item, sibling, where in _placed_items(body, key, sent):
            self._fit_within(item, kind, where)
            made.append(extension_of(self._release, url, kind, item, sibling))
        return made


def _placed_items(holder: Mapping[str, Any], key: str, place: str) -> Iterator[tuple[Any, Any, str]]:
    """Every value under a key with what stands beside it and its place."""
    is_list = type(holder.get(key, holder.get("_" + key))) is list
    for index, (item, sibling) in enumerate(items_of(holder, key)):
        yield item, sibling, f"{place}.{key}[{index}]" if is_list else f"{place}.{key}"


def _system(system: str, renamed: Mapping[str, str]) -> str:
    match = _TABLE_SYSTEM.fullmatch(system)
    if match:
        return f"http://terminology.hl7.org/CodeSystem/{match[1]}-{match['name']}"
    return renamed.get(system, system)


@cache
def _allowed(url: str) -> frozenset[str]:
    return frozenset().union(*r4().codes[url].values())


@cache
def _resource_types() -> frozenset[str]:
    return r4().resource_types()
