"""Credentials of a client: make them, sign assertions with them, ask for a token.

For the command line (``institution add``, ``ingest``, ``consent``) and for
anyone who writes a client: what stands here is all a client has to do.

The credentials dictionary is what the owner-only credentials file holds:
``client_id``, ``private_jwk``, ``token_url``, and ``institution`` or ``patient``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry

from fhir_bridge.adapters.access import jose
from fhir_bridge.adapters.access.issuer import ASSERTION_ALGORITHMS, ASSERTION_TYPE
from fhir_bridge.errors import NotAuthenticated, SetupWrong, Unavailable
from fhir_bridge.model.clients import Client, ClientKind
from fhir_bridge.model.scopes import INSTITUTION_SCOPES, PATIENT_SCOPES
from fhir_bridge.ports.ambient import Randomness

Credentials = Mapping[str, Any]
_ASSERTION_LIFETIME_S: Final = 240
_TIMEOUT_S: Final = 10.0


def make_institution_credentials(
    name: str, institution_id: str, *, token_url: str, randomness: Randomness
) -> tuple[Client, dict[str, Any]]:
    """Make a client for an institution's system, with a new P-384 key (ES384).

    Returns:
        The client to register (public key) and the credentials to hand over (private key).
    """
    client_id = f"institution-{name}-{randomness.token(6).hex()}"
    private = _new_key()
    client = Client(
        client_id=client_id,
        kind=ClientKind.INSTITUTION,
        keys=(_public(private),),
        scopes=INSTITUTION_SCOPES,
        institution=name,
        institution_id=institution_id,
    )
    return client, {**_credentials(client_id, private, token_url), "institution": name}


def make_patient_credentials(
    patient: str, *, token_url: str, randomness: Randomness
) -> tuple[Client, dict[str, Any]]:
    """Make a client for a patient's agent; ``patient`` is the canonical Patient id and stays out of the client id."""
    client_id = f"agent-{randomness.token(12).hex()}"
    private = _new_key()
    client = Client(
        client_id=client_id,
        kind=ClientKind.PATIENT,
        keys=(_public(private),),
        scopes=PATIENT_SCOPES,
        patient=patient,
    )
    return client, {**_credentials(client_id, private, token_url), "patient": patient}


def make_key() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a new P-384 key (ES384) as JSON Web Keys: the private one, and the public one to hand over."""
    private = _new_key()
    return dict(private.as_dict(private=True)), _public(private)


def is_usable_key(jwk: Mapping[str, Any]) -> bool:
    """Tell whether a client's public key can verify an assertion here."""
    return any(key.algorithms & ASSERTION_ALGORITHMS for key in jose.load_keys([jwk]))


def client_assertion(credentials: Credentials, now: datetime, jti: str) -> str:
    """Sign an assertion for the token endpoint, good once and for four minutes.

    Raises:
        SetupWrong: The credentials hold no usable private key.
    """
    try:
        client_id, token_url = credentials["client_id"], credentials["token_url"]
        private = JWKRegistry.import_key(credentials["private_jwk"])
        algorithm = jose.signing_algorithm(private)
    except (JoseError, KeyError, ValueError, TypeError) as error:
        raise SetupWrong("the credentials file holds no client id, token URL and usable private_jwk") from error
    issued_at = int(now.timestamp())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": token_url,
        "iat": issued_at,
        "exp": issued_at + _ASSERTION_LIFETIME_S,
        "jti": jti,
    }
    return jose.sign(claims, private, algorithm=algorithm, typ="JWT")


def token_form(credentials: Credentials, now: datetime, randomness: Randomness, **extras: str) -> dict[str, str]:
    """Return the form to POST to ``token_url``; ``extras`` are ``scope``, ``practitioner``, ``purpose``, ``role``."""
    jti = base64.urlsafe_b64encode(randomness.token(16)).rstrip(b"=").decode()
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion(credentials, now, jti),
        **extras,
    }


def request_token(
    http: httpx.Client, credentials: Credentials, now: datetime, randomness: Randomness, **extras: str
) -> str:
    """Get an access token.

    Raises:
        NotAuthenticated: The server refused; the message holds its error code.
        Unavailable: The server did not answer; safe to retry.
    """
    form = token_form(credentials, now, randomness, **extras)
    try:
        answer = http.post(credentials["token_url"], data=form, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Unavailable("the token endpoint did not answer") from error
    return _token(answer)


async def request_token_async(
    http: httpx.AsyncClient, credentials: Credentials, now: datetime, randomness: Randomness, **extras: str
) -> str:
    """Get an access token on an event loop; see :func:`request_token`."""
    form = token_form(credentials, now, randomness, **extras)
    try:
        answer = await http.post(credentials["token_url"], data=form, timeout=_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Unavailable("the token endpoint did not answer") from error
    return _token(answer)


def _new_key() -> ECKey:
    key = ECKey.generate_key("P-384")
    key.ensure_kid()
    return key


def _public(private: ECKey) -> dict[str, Any]:
    return {**private.as_dict(private=False), "use": "sig", "alg": "ES384"}


def _credentials(client_id: str, private: ECKey, token_url: str) -> dict[str, Any]:
    return {"client_id": client_id, "private_jwk": dict(private.as_dict(private=True)), "token_url": token_url}


def _token(answer: httpx.Response) -> str:
    if answer.status_code >= 500 or answer.status_code == 429:
        raise Unavailable(f"the token endpoint answered {answer.status_code}")
    try:
        body = answer.json()
        if answer.status_code == 200:
            return str(body["access_token"])
        reason = str(body.get("error", ""))[:64]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAuthenticated(f"the token endpoint answered {answer.status_code} without a token") from error
    raise NotAuthenticated(f"no token: {reason}")
