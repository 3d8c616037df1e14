"""Cut a stream of bytes into the lines of NDJSON, holding no more of a line than the limit there is for one.

http://ndjson.org: lines end with LF, a CR before it belongs to the end, and the
last one may lack both. Blank lines are counted and passed over.
"""

from __future__ import annotations

from fhir_bridge.ports.imports import Line


class LineCutter:
    """Takes a body piece by piece, gives its lines; one longer than ``max_bytes`` is given without its bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 1
        self._begun = bytearray()
        self._is_too_long = False

    def feed(self, piece: bytes) -> list[Line]:
        """Return the lines that end in this piece."""
        found: list[Line] = []
        *whole, rest = piece.split(b"\n")
        for part in whole:
            self._extend(part)
            found += self.end()
            self._number += 1
        self._extend(rest)
        return found

    def end(self) -> list[Line]:
        """Return the line that has begun, unless it is blank: behind the last piece, the one that lacks its end."""
        body = bytes(self._begun).strip(b" \t\r")
        is_too_long = self._is_too_long
        self._begun.clear()
        self._is_too_long = False
        return [Line(self._number, body, is_too_long)] if body or is_too_long else []

    def _extend(self, part: bytes) -> None:
        if self._is_too_long or len(self._begun) + len(part) > self._max_bytes:
            self._is_too_long = True
            self._begun.clear()
        else:
            self._begun += part
