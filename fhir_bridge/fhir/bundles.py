"""Cut a Bundle into entries without touching their bytes.

For intake, which stores each entry exactly as it came: decoding and encoding again would keep the meaning
but not the bytes, and the commitment of a record binds the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from fhir_bridge.fhir.json import MAX_BYTES, MAX_DEPTH, parse


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
    """A Bundle and its entries; ``value`` is the whole, decoded."""

    value: dict[str, Any] = field(repr=False)
    entries: tuple[EntryParts, ...]

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
    return BundleParts(value, entries)


class _Bundle(msgspec.Struct):
    entry: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    resource: msgspec.Raw


_BUNDLE = msgspec.json.Decoder(_Bundle)
_ENTRY = msgspec.json.Decoder(_Entry)


def _text(holder: Any, name: str) -> str | None:
    found = holder.get(name) if type(holder) is dict else None
    return found if type(found) is str else None
