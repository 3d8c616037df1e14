"""How much of each record an answer shows: ``_summary`` and ``_elements``.

For the answer line, which applies a shape to bodies that it has opened. Without
one, bodies stay the bytes that were committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.subsets import (
    Subset,
    data_subset,
    element_names,
    elements_subset,
    summary_subset,
    text_subset,
)
from fhir_bridge.fhir.tables import r4
from fhir_bridge.query.refusals import QueryRefused, invalid

COUNT = "count"
SUMMARIES = ("true", "text", "data", COUNT, "false")
_CUTS: dict[str, Callable[[str], Subset]] = {"true": summary_subset, "text": text_subset, "data": data_subset}


@dataclass(frozen=True, slots=True)
class Shape:
    """What is shown of a record; nothing but the whole when both are unset."""

    summary: str | None = None
    elements: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True if bodies stay as they are."""
        return self.summary not in _CUTS and not self.elements

    def of(self, type_name: str, body: bytes) -> bytes:
        """Return the part of a record that is shown; a tombstone has no body to cut."""
        if self.is_whole or not body:
            return body
        if self.elements:
            return elements_subset(type_name, self.elements)(body)
        return _CUTS[self.summary or ""](type_name)(body)


WHOLE = Shape()


def read_shape(params: Sequence[tuple[str, str]], type_name: str | None, *, may_count: bool = False) -> Shape:
    """Read ``_summary`` and ``_elements`` among the parameters.

    Args:
        type_name: Type whose elements can be named; None for those of any type.
        may_count: ``_summary=count`` makes sense for this answer.

    Raises:
        QueryRefused: A value is unknown, or two of them ask for different parts.
    """
    given = [(name, text) for name, text in params if name in ("_summary", "_elements")]
    if len(given) > 1:
        raise QueryRefused([invalid(given[1][0], "is given beside another; ask for one part of the records")])
    if not given:
        return WHOLE
    name, text = given[0]
    if name == "_summary":
        return Shape(summary=_summary(text, params, may_count=may_count))
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= _known(type_name):
        raise QueryRefused([invalid(name, "names what is no element of the type at its top level")])
    return Shape(elements=names)


def _summary(text: str, params: Sequence[tuple[str, str]], *, may_count: bool) -> str:
    allowed = SUMMARIES if may_count else tuple(each for each in SUMMARIES if each != COUNT)
    if text not in allowed:
        raise QueryRefused([Issue("error", "not-supported", f"_summary takes {', '.join(allowed)} here", "_summary")])
    if text == "text" and any(name.startswith(("_include", "_revinclude")) for name, _ in params):
        # R4 search.html#summary: _include and _revinclude cannot be mixed with _summary=text.
        raise QueryRefused([invalid("_summary", "text cannot be mixed with _include and _revinclude")])
    return text


def _known(type_name: str | None) -> frozenset[str]:
    if type_name is not None:
        return element_names(type_name)
    return frozenset(name for each in r4().resource_types() for name in element_names(each))
