"""Cut a Bundle into entries without touching their bytes.

For intake, which stores each entry exactly as it came: decoding and encoding again would keep the meaning
but not the bytes, and the commitment of a record binds the bytes.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, overload

import msgspec

from fhir_bridge.fhir.json import MAX_BYTES, MAX_DEPTH, NotStrictJson, parse, parse_any
from fhir_bridge.model.blocks import in_blocks

_ENTRIES_AT_ONCE: Final = 256
_ENTRY_DEPTH: Final = 2
"""An entry stands in the array of a Bundle."""


class EntryParts(msgspec.Struct, frozen=True):
    """One entry: exact slices, and the same decoded.

    Attributes:
        raw: Exact bytes of the entry.
        value: The entry decoded; anything a sender may put into an array.
        full_url: ``fullUrl``, when it is a string.
        resource: The decoded resource, or None without one.
        request: ``request``, whatever that is.
    """

    index: int
    raw: bytes
    value: Any
    full_url: str | None
    resource: Any
    request: Any

    @classmethod
    def of(cls, index: int, raw: bytes, value: Any) -> EntryParts:
        """Take an entry apart."""
        if type(value) is not dict:
            return cls(index, raw, value, None, None, None)
        return cls(index, raw, value, _text(value, "fullUrl"), value.get("resource"), value.get("request"))

    def __repr__(self) -> str:
        """Tell which entry this is and nothing that stands in it."""
        return f"EntryParts({self.index})"

    @property
    def resource_raw(self) -> bytes | None:
        """Exact bytes of its resource, or None without one; cut out each time, since an entry is kept whole."""
        if type(self.value) is dict and "resource" in self.value:
            return bytes(_ENTRY.decode(self.raw).resource)
        return None

    @property
    def method(self) -> str | None:
        """``request.method``."""
        return _text(self.request, "method")

    @property
    def url(self) -> str | None:
        """``request.url``."""
        return _text(self.request, "url")

    @property
    def if_match(self) -> str | None:
        """``request.ifMatch``."""
        return _text(self.request, "ifMatch")

    @property
    def if_none_match(self) -> str | None:
        """``request.ifNoneMatch``."""
        return _text(self.request, "ifNoneMatch")

    @property
    def if_none_exist(self) -> str | None:
        """``request.ifNoneExist``."""
        return _text(self.request, "ifNoneExist")


@dataclass(frozen=True, slots=True)
class BundleParts:
    """A Bundle and its entries.

    Attributes:
        value: The whole, decoded; without its entries where those are decoded each time they are asked for.
        types_by_url: ``fullUrl`` → type of the resource of an entry.
    """

    value: dict[str, Any] = field(repr=False)
    entries: Sequence[EntryParts]
    types_by_url: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def are_decoded(self) -> bool:
        """False if every entry is decoded, strictly, each time it is asked for, and held by nobody."""
        return not isinstance(self.entries, _DecodedAnew)

    def blocks(self) -> Iterator[tuple[dict[str, Any], Sequence[EntryParts]]]:
        """Yield the Bundle as it is with some of its entries, and those, until all were given."""
        if self.are_decoded:
            yield self.value, self.entries
            return
        for some in in_blocks(self.entries, _ENTRIES_AT_ONCE, lambda entry: len(entry.raw)):
            yield self.value | {"entry": [each.value for each in some]}, some

    @property
    def type(self) -> str | None:
        """``Bundle.type``."""
        return _text(self.value, "type")

    @property
    def id(self) -> str | None:
        """``Bundle.id``."""
        return _text(self.value, "id")

    @property
    def identifier(self) -> Any:
        """``Bundle.identifier`` as it came."""
        return self.value.get("identifier")

    @property
    def timestamp(self) -> str | None:
        """``Bundle.timestamp``."""
        return _text(self.value, "timestamp")


def split_bundle(data: bytes, *, max_depth: int = MAX_DEPTH, max_bytes: int = MAX_BYTES) -> BundleParts:
    """Decode a Bundle strictly and give the exact byte slice of every entry and resource.

    Raises:
        NotStrictJson: As :func:`fhir_bridge.fhir.json.parse` does.
    """
    return cut(data, parse(data, max_depth=max_depth, max_bytes=max_bytes))


def cut(data: bytes, value: dict[str, Any]) -> BundleParts:
    """Cut ``data``, which :func:`~fhir_bridge.fhir.json.parse` has already decoded to ``value``.

    Strict decoding ruled out duplicate keys, so both readers see the same entries.
    """
    listed = value.get("entry")
    if type(listed) is not list:
        return BundleParts(value, ())
    raws = _BUNDLE.decode(data).entry
    entries = tuple([EntryParts.of(i, bytes(raw), listed[i]) for i, raw in enumerate(raws)])
    types: dict[str, str] = {}
    for entry in entries:
        _note_type(entry, types)
    return BundleParts(value, entries, types)


def cut_in_turn(data: bytes | memoryview, *, max_depth: int = MAX_DEPTH) -> BundleParts | None:
    """Cut a Bundle of which no more than one entry is to be decoded at a time.

    None where that cannot be done: for a Bundle without entries, for one in which something else looks like the
    beginning of its entries, and for whatever is not strict JSON, which decoding it whole tells best.

    Args:
        data: Must stay as it is while anybody holds the entries, which are read from it.
    """
    try:
        raws = _BUNDLE.decode(data).entry
        entries = _DecodedAnew(data, max_depth - _ENTRY_DEPTH)
        shell = _without_entries(data, raws, entries)
        value = parse(shell, max_depth=max_depth) if shell is not None else {}
        if not raws or value.get("entry") != []:
            return None
        del raws
        types: dict[str, str] = {}
        for entry in entries:
            _note_type(entry, types)
    except (msgspec.MsgspecError, RecursionError, NotStrictJson):
        return None
    return BundleParts(value, entries, types)


class _DecodedAnew(Sequence[EntryParts]):
    """See :attr:`BundleParts.are_decoded`."""

    def __init__(self, data: bytes | memoryview, max_depth: int) -> None:
        self._data = data
        self._max_depth = max_depth
        # An eighth of what a list of slices takes.
        self._starts, self._ends = array("Q"), array("Q")

    def add(self, start: int, end: int) -> None:
        """Learn where the next entry lies."""
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> EntryParts: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EntryParts]: ...
    def __getitem__(self, index: int | slice) -> EntryParts | Sequence[EntryParts]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        raw = bytes(self._data[self._starts[index] : self._ends[index]])
        return EntryParts.of(index, raw, parse_any(raw, max_depth=self._max_depth, max_bytes=len(raw)))


def _without_entries(data: bytes | memoryview, raws: list[msgspec.Raw], entries: _DecodedAnew) -> bytes | None:
    """Return a Bundle with an empty array where its entries were; None if they are not found where they should be.

    ``entries`` learns where they are.

    That they were found is for the caller to see: the Bundle that is left has an empty ``entry`` of its own.
    """
    begun = _BEGIN.search(data)
    if begun is None:
        return None
    at = begun.end()
    for number, raw in enumerate(map(bytes, raws)):
        between = (_BETWEEN if number else _SPACE).match(data, at)
        at = between.end() if between is not None else len(data)
        if bytes(data[at : at + len(raw)]) != raw:
            return None
        entries.add(at, at + len(raw))
        at += len(raw)
    end = _END.match(data, at)
    return bytes(data[: begun.end()]) + b"]" + bytes(data[end.end() :]) if end is not None else None


def _note_type(entry: EntryParts, types: dict[str, str]) -> None:
    name = entry.resource.get("resourceType") if type(entry.resource) is dict else None
    if entry.full_url is not None and type(name) is str:
        types[entry.full_url] = name


class _Bundle(msgspec.Struct):
    entry: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    resource: msgspec.Raw


_BUNDLE = msgspec.json.Decoder(_Bundle)
_BEGIN = re.compile(rb'"entry"[ \t\r\n]*:[ \t\r\n]*\[')
_SPACE = re.compile(rb"[ \t\r\n]*")
_BETWEEN = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_END = re.compile(rb"[ \t\r\n]*\]")
_ENTRY = msgspec.json.Decoder(_Entry)


def _text(holder: Any, name: str) -> str | None:
    found = holder.get(name) if type(holder) is dict else None
    return found if type(found) is str else None
