"""Source formats: what is not FHIR on the wire, read into FHIR in front of the first room.

A message of such a format (CSV today) becomes resources of R4, each with the bytes it was made of and with words for
where it stood, so that validation, rules, lineage and dead letters go on as for any other message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fhir_bridge.errors import Issue


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one part of a message (a row) gave.

    Attributes:
        index: Number of the part in its message, from 0.
        place: Where it stood, in the sender's words: ``row 17``.
        original: The bytes it was made of; reading them alone gives the same resource again.
        resource: In R4, not yet validated; None where ``issues`` has an error.
        sources: Element (``Patient.name[0].family``) → the part of the message it was made of (``column 'surname'``).
    """

    index: int
    place: str
    original: bytes
    resource: dict[str, Any] | None
    issues: tuple[Issue, ...]
    sources: Mapping[str, str]

    def source_of(self, element: str) -> str | None:
        """Return what an element was made of: the part named for it, above it, or, if only one is, beneath it."""
        above = element
        while above:
            if above in self.sources:
                return self.sources[above]
            above = above[: max(above.rfind("."), above.rfind("["), 0)]
        beneath = {words for at, words in self.sources.items() if at.startswith((f"{element}.", f"{element}["))}
        return beneath.pop() if len(beneath) == 1 else None


class SourceFormat(Protocol):
    """Reads messages of one format as one institution writes them. Pure; the same bytes give the same resources."""

    def takes(self, content_type: str) -> bool:
        """Tell whether a message that says it is ``content_type`` is of this format."""
        ...

    def read(self, message: bytes, content_type: str, max_parts: int) -> tuple[Drawn, ...]:
        """Return a :class:`Drawn` for each part of the message, in order: none is passed over, none blocks another.

        Raises:
            RecordRefused: The message as a whole cannot be read, or has more than ``max_parts`` parts.
        """
        ...

    def reread(self, original: bytes) -> Iterator[Drawn]:
        """Yield what the original of one part can have given, whatever its message said beside it.

        Of several, the identity of a record tells which one it is.
        """
        ...
