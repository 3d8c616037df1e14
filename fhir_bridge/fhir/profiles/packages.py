"""Read FHIR packages: ``package.tgz`` as published, or a folder of JSON files.

For whoever loads profiles. Of a package the StructureDefinitions, ValueSets and CodeSystems are taken; examples and
everything else stay where they are. The form is that of https://hl7.org/fhir/packages.html: files under ``package/``.

Invariants:
    * nothing is fetched and nothing is unpacked to the disk;
    * what is read is bounded, whatever the archive says about itself.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from fhir_bridge.errors import ProfileBroken, RecordRefused
from fhir_bridge.fhir.json import parse

MAX_BYTES = 512 * 1024 * 1024
"""All JSON of one package; the largest that HL7 publishes (terminology) holds about 150 MB."""
_TAKEN = (b'"StructureDefinition"', b'"ValueSet"', b'"CodeSystem"')
_TYPES = frozenset({"StructureDefinition", "ValueSet", "CodeSystem"})
_MANIFEST = "package.json"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Package:
    """What one package defines.

    Attributes:
        name: ``name#version`` of its manifest, or the name of the folder.
        canonical: What the canonical urls of its own definitions begin with; empty where no manifest says so.
        definitions: Type of resource → canonical url → resource.
        digest: Over names and bytes of every file that was taken.
    """

    name: str
    canonical: str
    definitions: Mapping[str, Mapping[str, Json]]
    digest: bytes


def read_package(path: Path) -> Package:
    """Read the package at ``path``.

    Raises:
        ProfileBroken: Nothing is there, it is no archive, a file in it is not strict JSON, or it is for another
            release than R4.
    """
    hasher = blake3(b"fhir-bridge/package/1")
    definitions: dict[str, dict[str, Json]] = {name: {} for name in _TYPES}
    manifest: Json = {}
    for name, content in sorted(_files(path)):
        if name == _MANIFEST:
            manifest = _parsed(path, name, content)
            continue
        if not any(word in content for word in _TAKEN):
            continue
        body = _parsed(path, name, content)
        kind, url = body.get("resourceType"), body.get("url")
        if kind not in _TYPES or type(url) is not str:
            continue
        for part in (name.encode(), content):
            hasher.update(len(part).to_bytes(8, "big") + part)
        if url in definitions[kind]:
            raise ProfileBroken(f"{path.name}: {name} defines {url}, which another file of it defines too")
        definitions[kind][url] = body
    if not any(definitions.values()):
        raise ProfileBroken(f"{path.name} holds no StructureDefinition, ValueSet or CodeSystem")
    return Package(_name(path, manifest), str(manifest.get("canonical", "")), definitions, hasher.digest())


def _name(path: Path, manifest: Json) -> str:
    releases = manifest.get("fhirVersions") or manifest.get("fhir-version-list") or []
    if releases and not any(str(release).startswith("4.0") for release in releases):
        raise ProfileBroken(
            f"{path.name} is for FHIR {', '.join(map(str, releases))}; profiles are judged in R4 (4.0.1)"
        )
    return f"{manifest['name']}#{manifest.get('version', '?')}" if "name" in manifest else path.name


def _parsed(path: Path, name: str, content: bytes) -> Json:
    try:
        return parse(content.removeprefix(b"\xef\xbb\xbf"), max_bytes=MAX_BYTES)
    except RecordRefused as refused:
        raise ProfileBroken(f"{path.name}: {name}: not strict JSON: {refused.issues[0].diagnostics}") from refused


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every JSON file on the top level of a package."""
    if path.is_dir():
        yield from _of_folder(path / "package" if (path / "package").is_dir() else path)
    elif path.is_file():
        try:
            yield from _of_archive(path)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise ProfileBroken(f"{path.name} is no package: a .tgz, or a folder of JSON, is asked for") from error
    else:
        raise ProfileBroken(f"there is no package at {path}")


def _of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    room = MAX_BYTES
    for file in folder.glob("*.json"):
        room -= file.stat().st_size
        if room < 0:
            raise ProfileBroken(f"{folder.name} holds more than {MAX_BYTES} bytes of JSON")
        yield file.name, file.read_bytes()


def _of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    room = MAX_BYTES
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder != "package" or not name.endswith(".json") or not member.isfile():
                continue
            room -= member.size
            if room < 0:
                raise ProfileBroken(f"{path.name} holds more than {MAX_BYTES} bytes of JSON")
            content = archive.extractfile(member)
            yield name, content.read() if content is not None else b""
