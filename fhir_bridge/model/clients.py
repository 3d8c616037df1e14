"""Registered clients of the built-in authorization server: who may ask for a token, with which keys.

A client is an institution's system or a patient's agent. Its row holds public
keys only; the private key leaves the machine that made it in the credentials
file and nowhere else.

Invariants:
    * ``kind`` decides which of institution and patient is set, and exactly one is;
    * ``encode_client`` is deterministic and ``decode_client`` takes nothing but its output's shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fhir_bridge.errors import IntegrityBroken

Jwk = Mapping[str, Any]
"""A JSON Web Key (RFC 7517)."""


class ClientKind(StrEnum):
    """Whom a client acts for."""

    INSTITUTION = "institution"
    PATIENT = "patient"


@dataclass(frozen=True, slots=True)
class Client:
    """One registered client.

    Attributes:
        client_id: Opaque; never a patient id, because it appears in logs.
        institution: Name of the institution; None for a patient's agent.
        institution_id: Its public FHIR id.
        patient: Canonical Patient id; None for an institution.
        keys: Public JSON Web Keys, each with a ``kid``.
        scopes: The most it may be granted.
        is_active: False after revocation: no new token, and issued ones stop at once.
        tokens_after_s: Access tokens issued up to this second (since 1970) are refused; set it when
            the client's keys are replaced because one leaked.
        delegate: Id under which somebody acts for the patient in an own name; None for the patient's own agent.
        period_s: When a delegate may act, ``[from, until)`` in seconds since 1970.
        attested_by: Institution on whose word the delegate is the patient's guardian; None for any other.
    """

    client_id: str
    kind: ClientKind
    keys: tuple[Jwk, ...]
    scopes: tuple[str, ...]
    institution: str | None = None
    institution_id: str | None = None
    patient: str | None = None
    is_active: bool = True
    tokens_after_s: int = 0
    delegate: str | None = None
    period_s: tuple[int, int] | None = None
    attested_by: str | None = None

    def __post_init__(self) -> None:
        is_institution = self.kind is ClientKind.INSTITUTION
        if (self.institution is not None) != is_institution or (self.patient is not None) == is_institution:
            raise ValueError("a client acts for an institution or for a patient, never for both or neither")
        if (self.institution_id is not None) != is_institution:
            raise ValueError("an institution's client carries its public id, a patient's carries none")
        if (self.delegate is None) != (self.period_s is None) or (is_institution and self.delegate is not None):
            raise ValueError("a delegate acts for a patient and for a period, nobody else does")
        if self.attested_by is not None and self.delegate is None:
            raise ValueError("an institution attests guardians, who act in an own name")

    def may_act(self, now_s: float) -> bool:
        """Tell whether the client counts at all at a moment."""
        return self.is_active and (self.period_s is None or self.period_s[0] <= now_s < self.period_s[1])


def encode_client(client: Client) -> bytes:
    """Return the bytes to store; JSON with sorted keys."""
    return json.dumps(
        {
            "client_id": client.client_id,
            "kind": client.kind.value,
            "keys": [dict(key) for key in client.keys],
            "scopes": list(client.scopes),
            "institution": client.institution,
            "institution_id": client.institution_id,
            "patient": client.patient,
            "is_active": client.is_active,
            "tokens_after_s": client.tokens_after_s,
            **({"delegate": client.delegate, "period_s": client.period_s} if client.delegate else {}),
            **({"attested_by": client.attested_by} if client.attested_by else {}),
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()


def decode_client(value: bytes) -> Client:
    """Read what :func:`encode_client` wrote.

    Raises:
        IntegrityBroken: The bytes are not a client.
    """
    try:
        raw = json.loads(value)
        return Client(
            **{
                **raw,
                "kind": ClientKind(raw["kind"]),
                "keys": tuple(raw["keys"]),
                "scopes": tuple(raw["scopes"]),
                **({"period_s": tuple(raw["period_s"])} if "period_s" in raw else {}),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityBroken("a stored client does not decode") from error
