"""Issuers that the operator has pinned: their keys, and what their tokens may say.

A hospital that runs its own identity provider pins it here with its key set,
the audience it must write, and the institutions it may speak for.

Invariants:
    * keys come from the pinned place alone; nothing in a token points anywhere;
    * an unknown ``kid`` makes at most one fetch per ``min_refresh_s``, however many tokens carry one;
    * an ID token is not an access token: where the issuer types its access tokens
      merely ``JWT``, a claim that sets them apart must be required.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx

from fhir_bridge.adapters.access import jose
from fhir_bridge.adapters.access.jose import TokenBroken, Unverified, VerificationKey
from fhir_bridge.errors import SetupWrong, Unavailable
from fhir_bridge.model.access import Requester
from fhir_bridge.model.scopes import ScopeUnknown, parse_scopes

EXTERNAL_ALGORITHMS: Final = frozenset({"ES256", "ES384", "RS256", "RS384", "PS256", "EdDSA", "Ed25519"})
MAX_JWKS_BYTES: Final = 262_144
_FETCH_TIMEOUT_S: Final = 5.0
_STAFF: Final = re.compile(r"(?:.*/)?Practitioner/([A-Za-z0-9\-.]{1,64})")
_PURPOSE: Final = re.compile(r"[A-Z][A-Z0-9_-]{1,31}")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

Keys = tuple[VerificationKey, ...]


class KeySource(Protocol):
    """Public keys of one issuer."""

    async def keys(self, kid: str, now: datetime) -> Keys:
        """Return the keys; look for newer ones when ``kid`` is not among those known.

        Raises:
            Unavailable: The keys could not be read and none are known.
        """
        ...


class FileKeys:
    """Keys in a JWK set file that the operator placed; read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._known: Keys = ()

    async def keys(self, kid: str, now: datetime) -> Keys:
        """See :class:`KeySource`; a file that does not read raises Unavailable."""
        try:
            status = await asyncio.to_thread(self._path.stat)
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._known = _decode_key_set(await asyncio.to_thread(self._path.read_bytes))
                self._stamp = stamp
        except (OSError, ValueError) as error:
            raise Unavailable("a pinned issuer's key file does not read") from error
        return self._known


class HttpKeys:
    """Keys at a pinned URL, fetched when needed and kept for ``max_age_s``."""

    def __init__(
        self, url: str, client: httpx.AsyncClient, *, min_refresh_s: int = 60, max_age_s: int = 3600
    ) -> None:
        """Pin the URL.

        Args:
            client: Redirects are not followed, whatever it is set to.
            min_refresh_s: Least time between two fetches.
            max_age_s: Age at which keys are fetched anew; they serve up to twice that while the issuer is away.

        Raises:
            SetupWrong: The URL is neither https nor loopback.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise SetupWrong("an external issuer's keys must be fetched over https")
        self._url, self._client = url, client
        self._min_refresh_s, self._max_age_s = min_refresh_s, max_age_s
        self._known: Keys = ()
        self._fetched_s = self._tried_s = float("-inf")
        self._fetching = asyncio.Lock()

    async def keys(self, kid: str, now: datetime) -> Keys:
        """See :class:`KeySource`."""
        instant = now.timestamp()
        if self._is_wanting(kid, instant):
            async with self._fetching:
                if self._is_wanting(kid, instant) and instant >= self._tried_s + self._min_refresh_s:
                    await self._refresh(instant)
        if instant > self._fetched_s + 2 * self._max_age_s:
            raise Unavailable("a pinned issuer's keys cannot be fetched")
        return self._known

    def _is_wanting(self, kid: str, instant: float) -> bool:
        return instant > self._fetched_s + self._max_age_s or all(key.kid != kid for key in self._known)

    async def _refresh(self, instant: float) -> None:
        self._tried_s = instant
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                self._known = _decode_key_set(await self._download())
        except (httpx.HTTPError, TimeoutError, ValueError):
            return  # What is known serves on; keys() raises once that is too old.
        self._fetched_s = instant

    async def _download(self) -> bytes:
        async with self._client.stream("GET", self._url, follow_redirects=False) as response:
            if response.status_code != 200:
                raise ValueError("no key set there")
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError("the key set is too long")
            return body


@dataclass(frozen=True, slots=True)
class Affiliation:
    """An institution that an issuer may speak for: name and public FHIR id."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class ExternalIssuer:
    """One pinned issuer and how its claims read.

    Attributes:
        issuer: Exact ``iss``.
        audience: Must be ``aud`` or in it; usually our base URL.
        institutions: Value of ``institution_claim`` → institution. Without a claim, one entry under ``""``.
        institution_claim: Claim that tells which of ``institutions``; empty when the issuer serves one.
        token_types: Accepted ``typ`` headers, lower case.
        required_claims: Claims that must have exactly these values (Keycloak: ``{"typ": "Bearer"}``).
        role_system: Prefixed as ``system|`` to roles that are bare words.
        max_lifetime_s: Longest accepted ``exp - iat``.
    """

    issuer: str
    audience: str
    keys: KeySource
    institutions: Mapping[str, Affiliation]
    institution_claim: str = ""
    token_types: frozenset[str] = frozenset({"at+jwt"})
    required_claims: Mapping[str, str] = field(default_factory=dict)
    practitioner_claim: str = "fhirUser"
    purpose_claim: str = "purpose_of_use"
    roles_claim: str = "roles"
    role_system: str = ""
    algorithms: frozenset[str] = EXTERNAL_ALGORITHMS
    max_lifetime_s: int = 3600

    def __post_init__(self) -> None:
        if self.token_types != {"at+jwt"} and not self.required_claims:
            raise SetupWrong("an issuer whose access tokens are not typed at+jwt needs a required claim")
        if not self.algorithms <= EXTERNAL_ALGORITHMS:
            raise SetupWrong("an external issuer may use asymmetric algorithms only")
        if not self.institution_claim and set(self.institutions) != {""}:
            raise SetupWrong("an issuer without an institution claim serves exactly one institution")


async def read_external(external: ExternalIssuer, token: Unverified, now: datetime) -> Requester:
    """Check a token of a pinned issuer and read its claims.

    Raises:
        TokenBroken: It does not hold up.
        Unavailable: The issuer's keys cannot be read.
    """
    jose.take_apart(token.compact.decode(), external.token_types)
    keys = await external.keys.keys(token.kid, now)
    jose.verify_signature(token, keys, external.algorithms)
    _check_audience(external, token.claims)
    _check_times(external, token.claims, now)
    return _requester(external, token.claims)


def _check_audience(external: ExternalIssuer, claims: Mapping[str, Any]) -> None:
    audience = claims.get("aud")
    if external.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenBroken("wrong-audience")
    if any(claims.get(name) != value for name, value in external.required_claims.items()):
        raise TokenBroken("not-an-access-token")


def _check_times(external: ExternalIssuer, claims: Mapping[str, Any], now: datetime) -> None:
    instant = now.timestamp()
    issued, expires = jose.numeric_date(claims, "iat"), jose.numeric_date(claims, "exp")
    if expires is None or expires <= instant:
        raise TokenBroken("expired")
    latest_start = max(issued or 0.0, jose.numeric_date(claims, "nbf") or 0.0)
    if issued is None or latest_start > instant + jose.CLOCK_SKEW_S:
        raise TokenBroken("not-yet-valid")
    if expires - issued > external.max_lifetime_s:
        raise TokenBroken("lives-too-long")


def _requester(external: ExternalIssuer, claims: Mapping[str, Any]) -> Requester:
    if "patient" in claims:
        # SMART launch context, not an identity: our patients come by their own agents only.
        raise TokenBroken("patient-by-external-issuer")
    claim = external.institution_claim
    affiliation = external.institutions.get(jose.text_claim(claims, claim) if claim else "")
    if affiliation is None:
        raise TokenBroken("unknown-institution")
    staff = _STAFF.fullmatch(_text(claims, external.practitioner_claim, ""))
    purpose = _text(claims, external.purpose_claim, "TREAT")
    if not _PURPOSE.fullmatch(purpose):
        raise TokenBroken("bad-purpose")
    return Requester(
        client_id=_text(claims, "azp", "") or _text(claims, "client_id", "") or jose.text_claim(claims, "sub"),
        institution=affiliation.name,
        institution_id=affiliation.id,
        practitioner=staff[1] if staff else None,
        roles=_roles(external, claims),
        purpose=purpose,
        scopes=_scopes(claims),
        subject=_text(claims, "sub", "") or None,
    )


def _scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Keep the resource scopes; ``openid``, ``fhirUser`` and the like mean nothing here and grant nothing."""
    kept = []
    for word in jose.text_claim(claims, "scope").split():
        try:
            parse_scopes(word)
        except ScopeUnknown:
            continue
        kept.append(word)
    return tuple(kept)


def _roles(external: ExternalIssuer, claims: Mapping[str, Any]) -> tuple[str, ...]:
    roles = jose.words_claim(claims, external.roles_claim)
    return tuple(role if "|" in role else f"{external.role_system}|{role}" for role in roles)


def _text(claims: Mapping[str, Any], name: str, default: str) -> str:
    value = claims.get(name, default)
    if not isinstance(value, str):
        raise TokenBroken(f"bad-{name}")
    return value


def _decode_key_set(raw: bytes) -> Keys:
    document = json.loads(raw)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ValueError("not a JWK set")
    return jose.load_keys(members)
