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
from collections.abc import Mapping
from functools import cache
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.reference_text import contained_types, type_of
from fhir_bridge.fhir.releases import BASIC, WITHOUT_R4, type_in_r4
from fhir_bridge.fhir.tables import Definitions, Element, r4
from fhir_bridge.normalize.code_maps import CodeMap
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
from fhir_bridge.normalize.functions.homes import Home, Placing, codes_of, extend, homes_of, path_of, with_note
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
    renamed = {code: t.code for (_s, code), t in _table(args, "map").items()}
    same = {key: t.code for key, t in _table(args, "codes").items()}
    wider = _wider(args)

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


def _table(args: Args, key: str) -> Mapping[tuple[str, str], Any]:
    if args.values.get(key) is None:
        return {}
    table: CodeMap = args.named(key, args.bench.tables.maps, "map")
    return table.targets


def _wider(args: Args) -> dict[tuple[str, str], str]:
    """Codes for which R4 has only a wider one, or none (an empty text) and it does no harm to go without."""
    if args.values.get("wider") is None:
        return {}
    table: CodeMap = args.named("wider", args.bench.tables.maps, "map")
    return {key: rows[0].target.code for key, rows in table.by_code.items()}


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
                made += self._element(holder, key, known, old.get(was), f"{sent or name}.{was}", place)
        if made:
            if "extension" not in known:
                raise Unconvertible(Issue("error", "not-supported", f"R4 allows no extension on {name}", place))
            extend(holder, made)
            self._draft.changed(self._by, f"{place}.extension", None, made)
        self._mark_absent(holder, name, sent, place, made)

    def _element(
        self,
        holder: dict[str, Any],
        key: str,
        known: Mapping[str, tuple[Element, str]],
        origin: tuple[Element, str] | None,
        path: str,
        place: str,
    ) -> list[dict[str, Any]]:
        """Give one element its place in R4; return the extensions for what has none."""
        same = known.get(key)
        # Contained resources went through every rule before the one that holds them.
        if same is not None and same[1] == "Resource":
            return []
        if same is not None and origin is not None and self._stays(holder, key, (key, *same), origin, place):
            return []
        homes = homes_of(key, origin, known)
        kind = origin[1] if origin else homes[0][2] if homes else None
        if kind is None:
            return self._all_out(holder, key, path, place)
        element = origin[0] if origin else None
        placing = Placing()
        many = type(holder.get(key)) is list
        for index, (item, sibling) in enumerate(items_of(holder, key)):
            is_now = self._kind_of(item, kind, homes)
            where = f"{place}.{key}[{index}]" if many else f"{place}.{key}"
            self._place(placing, homes, is_now, element, item, sibling, path, where)
        self._write(holder, key, placing, homes, place)
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
        for part_kind, part in parts_of(kind, item):
            for home in homes:
                if not placing.is_full(home, homes) and self._take(
                    placing, home, part_kind, element, part, sibling, path, place
                ):
                    break
            else:
                self._move_out(placing, part_kind, element, part, sibling, path, place)

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
                placing.placed.setdefault(key, []).append((None, sibling))
                return True
            # "Not known", say, of a code that R4 has as a concept: an object can hold it where R4 asks for no more.
            if "." in now_kind or required(now_kind) or type(sibling) is not dict:
                return False
            placing.placed.setdefault(key, []).append((dict(sibling), None))
            return True
        done = cast(value, kind, now_kind, element, self._release)
        if done is None:
            return False
        made = done.value
        if type(made) is dict:
            self.object(made, now_kind, kind if kind in self._release.types else None, place)
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
        placing.placed.setdefault(key, []).append((translated, sibling))
        return True

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
            for item in below if type(below) is list else [below]:
                if child is not None and type(item) is dict:
                    self._fit_within(item, child, place)

    def _all_out(self, holder: dict[str, Any], key: str, path: str, place: str) -> list[dict[str, Any]]:
        """Move out an element that no release knows by this name."""
        placing = Placing()
        kind = guessed(holder.get(key))
        for item, sibling in items_of(holder, key):
            self._move_out(placing, kind, None, item, sibling, path, f"{place}.{key}")
        self._write(holder, key, placing, [], place)
        return placing.extensions

    def _write(self, holder: dict[str, Any], key: str, placing: Placing, homes: list[Home], place: str) -> None:
        """Put what was placed where the element stood."""
        before = {k: holder[k] for k in (key, "_" + key) if k in holder}
        after: dict[str, Any] = {}
        for name, element, _kind in homes:
            pairs = placing.placed.get(name)
            if not pairs:
                continue
            values, siblings = [v for v, _ in pairs], [s for _, s in pairs]
            if any(v is not None for v in values):
                after[name] = values if element.many else values[0]
            if any(s is not None for s in siblings):
                after["_" + name] = siblings if element.many else siblings[0]
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
                held = None if added in before else sent.get(added)
                holder[added] = [*held, *made] if type(held) is list and type(made) is list else made
        for name in dict.fromkeys([*before, *after]):
            self._draft.changed(self._by, f"{place}.{name}", sent.get(name), holder.get(name))

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
        self._draft.changed(self._by, sent, before, {"resourceType": BASIC})
        self._draft.changed(self._by, f"{BASIC}.extension", before.get("extension"), body.get("extension"))
        self.object(body, BASIC, None, BASIC)

    def _child_of_basic(
        self, body: dict[str, Any], key: str, known: tuple[Element, str] | None, sent: str
    ) -> list[dict[str, Any]]:
        element, kind = known if known else (None, "string")
        url = url_of(self._release.release, path_of(element, f"{sent}.{key}"))
        made = []
        for item, sibling in items_of(body, key):
            self._fit_within(item, kind, f"{sent}.{key}")
            made.append(extension_of(self._release, url, kind, item, sibling))
        return made


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
