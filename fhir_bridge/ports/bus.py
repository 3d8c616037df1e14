"""The bus that carries messages from institutions; embedded spool or Apache Kafka behind one promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from fhir_bridge.model.ingest import Position

Origins = Mapping[tuple[str, int], str]
"""Stream and partition → which making of the stream a position is of: one may be made anew under the old name."""
NO_ORIGINS: Final[Origins] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """One message with the place it stood at; ``headers`` are as sent (content-type, fhir-version …).

    ``tombstone`` is the key of a Kafka record that has no value: it says that what it names is gone.
    """

    position: Position
    institution: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    tombstone: bytes | None = None


class Notice(StrEnum):
    """What a bus can tell a sender on a stream of its own."""

    DEAD = "dead"
    """Why a message, or entries of it, could not be taken."""
    CHANGES = "changes"
    """Which of its records have a new version on the ledger."""


class Bus(Protocol):
    """At-least-once delivery, in order within a partition; the vault's stored position is the truth.

    A reader starts from positions it is given, so what was committed in the
    vault is never delivered again after a restart, and what was not is.
    """

    name: str
    notices: frozenset[Notice]
    """What it is set up to tell senders of."""

    async def start(
        self, institutions: Sequence[str], positions: Sequence[Position], origins: Origins = NO_ORIGINS
    ) -> None:
        """Begin reading the institutions' streams, each partition from its stored position or the beginning.

        Args:
            origins: What :meth:`origins` said when the positions were stored.

        Raises:
            Unavailable: The broker does not answer; safe to retry.
        """
        ...

    def origins(self) -> Origins:
        """Return what is to be stored before any position of a message that was taken by now."""
        ...

    def unread(self) -> Mapping[str, str]:
        """Return the streams of which something cannot be read at all now, and the kind of error; others are read."""
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

    def halted(self) -> Sequence[Position]:
        """Return where partitions stand whose next message the bus no longer holds, or whose stream was made anew.

        The others are read on.
        """
        ...

    async def oldest(self, halted: Position) -> Position:
        """Return the oldest message that the bus still holds of a halted partition, or where the next will stand.

        Raises:
            Unavailable: The bus does not answer.
        """
        ...

    async def go_on(self, position: Position) -> None:
        """Read a halted partition on from a position; what it held before is given up."""
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

    async def put_notice(
        self, institution: str, kind: Notice, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Publish a notice of a kind that :attr:`notices` names; the vault holds the truth."""
        ...

    async def close(self) -> None:
        """Stop reading and release connections."""
        ...
