"""The bus that carries messages from institutions; embedded spool or Apache Kafka behind one promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fhir_bridge.model.ingest import Position


@dataclass(frozen=True, slots=True)
class Message:
    """One message with the place it stood at; ``headers`` are as sent (content-type, fhir-version …)."""

    position: Position
    institution: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Bus(Protocol):
    """At-least-once delivery, in order within a partition; the vault's stored position is the truth.

    A reader starts from positions it is given, so what was committed in the
    vault is never delivered again after a restart, and what was not is.
    """

    name: str

    async def start(self, institutions: Sequence[str], positions: Sequence[Position]) -> None:
        """Begin reading the institutions' streams, each partition from its stored position or the beginning.

        Raises:
            Unavailable: The broker does not answer; safe to retry.
        """
        ...

    async def subscribe(self, institution: str) -> None:
        """Read one more institution's stream from its beginning."""
        ...

    async def take(self, *, max_messages: int, max_bytes: int, wait_ms: int) -> Sequence[Message]:
        """Return the next messages, at least one if any comes within ``wait_ms``; order within a partition holds.

        Delivers each message once per start; raises nothing for an idle bus.

        Raises:
            Unavailable: The connection is lost; call again.
        """
        ...

    async def acknowledge(self, positions: Sequence[Position]) -> None:
        """Advise the bus that the vault holds everything up to and including these positions.

        Kafka's committed offset is one beyond; the spool deletes what it no longer needs. Several positions of one
        partition count as the highest.
        """
        ...

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages :meth:`take` has still to return, by institution.

        Raises:
            Unavailable: The bus does not answer.
        """
        ...

    async def put(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Position:
        """Append a message for an institution; returns once the bus holds it durably."""
        ...

    async def put_dead_letter(self, institution: str, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Publish a copy of a dead letter; the vault holds the truth."""
        ...

    async def close(self) -> None:
        """Stop reading and release connections."""
        ...
