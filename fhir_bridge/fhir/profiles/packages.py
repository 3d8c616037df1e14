"""Read FHIR packages: ``package.tgz`` as published, or a folder of JSON files.

For whoever loads profiles. Of a package the StructureDefinitions, ValueSets and CodeSystems are taken; examples and
everything else stay where they are. The form is that of https://hl7.org/fhir/packages.html: files under ``package/``.

Invariants:
    * nothing is fetched and nothing is unpacked to the disk;
    * what is read is bounded, whatever the archive says about itself.
"""

from __future__ import annotations

import gzip
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
"""All that is read of one package, unpacked; the largest that HL7 publishes (terminology) holds about 150 MB."""
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
        digest: Over names and bytes of every file that was taken, and over ``canonical``.
    """

    name: str
    canonical: str
    definitions: Mapping[str, Mapping[str, Json]]
    digest: bytes


def read_package(path: Path, max_bytes: int = MAX_BYTES) -> Package:
    """Read the package at ``path``.

    Raises:
        ProfileBroken: Nothing is there, it is no archive, it holds more than ``max_bytes``, a file in it is not
            strict JSON, or it is for another release than R4.
    """
    hasher = blake3(b"fhir-bridge/package/1")
    definitions: dict[str, dict[str, Json]] = {name: {} for name in _TYPES}
    manifest: Json = {}
    for name, content in sorted(_files(path, max_bytes)):
        if name == _MANIFEST:
            manifest = _parsed(path, name, content)
            continue
        if not any(word in content for word in _TAKEN):
            continue
        body = _parsed(path, name, content)
        kind, url = body.get("resourceType"), body.get("url")
        if kind not in _TYPES or type(url) is not str:
            continue
        for part in (name.encode(errors="surrogateescape"), content):
            hasher.update(len(part).to_bytes(8, "big") + part)
        if url in definitions[kind]:
            raise ProfileBroken(f"{path.name}: {name} defines {url}, which another file of it defines too")
        definitions[kind][url] = body
    if not any(definitions.values()):
        raise ProfileBroken(f"{path.name} holds no StructureDefinition, ValueSet or CodeSystem")
    canonical = str(manifest.get("canonical", ""))
    hasher.update(canonical.encode())
    return Package(_name(path, manifest), canonical, definitions, hasher.digest())


def _name(path: Path, manifest: Json) -> str:
    releases = manifest.get("fhirVersions") or manifest.get("fhir-version-list") or []
    releases = releases if type(releases) is list else [releases]
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


def _files(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every JSON file on the top level of a package."""
    if not path.exists():
        raise ProfileBroken(f"there is no package at {path}")
    try:
        if path.is_dir():
            yield from _of_folder(path / "package" if (path / "package").is_dir() else path, max_bytes)
        else:
            yield from _of_archive(path, max_bytes)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ProfileBroken(f"{path.name} is no package: a .tgz, or a folder of JSON, is asked for") from error


def _of_folder(folder: Path, room: int) -> Iterator[tuple[str, bytes]]:
    for file in folder.glob("*.json"):
        if file.is_dir():
            continue
        with file.open("rb") as opened:
            content = opened.read(room + 1)
        room -= len(content)
        if room < 0:
            raise _too_large(folder)
        yield file.name, content


def _of_archive(path: Path, room: int) -> Iterator[tuple[str, bytes]]:
    with _Unpacked(path, room) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder != "package" or not name.endswith(".json") or not member.isfile():
                continue
            content = archive.extractfile(member)
            yield name, content.read() if content is not None else b""


class _Unpacked(gzip.GzipFile):
    """The bytes of an archive, its headers and what is passed over among them, until they are too many."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self._path = path
        self._room = room

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            ProfileBroken: More have come than may.
        """
        found = super().read(size)
        self._room -= len(found)
        if self._room < 0:
            raise _too_large(self._path)
        return found


def _too_large(path: Path) -> ProfileBroken:
    return ProfileBroken(f"{path.name} holds more than a package may, unpacked")
