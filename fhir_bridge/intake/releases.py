"""Which validator judges which FHIR release, and for which institution's profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.local_times import completed, with_reasons, with_texts
from fhir_bridge.fhir.validate import is_refused, validate_r4, validate_r4b, validate_r5, validate_stu3
from fhir_bridge.model.ingest import FhirVersion

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles import Profiles


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


_VALIDATORS: Mapping[FhirVersion, Validator] = {
    FhirVersion.STU3: validate_stu3,
    FhirVersion.R4: validate_r4,
    FhirVersion.R4B: validate_r4b,
    FhirVersion.R5: validate_r5,
}


# What profiles of R4 can judge: R4B has R4's elements in every clinical type.
_LIKE_R4 = (FhirVersion.R4, FhirVersion.R4B)


def validator_of(version: FhirVersion, profiles: Profiles | None = None, zone: ZoneInfo | None = None) -> Validator:
    """Return the validator of a release; its tables are loaded when it is first used.

    Args:
        profiles: Those of the institution; they are of R4 and judge what came in it.
        zone: Whose clocks times without an offset tell; they are judged as if they had it, and flagged. None where
            the pack does not say: such times are refused.
    """
    validate = _VALIDATORS[version]
    profiles = profiles if version in _LIKE_R4 else None
    if profiles is None and zone is None:
        return validate

    def validate_for_sender(
        resource: Any, *, place: str = "", entries: bool = True, types_by_url: Mapping[str, str] | None = None
    ) -> list[Issue]:
        issues = validate(resource, place=place, entries=entries, types_by_url=types_by_url)
        flags = []
        while zone is not None and is_refused(issues):
            where = place or str(resource.get("resourceType"))
            found = completed(resource, issues, where, zone)
            if not found:
                issues = with_reasons(resource, issues, where, zone)
                break
            # A validator stops after so many findings, and what it could not read hides what comes next.
            flags = [local_times_flag(where, zone)]
            resource = with_texts(resource, {steps: text for steps, (_, text) in found.items()})
            issues = validate(resource, place=place, entries=entries, types_by_url=types_by_url)
        # A Bundle without its entries is only the shell of a message; a malformed record is mended first.
        if profiles is not None and entries and not is_refused(issues):
            issues += profiles.judge(resource, place=place, types_by_url=types_by_url)
        return issues + flags

    return validate_for_sender


def local_times_flag(place: str, zone: ZoneInfo) -> Issue:
    """What is said of a record whose times had no offset."""
    return Issue("information", "informational", f"has times without an offset: those of {zone.key} are meant", place)
