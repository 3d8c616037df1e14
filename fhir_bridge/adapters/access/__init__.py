"""Sign-in: the built-in authorization server, the check of access tokens, and clients' credentials."""

from fhir_bridge.adapters.access.credentials import (
    client_assertion,
    is_usable_key,
    make_institution_credentials,
    make_key,
    make_patient_credentials,
    request_token,
    request_token_async,
    token_form,
)
from fhir_bridge.adapters.access.external import Affiliation, ExternalIssuer, FileKeys, HttpKeys
from fhir_bridge.adapters.access.issuer import AuthorizationServer, Endpoints, IssuerKeys
from fhir_bridge.adapters.access.replay import VaultReplayStore
from fhir_bridge.adapters.access.verifier import TokenVerifier

__all__ = [
    "Affiliation",
    "AuthorizationServer",
    "Endpoints",
    "ExternalIssuer",
    "FileKeys",
    "HttpKeys",
    "IssuerKeys",
    "TokenVerifier",
    "VaultReplayStore",
    "client_assertion",
    "is_usable_key",
    "make_institution_credentials",
    "make_key",
    "make_patient_credentials",
    "request_token",
    "request_token_async",
    "token_form",
]
