"""Reads the file that pins external issuers (docs/access.md shows one).

Invariant: a setting that is misspelt refuses the file; nothing falls back in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import httpx

from fhir_bridge.adapters.access.external import Affiliation, ExternalIssuer, FileKeys, HttpKeys
from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.registry import Registry

_PLAIN: Final = ("institution_claim", "practitioner_claim", "purpose_claim", "roles_claim", "role_system")
_KNOWN: Final = frozenset(
    {*_PLAIN, "issuer", "audience", "institutions", "jwks_file", "jwks_url", "token_types", "required_claims"}
)


def load_external(file: str, base_url: str, registry: Registry) -> list[ExternalIssuer]:
    """Return the issuers that a file pins; none for an empty name.

    Raises:
        SetupWrong: The file is missing or says something that cannot be.
    """
    if not file:
        return []
    try:
        rows = json.loads(Path(file).read_text())["issuers"]
        return [_issuer(row, base_url, registry) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise SetupWrong(f"{file} does not describe issuers: {type(wrong).__name__}: {wrong}") from wrong


def _issuer(row: dict[str, Any], base_url: str, registry: Registry) -> ExternalIssuer:
    if not row.keys() <= _KNOWN or ("jwks_file" in row) == ("jwks_url" in row):
        raise ValueError("an unknown setting, or not exactly one of jwks_file and jwks_url")
    institutions = {
        value: Affiliation(name, registry.institution(name).id) for value, name in row["institutions"].items()
    }
    more: dict[str, Any] = {name: row[name] for name in _PLAIN if name in row}
    if "token_types" in row:
        more["token_types"] = frozenset(row["token_types"])
    if "required_claims" in row:
        more["required_claims"] = row["required_claims"]
    keys = (
        FileKeys(Path(row["jwks_file"]))
        if "jwks_file" in row
        else HttpKeys(row["jwks_url"], httpx.AsyncClient(timeout=5))
    )
    return ExternalIssuer(row["issuer"], row.get("audience", base_url), keys, institutions, **more)
