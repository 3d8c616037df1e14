"""Claim-check: what is too large for the bus goes over HTTP first, and the bus carries a claim to it.

The sender puts the message to ``/fhir/$claim/SHA-256``, and into its topic a record
of content type ``application/vnd.fhir-bridge.claim+json`` that names it:
``{"sha256": "…", "bytes": 123}``. So a large message keeps its place in the
order of the topic, and the broker's limit stays small.

Invariants:
    * what is put is durable and sealed before it is answered, under a message key of its own;
    * a claim opens what its own institution put, and only if digest and length agree with what the record says;
    * a claim may be presented any number of times until it ends, so that a record that comes twice changes nothing;
    * nothing is removed while records of its institution wait on the bus, however long the service was away.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
from blake3 import blake3

from fhir_bridge.errors import Issue, RecordRefused, Unavailable
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.reply import Reply
from fhir_bridge.lines.senders import sender_of_bundles
from fhir_bridge.lines.standing import Standing
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import Received, instant
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob
from fhir_bridge.telemetry import logger

CLAIM: Final = "application/vnd.fhir-bridge.claim+json"
CLAIMS: Final = "claims"
"""Claim id → sealed :class:`_Held`."""
CLAIMS_UNTIL: Final = "claims-until"
"""``µs of its end/institution/claim id`` → nothing."""

Behind = Callable[[], Awaitable[Container[str]]]
"""Tells of which institutions messages may wait on the bus."""

_log = logger("claims")
_SWEEP_S = 600.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MALFORMED = Issue("error", "structure", 'a claim must read {"sha256": "64 hex digits", "bytes": number}')
_NOT_PUT = Issue(
    "error",
    "not-found",
    "nothing is held for this claim: PUT the message to /fhir/$claim/SHA-256 first; claims end in time",
)
_OTHER_LENGTH = Issue("error", "value", "what was put for this claim has another number of bytes")


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a record says of a message that was put elsewhere: hex SHA-256 and length."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Held:
    content_type: str
    content: bytes


class Claims:
    """Holds large messages until the bus says where in its order they belong."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        clock: Clock,
        randomness: Randomness,
        standing: Standing,
        keep_s: int,
        max_bytes: int,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._clock = clock
        self._randomness = randomness
        self._standing = standing
        self._keep = timedelta(seconds=keep_s)
        self._max_bytes = max_bytes
        self._changing = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None

    def start(self, behind: Behind) -> None:
        """Begin to remove what has ended."""
        self._sweeping = self._standing.begin("claims", self._sweep_forever(behind))

    async def stop(self) -> None:
        """Leave what there is."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def put(self, who: Requester, sha256: str, body: bytes, content_type: str) -> Reply:
        """Hold a message for its institution; answer 201 when it is durable. Putting it again makes it last longer.

        Raises:
            NotPermitted: As for a bundle.
            RecordRefused: The address is no SHA-256, or not the body's.
            Unavailable: Nothing was kept; safe to retry.
        """
        institution = sender_of_bundles(who)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        if digest != sha256:
            problem = "the address must end with the SHA-256 of the body, decompressed, in lower-case hex"
            raise RecordRefused([Issue("error", "value", problem)])
        claim = self._id(institution, sha256)
        # Else the key that it is sealed under may be erased, as of a claim that had ended, before it is committed.
        async with self._changing:
            until = self._clock.now() + self._keep
            sealed = await asyncio.to_thread(self._seal, institution, claim, _Held(content_type, body))
            place = f"{microseconds(until):020d}/{institution}/{claim}"
            documents = [Document(CLAIMS, claim, sealed), Document(CLAIMS_UNTIL, place, b"")]
            await self._vault.commit(Work(documents=documents), None)
        told = {"sha256": sha256, "bytes": len(body), "until": instant(until)}
        return Reply(201, render(told), content_type="application/json")

    async def redeem(self, received: Received) -> tuple[str, bytes]:
        """Return content type and bytes of what a record claims.

        Raises:
            RecordRefused: It is no claim, or nothing that it names is held.
            Unavailable: The vault does not answer.
            IntegrityBroken: What is held does not open: its key was lost, or it is not what was put.
        """
        claim = claim_of(received)
        if claim is None:
            raise RecordRefused([_MALFORMED])
        if claim.bytes > self._max_bytes:
            problem = f"a message may hold at most {self._max_bytes} bytes"
            raise RecordRefused([Issue("error", "too-long", problem)])
        identity = self._id(received.institution, claim.sha256)
        sealed = await self._vault.document(CLAIMS, identity)
        if sealed is None:
            raise RecordRefused([_NOT_PUT])
        held = await asyncio.to_thread(self._open, received.institution, identity, sealed)
        if held is None:
            raise RecordRefused([_NOT_PUT])
        if len(held.content) != claim.bytes:
            raise RecordRefused([_OTHER_LENGTH])
        return held.content_type, held.content

    async def sweep(self, behind: Container[str] = ()) -> int:
        """Remove what has ended, the keys first; return how many claims that were.

        Args:
            behind: Institutions whose claims stay, since a record that claims them may wait on the bus.
        """
        async with self._changing:
            return await self._sweep(behind)

    async def _sweep(self, behind: Container[str]) -> int:
        now = f"{microseconds(self._clock.now()):020d}"
        ends: dict[tuple[str, str], list[str]] = {}
        for place, _ in await self._vault.documents(CLAIMS_UNTIL):
            _, institution, claim = place.split("/")
            if institution not in behind:
                ends.setdefault((institution, claim), []).append(place)
        over = {each: places for each, places in ends.items() if max(places) < now}
        gone = [place for places in ends.values() for place in places if place < now]
        if not gone:
            return 0
        names = [_key(institution, claim) for institution, claim in over]
        await asyncio.to_thread(self._keys.erase_all, names)
        documents = [Document(CLAIMS, claim, None) for _, claim in over]
        documents += [Document(CLAIMS_UNTIL, place, None) for place in gone]
        await self._vault.commit(Work(documents=documents), None)
        return len(over)

    async def _sweep_forever(self, behind: Behind) -> None:
        while True:
            try:
                await self.sweep(await behind())
            except Unavailable as error:
                _log.error("claims not swept", code=error.code)
            await asyncio.sleep(_SWEEP_S)

    def _id(self, institution: str, sha256: str) -> str:
        """Return where a message is held: keyed, so that the vault shows no digest of plain content."""
        name = KeyName(KeyKind.INSTITUTION, institution)
        hasher = blake3(b"fhir-bridge/claim/1\0" + sha256.encode(), key=self._keys.ensure([name])[name])
        return hasher.digest()[:16].hex()

    def _seal(self, institution: str, claim: str, held: _Held) -> bytes:
        name = _key(institution, claim)
        key = self._keys.ensure([name])[name]
        return seal_blob(key, CLAIMS, claim, msgspec.msgpack.encode(held), self._randomness)

    def _open(self, institution: str, claim: str, sealed: bytes) -> _Held | None:
        """Return what is held, None if its key has been erased; one that was lost is somebody else's to mend."""
        key = self._keys.find(_key(institution, claim))
        if key is None:
            return None
        return msgspec.msgpack.decode(open_blob(key, CLAIMS, claim, sealed), type=_Held)


def claim_of(received: Received) -> Claim | None:
    """Return the claim that a record of that content type makes, None if it makes none that can be read."""
    try:
        claim = msgspec.json.decode(received.body, type=Claim)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return claim if _SHA256.fullmatch(claim.sha256) and claim.bytes >= 0 else None


def _key(institution: str, claim: str) -> KeyName:
    return KeyName(KeyKind.MESSAGE, institution, f"claim/{claim}")
