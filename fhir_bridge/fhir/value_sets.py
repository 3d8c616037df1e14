"""Value sets whose concepts are listed: what labels records, and what a search may ask for with ``:in``.

For normalisation, relabelling and search. Codes are compared by system and code alone; no terminology server stands
behind this, so a set is its list. The one exception is ICD-10, whose hierarchy is in the spelling of its codes.

Invariants:
    * the same sets have the same canonical bytes and digest, in whatever order and files they came;
    * two sets of one URL never differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from fhir_bridge.errors import IntegrityBroken, ValueSetBroken

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
"""Code system of the sensitivity labels (HL7 v3, as FHIR R4 publishes it)."""

SPELLED_SYSTEMS = frozenset(
    {
        "http://hl7.org/fhir/sid/icd-10",
        "http://hl7.org/fhir/sid/icd-10-cm",
        "http://fhir.de/CodeSystem/bfarm/icd-10-gm",
        "http://www.whocc.no/atc",
    }
)
"""Systems in which what a code begins with is what it is a kind of: ``B20`` above ``B20.1`` (ICD-10, ATC)."""

STEM_CHARS = 3
"""Characters of a category of ICD-10 or a group of ATC, the shortest code that a hierarchy can start at."""

_NO_CODES: frozenset[str] = frozenset()
Codes = Mapping[str, frozenset[str]]
Concept = tuple[str, str]
"""``(system, code)``."""


@dataclass(frozen=True, slots=True)
class ValueSet:
    """One value set.

    Attributes:
        codes: System → the codes listed.
        stems: System → categories of ICD-10 that stand for everything below them, spelled without the dot.
    """

    url: str
    version: str
    codes: Codes
    stems: Codes = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``url|version``, as lineage names it."""
        return f"{self.url}|{self.version}"

    @property
    def size(self) -> int:
        """Concepts listed; a category counts as one."""
        return sum(map(len, self.codes.values())) + sum(map(len, self.stems.values()))

    def holds(self, system: str, code: str) -> bool:
        """Tell whether a concept is in the set."""
        if code in self.codes.get(system, _NO_CODES):
            return True
        stems = self.stems.get(system)
        return stems is not None and not stems.isdisjoint(stems_of(code))

    def holds_code(self, code: str) -> bool:
        """Tell whether a bare code, whose system nothing says, is in the set."""
        return any(self.holds(system, code) for system in {*self.codes, *self.stems})


@dataclass(frozen=True, slots=True)
class Given:
    """One label that a record gets: its code, the set that says so, and the concepts found in the record."""

    label: str
    value_set: str
    concepts: tuple[Concept, ...]


class LabelSets:
    """The value sets in force: each labels records with one code of v3-ActCode, or none and is there for searches."""

    def __init__(self, sets: Iterable[tuple[str, ValueSet]]) -> None:
        """Take pairs of label and set; an empty label labels nothing.

        Raises:
            ValueSetBroken: A label has two sets, or two sets of one URL differ.
        """
        self.sets = tuple(sorted(sets, key=lambda each: (each[0], each[1].url, each[1].version)))
        self._by_url: dict[str, ValueSet] = {}
        self._labels: dict[Concept, tuple[int, ...]] = {}
        self._codes: set[str] = set()
        self._stems: dict[str, dict[str, tuple[int, ...]]] = {}
        self._check()
        for number, (label, each) in enumerate(self.sets):
            if label:
                self._enter(number, each)
        self.encoded = self._encode()
        self.digest = blake3(b"fhir-bridge/label-sets/1\0" + self.encoded).digest()

    @classmethod
    def decode(cls, encoded: bytes) -> LabelSets:
        """Read canonical bytes back.

        Raises:
            IntegrityBroken: They are no canonical bytes of sets.
        """
        try:
            found = [(each["label"], _decoded(each)) for each in json.loads(encoded)["sets"]]
            made = cls(found)
        except (ValueError, KeyError, TypeError, AttributeError, ValueSetBroken) as broken:
            raise IntegrityBroken("stored label sets do not decode") from broken
        if made.encoded != encoded:
            raise IntegrityBroken("stored label sets are not in their one encoding")
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """``url|version`` of every set, once."""
        return tuple(dict.fromkeys(each.name for _, each in self.sets))

    def find(self, asked: str) -> ValueSet | None:
        """Return the set of ``url`` or ``url|version``, or None."""
        url, _, version = asked.partition("|")
        found = self._by_url.get(url)
        return found if found is not None and version in ("", found.version) else None

    def may_label(self, coded: Iterable[Mapping[str, Any]]) -> bool:
        """Tell whether any of the objects with a ``code`` could be in a set; of most records none can."""
        codes, stems = self._codes, self._stems
        for each in coded:
            code = each["code"]
            if type(code) is str and (code in codes or each.get("system") in stems):
                return True
        return False

    def given(self, concepts: Iterable[Concept]) -> list[Given]:
        """Return the labels that concepts of a record imply, by label."""
        found: dict[int, set[Concept]] = {}
        for system, code in concepts:
            for number in self._labels.get((system, code), ()):
                found.setdefault(number, set()).add((system, code))
            stems = self._stems.get(system)
            for stem in stems_of(code) if stems is not None else ():
                for number in stems.get(stem, ()) if stems is not None else ():
                    found.setdefault(number, set()).add((system, code))
        return [
            Given(self.sets[number][0], self.sets[number][1].name, tuple(sorted(found[number])))
            for number in sorted(found)
        ]

    def _check(self) -> None:
        labelled: set[str] = set()
        for label, each in self.sets:
            if label and label in labelled:
                raise ValueSetBroken(f"two value sets are given for the label {label}; merge them into one")
            labelled.add(label)
            if self._by_url.setdefault(each.url, each) != each:
                raise ValueSetBroken(f"two value sets of the URL {each.url} differ; only one version can be in force")

    def _enter(self, number: int, each: ValueSet) -> None:
        for system, codes in each.codes.items():
            self._codes |= codes
            for code in codes:
                self._labels[system, code] = (*self._labels.get((system, code), ()), number)
        for system, stems in each.stems.items():
            table = self._stems.setdefault(system, {})
            for stem in stems:
                table[stem] = (*table.get(stem, ()), number)

    def _encode(self) -> bytes:
        sets = [
            {
                "label": label,
                "url": each.url,
                "version": each.version,
                "codes": {system: sorted(codes) for system, codes in each.codes.items()},
                "stems": {system: sorted(stems) for system, stems in each.stems.items()},
            }
            for label, each in self.sets
        ]
        return json.dumps({"format": 1, "sets": sets}, sort_keys=True, separators=(",", ":")).encode()


def stems_of(code: str) -> Iterator[str]:
    """Yield what an ICD-10 code begins with, from its category to itself, without the dot."""
    plain = code.replace(".", "").upper()
    for length in range(STEM_CHARS, len(plain) + 1):
        yield plain[:length]


def every_coding(body: Mapping[str, Any]) -> list[Concept]:
    """Return ``(system, code)`` of every coding of a resource and of what it contains, but those of ``meta``."""
    found: list[Concept] = []
    waiting: list[Any] = [value for key, value in body.items() if key != "meta"]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            code = value.get("code")
            if type(code) is str:
                found.append((value.get("system") or "", code))
            waiting += [v for v in value.values() if type(v) is dict or type(v) is list]
        elif type(value) is list:
            waiting += [v for v in value if type(v) is dict]
    return found


def _decoded(each: Mapping[str, Any]) -> ValueSet:
    codes, stems = (
        {str(system): frozenset(map(str, listed)) for system, listed in each[name].items()}
        for name in ("codes", "stems")
    )
    return ValueSet(str(each["url"]), str(each["version"]), codes, stems)
