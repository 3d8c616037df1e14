"""The file that pins external issuers: what it may say, and that a misspelling is not a default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from fhir_bridge.adapters.access.external_file import load_external
from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.registry import Registry
from tests.support.access_world import BASE, START
from tests.support.forge import ed25519_jwk


@dataclass(frozen=True)
class Known:
    id: str


class Institutions:
    """The part of the registry that is asked here."""

    def institution(self, name: str) -> Known:
        if name != "northgate":
            raise SetupWrong("no such institution")
        return Known("org-n")


REGISTRY = cast(Registry, Institutions())


def row(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [ed25519_jwk(bytes(32), "a")]}))
    whole = {
        "issuer": "https://login.northgate.example",
        "institutions": {"": "northgate"},
        "jwks_file": str(keys),
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def written(tmp_path: Path, content: Mapping[str, Any] | str) -> str:
    file = tmp_path / "issuers.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_no_file_pins_nobody() -> None:
    assert load_external("", BASE, REGISTRY) == []


async def test_a_row_pins_an_issuer_for_its_institution(tmp_path: Path) -> None:
    changes = {"token_types": ["jwt"], "required_claims": {"typ": "Bearer"}, "role_system": "urn:r"}
    (issuer,) = load_external(written(tmp_path, {"issuers": [row(tmp_path, **changes)]}), BASE, REGISTRY)
    assert (issuer.issuer, issuer.audience) == ("https://login.northgate.example", BASE)
    assert (issuer.institutions[""].name, issuer.institutions[""].id) == ("northgate", "org-n")
    assert (issuer.token_types, issuer.required_claims) == (frozenset({"jwt"}), {"typ": "Bearer"})
    assert [key.kid for key in await issuer.keys.keys("a", START)] == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"required_claim": {"typ": "Bearer"}},
        {"algorithms": ["HS256"]},
        {"issuer": None},
        {"institutions": None},
        {"institutions": {"": "unknown"}},
        {"institutions": {"a": "northgate"}},
        {"jwks_file": None},
        {"jwks_url": "https://login.northgate.example/keys"},
        {"jwks_file": None, "jwks_url": "http://login.northgate.example/keys"},
        {"token_types": ["jwt"]},
    ],
)
def test_a_loose_or_misspelt_row_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SetupWrong):
        load_external(written(tmp_path, {"issuers": [row(tmp_path, **changes)]}), BASE, REGISTRY)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"issuers":[1]}'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(SetupWrong):
        load_external(written(tmp_path, content), BASE, REGISTRY)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupWrong):
        load_external(str(tmp_path / "nowhere.json"), BASE, REGISTRY)
