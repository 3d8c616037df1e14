"""Criteria of conditional writes and the blind look-up of an institution's own patients by exact identifier.

Matches the sender's own records only, so a match never tells one institution
about another's (docs/search.md).
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl

from fhir_bridge.errors import Issue
from fhir_bridge.lines.staging import Layer, Refused
from fhir_bridge.model.ids import identifier_token
from fhir_bridge.model.ingest import IndexRow, Normalized
from fhir_bridge.ports.vault import Document, Vault
from fhir_bridge.query.values import split, unescape

COLLECTION = "identifiers"


def identifier_documents(record: Normalized, id_key: bytes) -> list[Document]:
    """Return the look-up documents of a Patient's identifiers: blind token / canonical id."""
    return [
        Document(COLLECTION, f"{identifier_token(id_key, identifier)}/{record.id}", record.chart.chart.encode())
        for identifier in record.identifiers
    ]


async def patients_with(vault: Vault, id_key: bytes, identifier: str) -> list[str]:
    """Return the canonical ids of an institution's own patients that carry ``system|value``."""
    token = identifier_token(id_key, identifier)
    found = await vault.documents(COLLECTION, token + "/")
    return [key.removeprefix(token + "/") for key, _ in found]


def criterion(query: str) -> str:
    """Return the ``system|value`` of the query of a conditional create, update or delete, without escapes.

    Raises:
        Refused: Anything but one ``identifier=system|value``.
    """
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    problem = "a condition is identifier=system|value and nothing else"
    if len(pairs) == 1 and pairs[0][0] == "identifier" and "|" in pairs[0][1]:
        values = split(pairs[0][1], ",")
        if len(values) == 1:
            return unescape(values[0])
        problem = r"a condition names one identifier: write a comma within a value as \,"
    raise Refused("400 Bad Request", Issue("error", "not-supported", problem))


def match_among(type_name: str, identifier: str, layer: Layer, charts: Collection[str]) -> IndexRow | None:
    """Return the one current record of a type in these charts that carries an identifier, or None.

    Raises:
        Refused: There are several.
    """
    found: dict[str, IndexRow] = {}
    for chart in charts:
        for history in layer.all_histories(chart).values():
            newest = history[-1]
            if newest.type != type_name or newest.deleted or newest.author != "institution":
                continue
            if _carries(newest, identifier):
                found[newest.id] = newest
    if len(found) > 1:
        raise Refused(
            "412 Precondition Failed", Issue("error", "multiple-matches", "the condition matches several records")
        )
    return next(iter(found.values()), None)


def _carries(row: IndexRow, identifier: str) -> bool:
    return any(f"{system or ''}|{value}" == identifier for system, value in row.values_of("identifier"))
