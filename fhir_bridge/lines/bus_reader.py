"""Reads the bus into the ingest line, and tells whoever fed a message what became of it."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Final

from fhir_bridge import tracing
from fhir_bridge.errors import Unavailable, kind_of
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.media_types import version_named
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.ingest import Anchored, Interaction, Position, Received
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.bus import NO_ORIGINS, Bus, Message, Origins
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.telemetry import logger
from fhir_bridge.tracing import Kind

SIGNATURE_HEADER: Final = "jws-signature"
"""Header of a message that bears its sender's detached JWS."""
ORIGINS: Final = "bus-origins"
"""``bus/stream/partition`` → which making of its stream the stored position is of."""

_log = logger("bus")
_WAIT_MS = 200
_MAX_MESSAGES = 64
_MAX_BYTES = 8 << 20
_ACKNOWLEDGE_S = 0.2
_RETRY_S = 1.0
_NAMED = re.compile(rb"([A-Z][A-Za-z]{1,63})/([A-Za-z0-9.-]{1,64})")


class BusReader:
    """One reader of one bus; positions come from the vault, so a restart reads on where the vault stands."""

    def __init__(self, *, bus: Bus, vault: Vault, registry: Registry, ingest: IngestLine, clock: Clock) -> None:
        self._bus = bus
        self._vault = vault
        self._registry = registry
        self._ingest = ingest
        self._clock = clock
        self._waiting: dict[Position, asyncio.Future[Anchored]] = {}
        self._early: dict[Position, Anchored] = {}
        self._feeding = 0
        self._taken: deque[Message] = deque()
        self._origins: Origins = NO_ORIGINS
        self._is_begun = self._is_pausing = self._has_ended = False
        self.is_reading = False
        self._committed: list[Position] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to read every institution's stream; a bus that does not answer yet is waited for."""
        self._tasks = [asyncio.create_task(self._read_forever()), asyncio.create_task(self._acknowledge_forever())]

    async def stop(self) -> None:
        """Stop reading; call it when the line has finished what it took."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end_reading()
        await self._acknowledge()
        await self._bus.close()

    async def pause(self) -> None:
        """Take no further message; those on the line go on."""
        # asyncio.wait_for of Python 3.11 swallows a cancellation that meets its result, so cancelling is not enough.
        self._is_pausing = True
        if self._tasks:
            self._tasks[0].cancel()
            await asyncio.gather(self._tasks[0], return_exceptions=True)

    async def lag(self) -> Mapping[str, int]:
        """Return how many messages wait on the bus, by institution; those on the line are not among them."""
        return await self._bus.lag() if self._is_begun and not self._has_ended else {}

    async def behind(self) -> Container[str]:
        """Return the institutions of which messages may wait on the bus: all of them while some of it is not read.

        Raises:
            Unavailable: The bus does not tell.
        """
        if not self.is_reading or self._bus.unread():
            return frozenset(self._registry.institutions)
        return frozenset(name for name, waiting in (await self._bus.lag()).items() if waiting)

    def halted(self) -> Sequence[Position]:
        """Return where partitions stand whose next message is gone from the bus."""
        return self._bus.halted() if self._is_begun else ()

    def unread(self) -> Mapping[str, str]:
        """Return the streams of which something cannot be read now, and the kind of error."""
        return self._bus.unread() if self._is_begun else {}

    async def go_on(self, halted: Position) -> Position:
        """Give up what a halted partition has lost: read on with the oldest message that is still there.

        Raises:
            Unavailable: The bus or the vault does not answer; the partition is still halted.
        """
        oldest = await self._bus.oldest(halted)
        # The vault first: after a crash in between, a restart reads on from there as well.
        await self._vault.commit(Work(positions=[replace(oldest, offset=oldest.offset - 1)]), None)
        await self._bus.go_on(oldest)
        _log.error("read on behind a gap", partition=oldest.partition, offset=oldest.offset)
        return oldest

    async def subscribe(self, institution: str) -> None:
        """Read one more institution's stream."""
        if self._is_begun:
            await self._bus.subscribe(institution)

    async def feed(self, institution: str, body: bytes, content_type: str, signature: str = "") -> Anchored:
        """Put a message on the bus, durably, and wait until this reader has brought it through the line.

        Raises:
            Unavailable: Not put, or put while nothing reads the bus; sending it again changes nothing twice.
        """
        if self._has_ended:
            raise _not_read()
        self._feeding += 1
        try:
            given = {"content-type": content_type, SIGNATURE_HEADER: signature}
            headers = [(name, value.encode()) for name, value in given.items() if value]
            position = await self._bus.put(institution, body, headers)
            early = self._early.pop(position, None)
            if early is not None:
                return early
            waiting: asyncio.Future[Anchored] = asyncio.get_running_loop().create_future()
            self._waiting[position] = waiting
            if self._has_ended:
                raise _not_read()
            return await waiting
        finally:
            self._feeding -= 1
            if not self._feeding:
                self._early.clear()

    async def _read_forever(self) -> None:
        """Read until stopped. An error that waiting cannot mend ends the reading, and readiness says so."""
        while not self._is_pausing:
            try:
                if not self._is_begun:
                    await self._begin()
                await self._ingest.room()
                await self._take()
                while self._taken:
                    # A few bytes of the bus may claim many.
                    await self._ingest.room()
                    self._put_on_line(self._taken.popleft())
            except Unavailable as error:
                self.is_reading = False
                if not self._ingest.is_standing:
                    self._end_reading()
                    return
                _log.error("bus unavailable", code=kind_of(error))
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception as error:
                self._end_reading()
                _log.error("bus reading ended", code=getattr(error, "code", type(error).__name__))
                raise
            self.is_reading = True

    async def _take(self) -> None:
        """Take messages; what their positions are of is durable before any of them can be committed."""
        if not self._taken:
            limits = {"max_messages": _MAX_MESSAGES, "max_bytes": _MAX_BYTES}
            self._taken.extend(await self._bus.take(**limits, wait_ms=_WAIT_MS))
        origins = self._bus.origins()
        new = dict(origins.items() - self._origins.items())
        if new:
            names = {f"{self._bus.name}/{stream}/{part}": origin for (stream, part), origin in new.items()}
            documents = [Document(ORIGINS, name, origin.encode()) for name, origin in names.items()]
            await self._vault.commit(Work(documents=documents), None)
            self._origins = dict(origins)

    def _end_reading(self) -> None:
        self.is_reading, self._has_ended = False, True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_not_read())

    async def _begin(self) -> None:
        positions = await self._vault.positions(self._bus.name)
        self._origins = await self._stored_origins()
        begun = sorted(self._registry.institutions)
        await self._bus.start(begun, positions, self._origins)
        self._is_begun = True
        for late in sorted(set(self._registry.institutions) - set(begun)):
            await self._bus.subscribe(late)

    async def _stored_origins(self) -> Origins:
        stored = [
            (key.split("/"), value) for key, value in await self._vault.documents(ORIGINS, f"{self._bus.name}/")
        ]
        return {(stream, int(part)): value.decode() for (_, stream, part), value in stored}

    def _put_on_line(self, message: Message) -> None:
        known = self._registry.institution(message.institution)
        # Names in lower case: producers write them as HTTP does.
        headers = {name.lower(): value.decode("ascii", "replace") for name, value in message.headers}
        stated = headers.get("fhir-version", "")
        version = version_named(stated)
        received = Received(
            message.institution,
            version or known.fhir_version,
            message.value,
            self._clock.now(),
            headers.get("content-type", "application/fhir+json"),
            _deletion(message.tombstone),
            message.position,
            signature=headers.get(SIGNATURE_HEADER, ""),
            must_be_signed=bool(known.signing_keys),
            must_be_encrypted=known.must_encrypt,
            has_unknown_release=bool(stated) and version is None and message.tombstone is None,
        )
        span = _span(message)
        try:
            with tracing.within(span):
                done = self._ingest.submit(received)
        except BaseException:
            span.end()
            raise
        done.add_done_callback(lambda future: self._finished(message.position, future))
        done.add_done_callback(lambda _: span.end())

    def _finished(self, position: Position, future: asyncio.Future[Anchored]) -> None:
        if future.cancelled() or future.exception() is not None:
            # The line answers every message that came by bus, unless it has stopped for good.
            self._end_reading()
            return
        waiting = self._waiting.pop(position, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(future.result())
        elif self._feeding:
            self._early[position] = future.result()
        self._committed.append(position)

    async def _acknowledge_forever(self) -> None:
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_S)
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        """Advise the bus of everything committed since the last time, many messages at once."""
        positions, self._committed = self._committed, []
        if not positions:
            return
        try:
            await self._bus.acknowledge(positions)
        except Unavailable as error:
            _log.error("acknowledge failed", code=kind_of(error))


def _span(message: Message) -> tracing.Span:
    """Begin a message's span, in the trace that its sender names in the record's headers."""
    named = [value for name, value in message.headers if name == "traceparent"]
    return tracing.root(
        "message",
        Kind.CONSUMER,
        named[0].decode("latin-1") if len(named) == 1 else "",
        bus=message.position.bus,
        institution=message.institution,
        partition=message.position.partition,
        offset=message.position.offset,
    )


def _deletion(tombstone: bytes | None) -> Interaction | None:
    """Return the DELETE that a record without a value means, whose key is ``Type/id``; None if it names nothing."""
    named = _NAMED.fullmatch(tombstone or b"")
    return None if named is None else Interaction("DELETE", named[1].decode(), named[2].decode())


def _not_read() -> Unavailable:
    return Unavailable("the bus is not being read: see the log, then restart")
