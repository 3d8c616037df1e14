"""Tokens: given out by an authorization server, checked before anything else happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fhir_bridge.model.access import Requester


class OAuthRefused(Exception):
    """An OAuth 2 error response: ``error`` is a code of RFC 6749, ``status`` the HTTP status."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


class Issuer(Protocol):
    """The built-in authorization server (SMART Backend Services)."""

    async def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Answer a token request.

        Raises:
            OAuthRefused: The request or the client's assertion does not hold up.
        """
        ...

    def jwks(self) -> dict[str, Any]:
        """Return the public keys that access tokens are signed with."""
        ...

    def smart_configuration(self, base_url: str) -> dict[str, Any]:
        """Return the SMART discovery document."""
        ...


class TokenVerifier(Protocol):
    """Turns an access token into a requester, or refuses it."""

    async def verify(self, bearer: str) -> Requester:
        """Check signature, type, issuer, audience, times and client.

        Raises:
            NotAuthenticated: Anything about the token does not hold up.
        """
        ...
