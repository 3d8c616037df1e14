"""Made-up resources that fill every element the definitions have, for paths that no example touches.

They are no valid FHIR: what stands under a key has its type's form and nothing else, for all that a path sees is
keys, types, codes, URLs and references. Which type, code and target is chosen goes by a seed.
"""

from __future__ import annotations

from random import Random
from typing import Any

from fhir_bridge.fhir.tables import Element, r4

Json = dict[str, Any]

_DEPTH = 3
_NUMBERS = frozenset({"integer", "decimal", "positiveInt", "unsignedInt"})
_DATES = {"date": "20{:02}-01-01", "dateTime": "20{:02}-01-01", "instant": "20{:02}-01-01T00:00:00Z"}
_REFERENCES = ("{}/{}", "https://h.example.org/fhir/{}/{}", "{}/{}/_history/1", "urn:uuid:{}{}", "#inside")
_LEFT_OUT = frozenset({"extension", "modifierExtension", "contained", "text"})


class Filler:
    """Fills resources; ``urls`` are those of the extensions that a resource and its parts get."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self._urls = urls
        self._random = Random(seed)

    def resource(self, type_name: str) -> Json:
        """A resource of a type."""
        made = self._object(type_name, 0)
        return {"resourceType": type_name, **made, "contained": [{"resourceType": "Patient", "id": "inside"}]}

    def _object(self, type_name: str, depth: int) -> Json:
        elements = r4().types[type_name].elements
        made: Json = {}
        for element in elements.values():
            if element.name in _LEFT_OUT and (element.name, type_name) != ("text", "CodeableConcept"):
                continue
            key, found = self._random.choice(sorted(element.json_keys().items()))
            # Several of each, so that one choice stands beside another.
            several = 3 if depth < 2 else 2
            values = [self._value(element, found, depth) for _ in range(several if element.many else 1)]
            present = [each for each in values if each is not None]
            if present:
                made[key] = present if element.many else present[0]
        if depth < 2 and "extension" in elements and type_name != "Extension":
            made["extension"] = [{**self._object("Extension", _DEPTH), "url": url} for url in self._urls]
        return made

    def _value(self, element: Element, type_name: str, depth: int) -> Any:
        number = self._random.randrange(100)
        if type_name == "Reference":
            target = self._random.choice(element.targets or ("Patient", "Practitioner", "Location"))
            return {"reference": self._random.choice(_REFERENCES).format(target, number)}
        if type_name == "boolean":
            return bool(number % 2)
        if type_name in _NUMBERS:
            return number
        if type_name in _DATES:
            return _DATES[type_name].format(number)
        if type_name not in r4().types or r4().types[type_name].elements.keys() <= {"id", "extension", "value"}:
            return self._text(element, number)
        deepest = _DEPTH + 1 if "." in type_name else _DEPTH
        return (self._object(type_name, depth + 1) or None) if depth < deepest else None

    def _text(self, element: Element, number: int) -> str:
        codes = sorted(c for listed in r4().codes.get(element.codes or "", {}).values() for c in listed)
        return self._random.choice(codes) if codes else f"{element.name}-{number}"
