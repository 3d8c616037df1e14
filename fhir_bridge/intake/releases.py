"""Which validator judges which FHIR release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.validate import validate_r4, validate_stu3
from fhir_bridge.model.ingest import FhirVersion


class Validator(Protocol):
    """The shape that the validators of all releases share."""

    def __call__(
        self,
        resource: Any,
        *,
        place: str = ...,
        entries: bool = ...,
        types_by_url: Mapping[str, str] | None = ...,
    ) -> list[Issue]:
        """Return findings; see :func:`fhir_bridge.fhir.validate.validate_r4`."""
        ...


# R4B equals R4 in every clinical and administrative type; where it differs, R4 is what is stored.
_VALIDATORS: Mapping[FhirVersion, Validator] = {
    FhirVersion.STU3: validate_stu3,
    FhirVersion.R4: validate_r4,
    FhirVersion.R4B: validate_r4,
}


def validator_of(version: FhirVersion) -> Validator | None:
    """Return the validator of a release, or None when the release is not taken."""
    return _VALIDATORS.get(version)
