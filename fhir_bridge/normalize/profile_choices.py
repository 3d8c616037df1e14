"""Read which profiles a pack chooses: ``profiles`` of ``source.yaml``.

For the loader of packs. The choice stands in the pack and not in the settings because it is a statement about one
institution's records, reviewed with its rules, named by the same hash and read by the same worker processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fhir_bridge.errors import ProfileBroken
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.yaml_text import Mapping, Node

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles import Choice, Profiles

_KEYS = ("package", "needs", "mode", "apply", "why")
_DECLARED = "declared"
ELSEWHERE = "elsewhere.json"
"""Beside a copied pack: where the copies are of packages that lay outside its folder, by how it names them."""


def read_profiles(source: Mapping, folder: Path, version: FhirVersion) -> Profiles | None:
    """Return the compiled profiles of a pack, or None where it chooses none.

    Args:
        folder: The pack's; paths of packages start there unless they are absolute.

    Raises:
        RulesetBroken: A choice that cannot be, or a package that does not load.
    """
    node = source.get("profiles")
    if node is None:
        return None
    if version is FhirVersion.STU3:
        raise source.key_spot("profiles").broken("profiles are of R4, and this pack's records come as STU3")
    # Late, because most packs choose none and every command waits for what it imports.
    from fhir_bridge.fhir.profiles import load_profiles

    choices = [_choice(each, folder) for each in node.items("profiles")]
    try:
        return load_profiles(choices)
    except ProfileBroken as error:
        raise source.key_spot("profiles").broken(str(error)) from error


def package_texts(source: Mapping) -> list[str]:
    """Return every package that a pack names, as it names it."""
    node = source.get("profiles")
    found: list[str] = []
    for each in () if node is None else node.items("profiles"):
        entry = each.mapping("each of 'profiles'")
        needs = entry.get("needs")
        found.append(entry.require("package").text("package"))
        found += [] if needs is None else [need.text("needs") for need in needs.items("needs")]
    return found


def package_place(folder: Path, text: str) -> Path:
    """Return where a package is that a pack in ``folder`` names."""
    copies = folder.parent / ELSEWHERE
    if copies.is_file():
        copied = json.loads(copies.read_bytes()).get(text)
        if copied is not None:
            return folder.parent / str(copied)
    return folder / text


def _choice(node: Node, folder: Path) -> Choice:
    from fhir_bridge.fhir.profiles import SEVERITIES, Choice

    entry = node.mapping("each of 'profiles'")
    entry.only(_KEYS, "key")
    mode = entry.require("mode")
    if mode.value not in SEVERITIES:
        raise mode.spot.broken(f"'mode' must be {' or '.join(SEVERITIES)}")
    needs = entry.get("needs")
    return Choice(
        package=package_place(folder, entry.require("package").text("package")),
        needs=tuple(package_place(folder, each.text("needs")) for each in needs.items("needs"))
        if needs is not None
        else (),
        severity=str(mode.value),
        always=_always(entry.require("apply")),
    )


def _always(node: Node) -> tuple[str, ...] | None:
    if node.value == _DECLARED:
        return None
    if isinstance(node.value, str):
        raise node.spot.broken(f"'apply' must be {_DECLARED!r} or a list of profiles' urls")
    urls = tuple(each.text("apply") for each in node.items("apply"))
    if not urls:
        raise node.spot.broken("'apply' lists no profile")
    return urls
