"""More patients than the hospitals have: one sent again under other ids, each record alone."""

from __future__ import annotations

import re
import uuid

import msgspec

from tests.support.hospitals import Lane

_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WITHIN = re.compile(rb'"urn:uuid:([0-9a-f-]{36})"')
"""A reference to another record of the same bundle, as a record that stands alone cannot have it."""


class Named(msgspec.Struct):
    """What names a record: type and local id."""

    type: str = msgspec.field(name="resourceType")
    id: str

    @classmethod
    def of(cls, body: bytes) -> Named:
        """Read a resource."""
        return msgspec.json.decode(body, type=cls)


class _Entry(msgspec.Struct):
    resource: msgspec.Raw


class _Bundle(msgspec.Struct):
    entry: list[_Entry]


def copy_of(lane: Lane, number: int) -> tuple[str, list[bytes]]:
    """Return the patient's local id and all records in their order, as they were sent for copy 0, else renamed.

    What the lane does not hold itself (practitioners, organisations) keeps its name.
    """
    bodies = [bytes(e.resource) for m in lane.messages for e in msgspec.json.decode(m, type=_Bundle).entry]
    own = {each.id.encode(): each.type.encode() for each in map(Named.of, bodies)}
    bodies = [_WITHIN.sub(lambda found: b'"' + own[found[1]] + b"/" + found[1] + b'"', body) for body in bodies]

    def other(found: re.Match[bytes]) -> bytes:
        if found[0] not in own:
            return found[0]
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number}/{found[0].decode()}")).encode()

    renamed = bodies if number == 0 else [_UUID.sub(other, body) for body in bodies]
    return Named.of(renamed[0]).id, renamed
