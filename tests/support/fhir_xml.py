"""Read a FHIR resource from XML into the JSON form, for test suites whose inputs come as XML.

FHIR R4 json.html says how both correspond. Only what the suites' inputs have is read: no comments, no entities.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

from fhir_bridge.fhir.tables import Element, r4

_XHTML = "{http://www.w3.org/1999/xhtml}"
_NUMBERS = frozenset({"integer", "positiveInt", "unsignedInt"})


def resource_from_xml(text: bytes) -> dict[str, Any]:
    """Return the JSON form of one resource."""
    return _resource(ElementTree.fromstring(text))


def _resource(element: ElementTree.Element) -> dict[str, Any]:
    name = _name(element)
    return {"resourceType": name, **_object(element, name)}


def _object(element: ElementTree.Element, type_name: str) -> dict[str, Any]:
    made: dict[str, Any] = dict(element.attrib)
    elements = {
        key: (e, kind) for e in r4().types[type_name].elements.values() for key, kind in e.json_keys().items()
    }
    for child in element:
        key = _name(child)
        definition, kind = elements[key]
        _put(made, key, definition, *_value(child, kind))
    return made


def _value(element: ElementTree.Element, kind: str) -> tuple[Any, Any]:
    """The value of an element, and what stands beside it if it is a primitive."""
    if element.tag == f"{_XHTML}div":
        return ElementTree.tostring(element, "unicode"), None
    if kind == "Resource":
        return _resource(element[0]), None
    if r4().types[kind].kind != "primitive-type":
        return _object(element, kind), None
    beside = {k: v for k, v in element.attrib.items() if k != "value"}
    extensions = [_object(each, "Extension") for each in element]
    if extensions:
        beside["extension"] = extensions  # type: ignore[assignment]  # a text until here, a list from here
    return _primitive(element.get("value"), kind), beside or None


def _primitive(text: str | None, kind: str) -> Any:
    if text is None:
        return None
    if kind == "boolean":
        return text == "true"
    return int(text) if kind in _NUMBERS else Decimal(text) if kind == "decimal" else text


def _put(made: dict[str, Any], key: str, definition: Element, value: Any, beside: Any) -> None:
    if not definition.many:
        made.update({k: v for k, v in ((key, value), ("_" + key, beside)) if v is not None})
        return
    values, besides = made.setdefault(key, []), made.get("_" + key)
    if beside is not None and besides is None:
        besides = made["_" + key] = [None] * len(values)
    values.append(value)
    if besides is not None:
        besides.append(beside)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
