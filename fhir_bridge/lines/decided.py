"""The decisions of answers: committed to before an answer leaves, anchored together once per audit epoch.

For the audit line, which writes each decision in the commit of its AuditEvent.
What the requester's receipt needs is sealed under a key of the operator's; what
a chart's patient may open is sealed inside under that chart's key.

Invariants:
    * a decision is written alike whether charts were looked at or none was, up to SLOTS of them;
    * every decision belongs to one epoch, the one that was open when it was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from fhir_bridge.consent import EVALUATOR
from fhir_bridge.lines.grounds import looked_at
from fhir_bridge.lines.people import Sight
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.model.access import Found, Question, Requester
from fhir_bridge.model.ingest import ChartRef, instant
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault
from fhir_bridge.proof.decision import (
    GROUNDS,
    REQUEST,
    SALT_BYTES,
    SHOWN,
    chart_digest,
    decision_commitment,
    decision_facts,
    encode_asked,
    encode_grounds,
    encode_shown,
)
from fhir_bridge.proof.epochs import DecisionEpoch, decision_epoch
from fhir_bridge.seal import open_blob, seal_blob
from ledger_core import MerkleBatch, Opening, OpenPart

_DECISIONS = "decisions"
_GROUPS = "decision-groups"
_EPOCHS = "decision-epochs"
_OF_CHART = "decisions-of"
_CHART = "decision-chart"
_PSEUDONYM_BYTES = 16
_KEY_BYTES = 32


class StoredDecision(msgspec.Struct, array_like=True, frozen=True):
    """One decision as it is sealed.

    Attributes:
        owner: Who may have the receipt (:func:`owner_of`).
        parts: Name → salt and digest of the content.
        grounds: Content of the grounds part.
        charts: Pseudonyms of charts, and of nobody's where nobody is told.
    """

    id: str
    epoch: int
    owner: str
    salt: bytes
    facts: dict[str, str | int]
    parts: dict[str, tuple[bytes, bytes]]
    grounds: bytes
    charts: tuple[str, ...]

    @property
    def opening(self) -> Opening:
        """All parts opened."""
        opened = {name: OpenPart(salt, digest) for name, (salt, digest) in self.parts.items()}
        return Opening(self.salt, self.facts, opened)


@dataclass(frozen=True, slots=True)
class Anchored:
    """The leaves of a closed epoch and the envelope that anchors them."""

    envelope: bytes
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A decision that is about to be written."""

    stored: StoredDecision
    commitment: bytes
    envelopes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A decision read back; ``envelopes`` hold the grounds of its charts, each under that chart's key."""

    stored: StoredDecision
    envelopes: tuple[bytes, ...]


@dataclass(slots=True)
class _Open:
    """Decisions of an epoch that has not been anchored yet: ``(id, commitment, charts)``."""

    epoch: int
    decided: list[tuple[str, bytes, tuple[str, ...]]] = field(default_factory=list)


class DecisionBook:
    """Makes, stores and finds decisions."""

    def __init__(
        self, *, vault: Vault, keys: KeyStore, registry: Registry, randomness: Randomness, base_url: str
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._randomness = randomness
        self._base_url = base_url
        self._open = _Open(0)
        self._closing: _Open | None = None
        self._groups = 0
        self._nobodys = b""

    async def start(self, epoch: int) -> bytes | None:
        """Read what belongs to the first epoch that is not stored; return the newest stored one's envelope.

        Args:
            epoch: Number of that first epoch.
        """
        nobodys = msgspec.msgpack.encode(StoredDecision("", 0, "", b"", {}, {}, b"", ()))
        sealed = seal_blob(self._operator_key(), _DECISIONS, "", nobodys, self._randomness)
        self._nobodys = msgspec.msgpack.encode((sealed, ()))
        closing, self._open = [await self._unanchored(number) for number in (epoch, epoch + 1)]
        if closing.decided or self._open.decided:
            self._closing = closing
        else:
            self._open.epoch = epoch
        last = await self._vault.document(_EPOCHS, _number(epoch - 1)) if epoch else None
        return None if last is None else self._anchored(_number(epoch - 1), last).envelope

    # --- before an answer leaves

    def make(self, who: Requester, question: Question, sight: Sight, found: Sequence[Found], now: datetime) -> Made:
        """Return the decision behind an answer that shows ``found``; about 0.1 ms, whatever is behind it."""
        names = [(each.row.type, each.row.id, each.row.version) for each in found]
        of_chart: dict[str, list[tuple[str, str, str]]] = {}
        for each, name in zip(found, names, strict=True):
            of_chart.setdefault(each.chart, []).append(name)
        draw = self._randomness.token
        asked = encode_asked(question.request, who)
        looked = looked_at(who, question, sight, of_chart, now, self._base_url)
        operators = self._operator_key()
        charts: list[str] = []
        envelopes, digests = [], []
        for one in looked:
            # Whose chart it is shows in nothing that is kept: what nobody is told is sealed under a key that nobody
            # keeps, beside a pseudonym of nobody.
            pseudonym, key = draw(_PSEUDONYM_BYTES).hex(), draw(_KEY_BYTES)
            own = operators if one.chart is None else self._registry.chart_key(one.chart)
            salt, content = draw(SALT_BYTES), one.grounds.encode(asked)
            digests.append(chart_digest(salt, content))
            sealed_under = own if one.is_told else key
            place = f"{question.id}/{one.grounds.chart}"
            envelopes.append(seal_blob(sealed_under, _CHART, place, salt + content, self._randomness))
            charts.append(one.grounds.chart if one.is_told else pseudonym)
        grounds_content = encode_grounds(digests, self._randomness)
        contents = {REQUEST: question.request, SHOWN: encode_shown(names), GROUNDS: grounds_content}
        parts = {name: OpenPart.of(draw(SALT_BYTES), content) for name, content in contents.items()}
        facts = decision_facts(
            who, question.id, instant=instant(now), evaluator=EVALUATOR, height=sight.height, shown=len(found)
        )
        salt = draw(SALT_BYTES)
        stored = StoredDecision(
            id=question.id,
            epoch=0,
            owner=owner_of(who),
            salt=salt,
            facts=dict(facts),
            parts={name: (part.salt, part.content) for name, part in parts.items()},
            grounds=grounds_content,
            charts=tuple(charts),
        )
        commitment = decision_commitment(salt, facts, {name: part.digest() for name, part in parts.items()})
        return Made(stored, commitment, tuple(envelopes))

    # --- in the commit that writes it

    def documents(self, made: Sequence[Made]) -> list[Document]:
        """Return what a commit writes of decisions; they belong to the epoch that is open now."""
        if not made:
            return []
        number = _number(self._open.epoch)
        key = self._operator_key()
        written = []
        for each in made:
            stamped = msgspec.structs.replace(each.stored, epoch=self._open.epoch)
            content = msgspec.msgpack.encode(stamped)
            sealed = seal_blob(key, _DECISIONS, stamped.id, content, self._randomness)
            written.append(Document(_DECISIONS, stamped.id, msgspec.msgpack.encode((sealed, each.envelopes))))
        self._groups += 1
        group = f"{number}/{self._groups:08d}"
        listed = [(each.stored.id, each.commitment, each.stored.charts) for each in made]
        sealed = seal_blob(key, _GROUPS, group, msgspec.msgpack.encode(listed), self._randomness)
        return [*written, Document(_GROUPS, group, sealed)]

    def written(self, made: Sequence[Made]) -> None:
        """Note that a commit has made them durable."""
        self._open.decided += [(each.stored.id, each.commitment, each.stored.charts) for each in made]

    # --- closing an epoch

    def cut(self) -> None:
        """End the open epoch: what is written from now on belongs to the next one."""
        if self._closing is None:
            self._closing, self._open = self._open, _Open(self._open.epoch + 1)
            self._groups = 0

    async def epoch(self) -> DecisionEpoch:
        """Return the tree of the epoch that was cut off."""
        commitments = [commitment for _, commitment, _ in self._cut_off.decided]
        return await asyncio.to_thread(decision_epoch, commitments, self._randomness)

    def closing(self, envelope: bytes, epoch: DecisionEpoch) -> list[Document]:
        """Return what the commit that closes the epoch writes of it."""
        number = _number(self._cut_off.epoch)
        content = msgspec.msgpack.encode((envelope, b"".join(epoch.leaves)))
        documents = [Document(_EPOCHS, number, self._sealed(_EPOCHS, number, content))]
        of_chart: dict[str, list[str]] = {}
        for decision_id, _, charts in self._cut_off.decided:
            for chart in charts:
                of_chart.setdefault(chart, []).append(decision_id)
        for chart, ids in of_chart.items():
            ref = self._registry.chart(chart)
            if ref is not None:
                place, told = f"{chart}/{number}", msgspec.msgpack.encode(ids)
                key = self._registry.chart_key(ref)
                documents.append(Document(_OF_CHART, place, seal_blob(key, _OF_CHART, place, told, self._randomness)))
        return documents

    def closed(self) -> None:
        """Note that the epoch is durable."""
        self._closing = None

    # --- finding

    async def find(self, decision_id: str) -> Held:
        """Return a decision by the id that its answer carried; for an id that names none, one that is nobody's.

        So whoever asks for another's decision is refused after the same steps as whoever guesses.
        """
        value = await self._vault.document(_DECISIONS, decision_id)
        if value is None:
            decision_id, value = "", self._nobodys
        sealed, envelopes = msgspec.msgpack.decode(value, type=tuple[bytes, tuple[bytes, ...]])
        content = open_blob(self._operator_key(), _DECISIONS, decision_id, sealed)
        return Held(msgspec.msgpack.decode(content, type=StoredDecision), envelopes)

    async def anchored(self, stored: StoredDecision) -> Anchored | None:
        """Return the closed epoch that a decision belongs to, or None while it is open."""
        number = _number(stored.epoch)
        sealed = await self._vault.document(_EPOCHS, number)
        return None if sealed is None else self._anchored(number, sealed)

    async def of_charts(self, charts: Sequence[ChartRef]) -> list[str]:
        """Return the ids of all decisions about charts, newest epoch first."""
        found: list[tuple[str, str]] = []
        for chart in charts:
            key = self._registry.chart_key(chart)
            for place, sealed in await self._vault.documents(_OF_CHART, f"{chart.chart}/"):
                ids = msgspec.msgpack.decode(open_blob(key, _OF_CHART, place, sealed), type=list[str])
                found += [(place.partition("/")[2], each) for each in ids]
        names = {chart.chart for chart in charts}
        for still in (self._closing, self._open):
            if still is not None:
                found += [(_number(still.epoch), i) for i, _, looked in still.decided if names & set(looked)]
        ordered = sorted(enumerate(found), key=lambda each: (each[1][0], each[0]), reverse=True)
        return list(dict.fromkeys(decision_id for _, (_, decision_id) in ordered))

    def chart_of(self, held: Held, chart: ChartRef) -> tuple[bytes, bytes] | None:
        """Return salt and content of what a decision says of a chart, or None if it says nothing."""
        if chart.chart not in held.stored.charts:
            return None
        envelope = held.envelopes[held.stored.charts.index(chart.chart)]
        place = f"{held.stored.id}/{chart.chart}"
        opened = open_blob(self._registry.chart_key(chart), _CHART, place, envelope)
        return opened[:SALT_BYTES], opened[SALT_BYTES:]

    @property
    def _cut_off(self) -> _Open:
        assert self._closing is not None, "an epoch is cut off before it is closed"
        return self._closing

    async def _unanchored(self, epoch: int) -> _Open:
        key = self._operator_key()
        decided: list[tuple[str, bytes, tuple[str, ...]]] = []
        for place, sealed in await self._vault.documents(_GROUPS, f"{_number(epoch)}/"):
            self._groups = max(self._groups, int(place.partition("/")[2]))
            content = open_blob(key, _GROUPS, place, sealed)
            decided += msgspec.msgpack.decode(content, type=list[tuple[str, bytes, tuple[str, ...]]])
        return _Open(epoch, decided)

    def _anchored(self, number: str, sealed: bytes) -> Anchored:
        content = open_blob(self._operator_key(), _EPOCHS, number, sealed)
        envelope, joined = msgspec.msgpack.decode(content, type=tuple[bytes, bytes])
        return Anchored(envelope, tuple(joined[at : at + 32] for at in range(0, len(joined), 32)))

    def _sealed(self, domain: str, place: str, content: bytes) -> bytes:
        return seal_blob(self._operator_key(), domain, place, content, self._randomness)

    def _operator_key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, _DECISIONS)
        return self._keys.ensure([name])[name]


def owner_of(who: Requester) -> str:
    """Return whose question it was: a practitioner's of an institution, a client's, an agent's, a delegate's.

    Two practitioners of one institution may see different things, so neither gets the other's receipts; nor do two
    people who sign in by one client of another issuer's.
    """
    if who.institution is not None:
        client = f"client/{who.client_id}" if who.subject is None else f"client/{who.client_id}/{who.subject}"
        asked = client if who.practitioner is None else f"practitioner/{who.practitioner}"
        return f"institution/{who.institution}/{asked}"
    return f"patient/{who.patient}/{who.delegate or ''}"


def place_in(anchored: Anchored, commitment: bytes) -> tuple[int, tuple[bytes, ...]]:
    """Return the index of a decision's commitment in its epoch, and the path from it."""
    index = anchored.leaves.index(commitment)
    return index, MerkleBatch(anchored.leaves).path(index)


def _number(epoch: int) -> str:
    return f"{epoch:012d}"
