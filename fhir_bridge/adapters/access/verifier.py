"""Check access tokens: ours, and those of issuers that the operator has pinned.

For the HTTP entrance, before anything else is parsed. A token becomes a
:class:`Requester` or :class:`NotAuthenticated`; there is no third outcome and
no anonymous requester.

Invariants:
    * ``iss`` chooses among pinned issuers and nothing in a token adds one;
    * an issuer speaks for the institutions it was pinned for and for no other;
    * a token of our own is only as good as its client is now: a revoked or
      changed registration stops tokens that were issued before;
    * what is remembered of a token is that its signature held, and nothing that time or the registry can change.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from fhir_bridge.adapters.access import jose
from fhir_bridge.adapters.access.external import ExternalIssuer, read_external
from fhir_bridge.adapters.access.issuer import (
    ACCESS_TOKEN_ALGORITHM,
    ACCESS_TOKEN_TYPE,
    TOKEN_LIFETIME_S,
    Endpoints,
    IssuerKeys,
)
from fhir_bridge.adapters.access.jose import TokenBroken, Unverified
from fhir_bridge.errors import NotAuthenticated
from fhir_bridge.model.access import Requester
from fhir_bridge.model.clients import Client, ClientKind
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.clients import ClientRegistry

_ACCESS_TYPES: Final = frozenset({ACCESS_TOKEN_TYPE})
_ANY_TYPE: Final = frozenset({"at+jwt", "jwt", ""})
_MAX_REMEMBERED: Final = 4_096
"""Tokens of our own whose signature is known to hold; none is longer than 8 KiB."""
_STAFF: Final = re.compile(r"Practitioner/([A-Za-z0-9\-.]{1,64})")


class TokenVerifier:
    """Turns bearer tokens into requesters; keeps :class:`fhir_bridge.ports.access.TokenVerifier`."""

    def __init__(
        self,
        endpoints: Endpoints,
        keys: IssuerKeys,
        registry: ClientRegistry,
        clock: Clock,
        externals: Sequence[ExternalIssuer] = (),
    ) -> None:
        """Pin our own issuer and the external ones.

        Raises:
            ValueError: Two issuers share a name, or an external one takes ours.
        """
        self._endpoints = endpoints
        self._keys = jose.load_keys(keys.public)
        self._registry = registry
        self._clock = clock
        self._signed: OrderedDict[bytes, Mapping[str, Any]] = OrderedDict()
        self._externals = {external.issuer: external for external in externals}
        if len(self._externals) != len(externals) or endpoints.issuer in self._externals:
            raise ValueError("every issuer is pinned once")

    async def verify(self, bearer: str) -> Requester:
        """Check what stands after ``Bearer `` in the Authorization header.

        Raises:
            NotAuthenticated: The token does not hold up.
            Unavailable: The registry or a pinned issuer's keys could not be read; safe to retry.
        """
        now = self._clock.now()
        # A digest: no token is kept, and how long a look-up takes tells nothing about one.
        name = hashlib.sha256(bearer.encode("utf-8", "surrogatepass")).digest()
        try:
            known = self._signed.get(name)
            if known is not None:
                return await self._requester_of(known, now)
            token = jose.take_apart(bearer, _ANY_TYPE)
            issuer = jose.text_claim(token.claims, "iss")
            if issuer == self._endpoints.issuer:
                who = await self._requester_of(self._claims_of_own(token), now)
                self._remember(name, token.claims)
                return who
            external = self._externals.get(issuer)
            if external is None:
                raise TokenBroken("unknown-issuer")
            return await read_external(external, token, now)
        except TokenBroken as error:
            raise NotAuthenticated("the access token does not hold up") from error

    def _claims_of_own(self, token: Unverified) -> Mapping[str, Any]:
        # Taken apart again under the narrow list: our own tokens are at+jwt, and a client assertion is not.
        jose.take_apart(token.compact.decode(), _ACCESS_TYPES)
        jose.verify_signature(token, self._keys, frozenset({ACCESS_TOKEN_ALGORITHM}))
        return token.claims

    def _remember(self, name: bytes, claims: Mapping[str, Any]) -> None:
        self._signed[name] = claims
        if len(self._signed) > _MAX_REMEMBERED:
            self._signed.popitem(last=False)

    async def _requester_of(self, claims: Mapping[str, Any], now: datetime) -> Requester:
        if claims.get("aud") != self._endpoints.base_url:
            raise TokenBroken("wrong-audience")
        issued_at = _check_times(claims, now)
        client = await self._registry.find(jose.text_claim(claims, "client_id"))
        _check_client(claims, client, issued_at, now)
        return _requester(claims)


def _check_times(claims: Mapping[str, Any], now: datetime) -> float:
    instant = now.timestamp()
    issued, expires = jose.numeric_date(claims, "iat"), jose.numeric_date(claims, "exp")
    if issued is None or issued > instant + jose.CLOCK_SKEW_S:
        raise TokenBroken("not-yet-valid")
    if expires is None or expires <= instant:
        raise TokenBroken("expired")
    if expires > issued + TOKEN_LIFETIME_S:
        raise TokenBroken("lives-too-long")
    if (jose.numeric_date(claims, "nbf") or 0.0) > instant + jose.CLOCK_SKEW_S:
        raise TokenBroken("not-yet-valid")
    return issued


def _check_client(claims: Mapping[str, Any], client: Client | None, issued_at: float, now: datetime) -> None:
    if client is None or client.client_id != claims["client_id"] or claims.get("sub") != client.client_id:
        raise TokenBroken("unknown-client")
    if not client.may_act(now.timestamp()) or issued_at <= client.tokens_after_s:
        raise TokenBroken("revoked-client")
    names = ("institution", "institution_id", "patient", "delegate", "attested_by")
    if [claims.get(name) for name in names] != [getattr(client, name) for name in names]:
        raise TokenBroken("other-registration")
    if client.kind is ClientKind.PATIENT and not {"fhirUser", "roles"}.isdisjoint(claims):
        raise TokenBroken("other-registration")


def _requester(claims: Mapping[str, Any]) -> Requester:
    staff = _STAFF.fullmatch(jose.text_claim(claims, "fhirUser")) if "fhirUser" in claims else None
    return Requester(
        client_id=claims["client_id"],
        institution=claims.get("institution"),
        institution_id=claims.get("institution_id"),
        practitioner=staff[1] if staff else None,
        roles=jose.words_claim(claims, "roles"),
        purpose=jose.text_claim(claims, "purpose_of_use"),
        patient=claims.get("patient"),
        delegate=claims.get("delegate"),
        attested_by=claims.get("attested_by"),
        scopes=tuple(jose.text_claim(claims, "scope").split()),
    )
