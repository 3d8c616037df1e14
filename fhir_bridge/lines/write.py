"""What comes by HTTP: a sender's bundle or single resource on its way to the ingest line, and the answer back.

An institution writes its own records. A patient's agent writes consents and
nothing else, and only with the patient's own token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from fhir_bridge.errors import Issue, MediaUnsupported, RecordRefused
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.lines.answer import AnswerLine
from fhir_bridge.lines.claims import CLAIM
from fhir_bridge.lines.conditional_writes import ConditionalWrites
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.media_types import CSV, declared_version, media_type
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reply import Reply, outcome_reply, version_headers
from fhir_bridge.lines.senders import INTERACTIONS, institution_of, require, sender_of_bundles
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import Interaction, Outcome, Received, instant
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.settings import AnswerSettings

RECEIPT_RELATION: Final = "urn:fhir-bridge:receipt"
"""Link of an entry of a transaction- or batch-response to the receipt of the version it names (RFC 8288, 2.1.2)."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The body of a write, and how it is sent and to be answered."""

    body: bytes
    content_type: str
    prefer: str


class WriteLine:
    """Takes bodies from authenticated senders."""

    def __init__(
        self,
        *,
        ingest: IngestLine,
        grant: GrantLine,
        answer: AnswerLine,
        conditional: ConditionalWrites,
        registry: Registry,
        clock: Clock,
        base_url: str,
        settings: AnswerSettings,
    ) -> None:
        self._ingest = ingest
        self._grant = grant
        self._answer = answer
        self._conditional = conditional
        self._registry = registry
        self._clock = clock
        self._base_url = base_url
        self._settings = settings

    async def bundle(self, who: Requester, body: bytes | memoryview, content_type: str) -> Reply:
        """Take a bundle or a CSV file; answer with the transaction-response when it is durable and anchored.

        Raises:
            NotPermitted: The token is a patient's, or its scopes do not cover writing.
            Busy, Unavailable: Nothing was stored; safe to retry.
        """
        received = self._received(sender_of_bundles(who), body, content_type, None)
        anchored = await self._ingest.push(received)
        if anchored.refused:
            return outcome_reply(int(anchored.status[:3]), anchored.refused)
        if len(anchored.outcomes) > self._settings.stream_above:
            # As one, the answer to 60,000 entries took 90 MB until it was sent.
            block = self._settings.stream_block
            return Reply(200, b"", stream=response_blocks(anchored.kind, anchored.outcomes, self._base_url, block))
        return Reply(200, render(response_bundle(anchored.kind, anchored.outcomes, self._base_url)))

    async def single(
        self, who: Requester, interaction: Interaction, body: bytes, content_type: str, prefer: str
    ) -> Reply:
        """Create, update or delete one record.

        Raises:
            NotPermitted: Not this sender's to write.
            Busy, Unavailable: Nothing was stored; safe to retry.
        """
        require(who, interaction.type, INTERACTIONS[interaction.method])
        if who.patient is not None:
            outcome = await self._grant.write(who, interaction, body, declared_version(content_type))
        else:
            received = self._received(institution_of(who), body, content_type, interaction)
            anchored = await self._ingest.push(received)
            if anchored.refused:
                return outcome_reply(int(anchored.status[:3]), anchored.refused)
            outcome = anchored.outcomes[0]
        return await self.written(who, outcome, prefer)

    async def conditional(
        self, who: Requester, interaction: Interaction, params: Sequence[tuple[str, str]], sent: Sent
    ) -> Reply:
        """Update (PUT) or delete the sender's own record that criteria match; an update of none creates.

        Raises:
            NotPermitted: Not this sender's to write.
            RecordRefused: The criteria are none that are taken, or the sender is a patient's agent.
            PreconditionFailed: Several records match.
            Busy, Unavailable: Nothing was stored; safe to retry.
        """
        require(who, interaction.type, INTERACTIONS[interaction.method])
        if interaction.method == "PUT":
            require(who, interaction.type, "create")
        if who.patient is not None:
            raise RecordRefused([Issue("error", "not-supported", "a patient's agent names the id")])
        received = self._received(institution_of(who), sent.body, sent.content_type, interaction)
        if interaction.method == "DELETE":
            deleted = await self._conditional.delete(received, params)
            return Reply(204, b"") if deleted is None else await self.written(who, deleted.outcomes[0], sent.prefer)
        anchored = await self._conditional.update(received, urlencode(list(params)))
        return await self.written(who, anchored.outcomes[0], sent.prefer)

    def _received(
        self, institution: str, body: bytes | memoryview, content_type: str, interaction: Interaction | None
    ) -> Received:
        known = self._registry.institution(institution)
        is_csv = interaction is None and media_type(content_type) == CSV
        if not (is_csv or _is_json_or_xml(content_type)):
            raise MediaUnsupported([Issue("error", "not-supported", "send Content-Type: application/fhir+json")])
        version = declared_version(content_type) or known.fhir_version
        kind = content_type or "application/fhir+json"
        return Received(institution, version, body, self._clock.now(), kind, interaction)

    async def written(self, who: Requester, outcome: Outcome, prefer: str) -> Reply:
        """Answer the writer of a record, with as much of it as is preferred."""
        status = int(outcome.status[:3])
        if status >= 400 or status == 202:
            return outcome_reply(status, outcome.issues)
        if status == 204 or outcome.last_updated is None:
            return Reply(204, b"")
        location = f"{self._base_url}/fhir/{outcome.type}/{outcome.id}/_history/{outcome.version}"
        headers = version_headers(outcome.version, outcome.last_updated, location)
        if "return=minimal" in prefer:
            return Reply(status, b"", headers)
        if "return=OperationOutcome" in prefer:
            stored = Issue("information", "informational", "stored, sealed and anchored")
            return outcome_reply(status, [stored, *outcome.issues], headers)
        body = await self._answer.body_of(who, outcome.type, outcome.id, outcome.version)
        return Reply(status, body, headers)


def response_bundle(kind: str, outcomes: Sequence[Outcome], base_url: str) -> dict[str, Any]:
    """Return what the sender of a bundle is told of its entries (R4 http.html#transaction-response)."""
    name = "transaction-response" if kind == "transaction" else "batch-response"
    entries = [_response_entry(outcome, base_url) for outcome in outcomes]
    return {"resourceType": "Bundle", "type": name, "entry": entries}


async def response_blocks(kind: str, outcomes: Sequence[Outcome], base_url: str, block: int) -> AsyncIterator[bytes]:
    """Yield the text of :func:`response_bundle`, at most ``block`` of its entries at a time."""
    yield render(response_bundle(kind, (), base_url)).removesuffix(b"]}")
    for start in range(0, len(outcomes), block):
        some = outcomes[start : start + block]
        entries = render([_response_entry(outcome, base_url) for outcome in some])[1:-1]
        yield b"," + entries if start else entries
    yield b"]}"


def _response_entry(outcome: Outcome, base_url: str) -> dict[str, object]:
    entry: dict[str, object] = {}
    response: dict[str, object] = {"status": outcome.status}
    if outcome.version and outcome.last_updated is not None:
        location = f"{outcome.type}/{outcome.id}/_history/{outcome.version}"
        entry["link"] = [{"relation": RECEIPT_RELATION, "url": f"{base_url}/fhir/{location}/$receipt"}]
        response["location"] = location
        response["etag"] = f'W/"{outcome.version}"'
        response["lastModified"] = instant(outcome.last_updated)
    if outcome.issues:
        response["outcome"] = operation_outcome(list(outcome.issues))
    return entry | {"response": response}


def _is_json_or_xml(content_type: str) -> bool:
    """XML passes here, so that intake can say what is wrong with it; an empty type is read as FHIR JSON.

    A claim does not: it says where in the order of a topic a message belongs.
    """
    plain = media_type(content_type)
    if plain == CLAIM:
        return False
    return plain in ("", "text/json", "text/xml") or plain.endswith(("/json", "+json", "/xml", "+xml"))
