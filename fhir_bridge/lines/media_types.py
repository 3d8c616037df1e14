"""What a content type says of a message: its media type, and the FHIR release it is in."""

from __future__ import annotations

from typing import Final

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.model.ingest import FhirVersion

CSV: Final = "text/csv"
_MIME_VERSIONS = {"3.0": FhirVersion.STU3, "4.0": FhirVersion.R4, "4.3": FhirVersion.R4B, "5.0": FhirVersion.R5}


def media_type(content_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def version_named(text: str) -> FhirVersion | None:
    """Return the release that ``R4``, ``r4``, ``4.0`` or ``4.0.1`` name; None if it is none that is taken."""
    name = text.strip().upper()
    if name in list(FhirVersion):
        return FhirVersion(name)
    return _MIME_VERSIONS.get(".".join(name.split(".")[:2]))


def declared_version(content_type: str) -> FhirVersion | None:
    """Return the release that a ``fhirVersion`` parameter of the media type names (R4 http.html, 3.1.0.1.12)."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "fhirversion":
            version = _MIME_VERSIONS.get(value.strip('"'))
            if version is None:
                raise RecordRefused([Issue("error", "not-supported", "fhirVersion must be 3.0, 4.0, 4.3 or 5.0")])
            return version
    return None
