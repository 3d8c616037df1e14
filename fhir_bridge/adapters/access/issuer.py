"""The built-in authorization server: SMART Backend Services for institutions' systems and patients' agents.

A client proves itself with a signed assertion (RFC 7523, ``private_key_jwt``)
and gets a short-lived access token (RFC 9068). There is no password, no shared
secret, and no switch that turns this off.

Invariants:
    * an assertion is good once, for this token URL alone, and for at most five minutes;
    * a token never carries more scope than its client was registered for;
    * what a token says about institution or patient comes from the registry; a
      practitioner, role or purpose is the institution's own statement about its
      staff and only an institution can make it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from fhir_bridge.adapters.access import jose
from fhir_bridge.adapters.access.jose import TokenBroken
from fhir_bridge.model.clients import Client, ClientKind
from fhir_bridge.model.scopes import ScopeUnknown, is_within, parse_scopes
from fhir_bridge.ports.access import OAuthRefused
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.clients import ClientRegistry, ReplayStore

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_ALGORITHMS: Final = frozenset({"ES384", "RS384", "ES256", "EdDSA", "Ed25519"})
ACCESS_TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - a media type
ACCESS_TOKEN_ALGORITHM: Final = "EdDSA"  # noqa: S105 - an algorithm
TOKEN_LIFETIME_S: Final = 300
ASSERTION_LIFETIME_S: Final = 300

_FHIR_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_PURPOSE: Final = re.compile(r"[A-Z][A-Z0-9_-]{1,31}")
_ROLE: Final = re.compile(r"[!-{}~]{0,200}\|[!-{}~]{1,64}")
_MAX_ROLES: Final = 16
_STAFF_FIELDS: Final = ("practitioner", "purpose", "role")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the server stands.

    Attributes:
        base_url: Base URL of the bridge, without a trailing slash; audience of access tokens.
        issuer: ``iss`` of access tokens; usually the base URL.
        token_url: The token endpoint; the only audience an assertion may name.
        jwks_url: Where :meth:`AuthorizationServer.jwks` is served.
    """

    base_url: str
    issuer: str
    token_url: str
    jwks_url: str

    @classmethod
    def under(cls, base_url: str) -> Endpoints:
        """Return the places under a base URL: ``…/token`` and ``…/.well-known/jwks.json``."""
        base = base_url.rstrip("/")
        return cls(base, base, f"{base}/token", f"{base}/.well-known/jwks.json")


class IssuerKeys:
    """The issuer's Ed25519 keys: one that signs, and earlier ones whose tokens still hold for a moment."""

    def __init__(self, current: bytes, previous: Sequence[bytes] = ()) -> None:
        """Take 32-byte seeds from the keyring (identity ``issuer``); drop ``previous`` after five minutes."""
        self.signing: Final = _okp(current)
        everything = [self.signing, *(_okp(seed) for seed in previous)]
        self.public: Final = tuple(
            {**key.as_dict(private=False), "use": "sig", "alg": ACCESS_TOKEN_ALGORITHM} for key in everything
        )

    def __repr__(self) -> str:
        return f"IssuerKeys({[key['kid'] for key in self.public]})"


@dataclass(frozen=True, slots=True)
class _Statement:
    """What an institution states about the person for whom its system asks."""

    practitioner: str | None
    purpose: str
    roles: tuple[str, ...]


class AuthorizationServer:
    """Grants access tokens for signed assertions; keeps :class:`fhir_bridge.ports.access.Issuer`."""

    def __init__(
        self,
        endpoints: Endpoints,
        keys: IssuerKeys,
        registry: ClientRegistry,
        replays: ReplayStore,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._registry = registry
        self._replays = replays
        self._clock = clock
        self._randomness = randomness

    async def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Grant an access token for a form whose fields each occur once (the caller refuses repeated ones).

        Returns:
            The JSON body of the answer (RFC 6749 section 5.1); send it with ``Cache-Control: no-store``.

        Raises:
            OAuthRefused: Wrong grant, assertion, scope or statement.
            Unavailable: The registry or the replay store did not answer.
        """
        now = self._clock.now()
        if form.get("grant_type") != "client_credentials":
            raise OAuthRefused("unsupported_grant_type", "grant_type must be client_credentials")
        client = await self._authenticate(form, now)
        scope = _grant(form.get("scope", ""), client)
        statement = _statement(form, client)
        claims = self._claims(client, scope, statement, now)
        token = jose.sign(claims, self._keys.signing, algorithm=ACCESS_TOKEN_ALGORITHM, typ=ACCESS_TOKEN_TYPE)
        return {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME_S, "scope": scope}

    def jwks(self) -> dict[str, Any]:
        """Return the issuer's public keys."""
        return {"keys": [dict(key) for key in self._keys.public]}

    def smart_configuration(self, base_url: str) -> dict[str, Any]:
        """Return the discovery document of SMART App Launch 2.2, section "Conformance".

        Args:
            base_url: Where the caller reached us; endpoints are told under it.
        """
        places = Endpoints.under(base_url)
        return {
            "issuer": self._endpoints.issuer,
            "jwks_uri": places.jwks_url,
            "token_endpoint": places.token_url,
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": sorted(ASSERTION_ALGORITHMS),
            "grant_types_supported": ["client_credentials"],
            "scopes_supported": ["system/*.cruds", "patient/*.rs", "patient/Consent.cu"],
            "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
        }

    async def _authenticate(self, form: Mapping[str, str], now: datetime) -> Client:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise OAuthRefused("invalid_request", f"client_assertion_type must be {ASSERTION_TYPE}")
        try:
            token = jose.take_apart(form.get("client_assertion", ""), frozenset({"jwt", ""}))
            client = await self._client(token.claims, form, now)
            jose.verify_signature(token, jose.load_keys(client.keys), ASSERTION_ALGORITHMS)
            expires_at_s = _check_assertion(token.claims, self._endpoints.token_url, now)
            jti = jose.text_claim(token.claims, "jti")
        except TokenBroken as error:
            raise OAuthRefused("invalid_client", "the client assertion does not hold up", 401) from error
        if await self._replays.seen(_replay_key(client.client_id, jti), expires_at_s):
            raise OAuthRefused("invalid_client", "this client assertion was used before", 401)
        return client

    async def _client(self, claims: Mapping[str, Any], form: Mapping[str, str], now: datetime) -> Client:
        client_id = jose.text_claim(claims, "iss")
        if jose.text_claim(claims, "sub") != client_id or form.get("client_id", client_id) != client_id:
            raise TokenBroken("iss-is-not-sub")
        client = await self._registry.find(client_id)
        if client is None or client.client_id != client_id:
            raise TokenBroken("unknown-client")
        if not client.may_act(now.timestamp()):
            raise TokenBroken("revoked-client")
        return client

    def _claims(self, client: Client, scope: str, statement: _Statement, now: datetime) -> dict[str, Any]:
        issued_at = int(now.timestamp())
        claims: dict[str, Any] = {
            "iss": self._endpoints.issuer,
            "aud": self._endpoints.base_url,
            "sub": client.client_id,
            "client_id": client.client_id,
            "iat": issued_at,
            "exp": issued_at + TOKEN_LIFETIME_S,
            "jti": base64.urlsafe_b64encode(self._randomness.token(16)).rstrip(b"=").decode(),
            "scope": scope,
            "purpose_of_use": statement.purpose,
        }
        if client.kind is ClientKind.PATIENT:
            acting = {"delegate": client.delegate, "attested_by": client.attested_by}
            return {**claims, "patient": client.patient, **{name: told for name, told in acting.items() if told}}
        claims |= {"institution": client.institution, "institution_id": client.institution_id}
        if statement.practitioner:
            claims["fhirUser"] = f"Practitioner/{statement.practitioner}"
        return {**claims, "roles": list(statement.roles)} if statement.roles else claims


def _okp(seed: bytes) -> OKPKey:
    key = OKPKey(Ed25519PrivateKey.from_private_bytes(seed), None)
    key.ensure_kid()
    return key


def _check_assertion(claims: Mapping[str, Any], token_url: str, now: datetime) -> int:
    """Check audience and times of a client assertion whose signature holds; return its expiry, rounded up."""
    # A list of several audiences would let one assertion be good elsewhere too, so a list must hold our URL alone.
    if claims.get("aud") not in (token_url, [token_url]):
        raise TokenBroken("wrong-audience")
    instant = now.timestamp()
    expires = jose.numeric_date(claims, "exp")
    if expires is None or expires <= instant:
        raise TokenBroken("expired")
    if expires > instant + ASSERTION_LIFETIME_S + jose.CLOCK_SKEW_S:
        raise TokenBroken("lives-too-long")
    for name in ("nbf", "iat"):
        if (jose.numeric_date(claims, name) or 0.0) > instant + jose.CLOCK_SKEW_S:
            raise TokenBroken("not-yet-valid")
    return int(expires) + 1


def _replay_key(client_id: str, jti: str) -> str:
    digest = hashlib.sha256(f"{len(client_id)}:{client_id}{jti}".encode())
    return digest.hexdigest()


def _grant(requested: str, client: Client) -> str:
    try:
        wanted = parse_scopes(requested)
        allowed = parse_scopes(" ".join(client.scopes))
    except ScopeUnknown as error:
        raise OAuthRefused("invalid_scope", str(error)) from error
    if not is_within(wanted, allowed):
        raise OAuthRefused("invalid_scope", "more is asked than this client was registered for")
    return " ".join(requested.split()) or " ".join(client.scopes)


def _statement(form: Mapping[str, str], client: Client) -> _Statement:
    if client.kind is ClientKind.PATIENT:
        if any(form.get(name) for name in _STAFF_FIELDS):
            raise OAuthRefused("invalid_request", "a patient's agent states no practitioner, purpose or role")
        return _Statement(None, "PATRQT", ())
    practitioner = form.get("practitioner", "").removeprefix("Practitioner/") or None
    purpose = form.get("purpose") or "TREAT"
    roles = tuple(form.get("role", "").split())
    if practitioner is not None and not _FHIR_ID.fullmatch(practitioner):
        raise OAuthRefused("invalid_request", "practitioner must be a FHIR id or Practitioner/<id>")
    if not _PURPOSE.fullmatch(purpose):
        raise OAuthRefused("invalid_request", "purpose must be a code of v3-ActReason")
    if len(roles) > _MAX_ROLES or not all(_ROLE.fullmatch(role) for role in roles):
        raise OAuthRefused("invalid_request", "role must be system|code, several separated by spaces")
    return _Statement(practitioner, purpose, roles)
