"""Which element dates a record on a patient's timeline, for every type that a chart can hold.

For the index (sort key of the timeline, ``data period`` of a consent). The first element of a row that is present
wins. A record that none of them dates sorts by when it was last updated, and no clinical time is claimed for it.

Invariants:
    * partial dates stay partial: the key is the start of the interval that the text covers;
    * the instant of recording (``issued``, ``authoredOn``, ``recordedDate``) stands after the clinical time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_bridge.fhir.dates import Interval, interval, period

DATING_ELEMENTS: Mapping[str, tuple[str, ...]] = {
    "Account": ("servicePeriod",),
    "AdverseEvent": ("date", "detected", "recordedDate"),
    "AllergyIntolerance": ("onsetDateTime", "onsetPeriod", "recordedDate", "lastOccurrence"),
    "Appointment": ("start", "created"),
    "AppointmentResponse": ("start",),
    "AuditEvent": ("period", "recorded"),
    "Basic": ("created",),
    "CarePlan": ("period", "created"),
    "CareTeam": ("period",),
    "ChargeItem": ("occurrenceDateTime", "occurrencePeriod", "enteredDate"),
    "Claim": ("billablePeriod", "created"),
    "ClaimResponse": ("created",),
    "ClinicalImpression": ("effectiveDateTime", "effectivePeriod", "date"),
    "Communication": ("sent", "received"),
    "CommunicationRequest": ("occurrenceDateTime", "occurrencePeriod", "authoredOn"),
    "Composition": ("event.period", "date"),
    "Condition": ("onsetDateTime", "onsetPeriod", "recordedDate"),
    "Consent": ("dateTime", "provision.period"),
    "Contract": ("applies", "issued"),
    "Coverage": ("period",),
    "CoverageEligibilityRequest": ("servicedDate", "servicedPeriod", "created"),
    "CoverageEligibilityResponse": ("servicedDate", "servicedPeriod", "created"),
    "DetectedIssue": ("identifiedDateTime", "identifiedPeriod"),
    "Device": ("manufactureDate",),
    "DeviceRequest": ("occurrenceDateTime", "occurrencePeriod", "authoredOn"),
    "DeviceUseStatement": ("timingDateTime", "timingPeriod", "recordedOn"),
    "DiagnosticReport": ("effectiveDateTime", "effectivePeriod", "issued"),
    "DocumentManifest": ("created",),
    "DocumentReference": ("context.period", "date"),
    "Encounter": ("period",),
    "EnrollmentRequest": ("created",),
    "EpisodeOfCare": ("period",),
    "ExplanationOfBenefit": ("billablePeriod", "created"),
    "FamilyMemberHistory": ("date",),
    "Flag": ("period",),
    "Goal": ("startDate", "statusDate"),
    "GuidanceResponse": ("occurrenceDateTime",),
    "ImagingStudy": ("started",),
    "Immunization": ("occurrenceDateTime", "recorded"),
    "ImmunizationEvaluation": ("date",),
    "ImmunizationRecommendation": ("date",),
    "Invoice": ("date",),
    "List": ("date",),
    "MeasureReport": ("period", "date"),
    "Media": ("createdDateTime", "createdPeriod", "issued"),
    "MedicationAdministration": ("effectiveDateTime", "effectivePeriod"),
    "MedicationDispense": ("whenHandedOver", "whenPrepared"),
    "MedicationRequest": ("authoredOn",),
    "MedicationStatement": ("effectiveDateTime", "effectivePeriod", "dateAsserted"),
    "NutritionOrder": ("dateTime",),
    "Observation": ("effectiveDateTime", "effectivePeriod", "effectiveInstant", "effectiveTiming.event", "issued"),
    "PaymentNotice": ("paymentDate", "created"),
    "Procedure": ("performedDateTime", "performedPeriod"),
    "Provenance": ("occurredDateTime", "occurredPeriod", "recorded"),
    "QuestionnaireResponse": ("authored",),
    "RelatedPerson": ("period",),
    "RequestGroup": ("authoredOn",),
    "ResearchSubject": ("period",),
    "RiskAssessment": ("occurrenceDateTime", "occurrencePeriod"),
    "Schedule": ("planningHorizon",),
    "ServiceRequest": ("occurrenceDateTime", "occurrencePeriod", "occurrenceTiming.event", "authoredOn"),
    "Specimen": ("collection.collectedDateTime", "collection.collectedPeriod", "receivedTime"),
    "SupplyDelivery": ("occurrenceDateTime", "occurrencePeriod"),
    "SupplyRequest": ("occurrenceDateTime", "occurrencePeriod", "authoredOn"),
    "Task": ("executionPeriod", "authoredOn"),
    "VisionPrescription": ("dateWritten", "created"),
}
"""R4 type → elements that date it, best first; a dot goes one level down."""


def dated(resource: dict[str, Any]) -> tuple[int | None, Interval | None]:
    """Return ``(start, interval)`` of the element that dates an R4 resource, in µs since 1970 UTC.

    ``(None, None)`` when nothing dates it: the reader then sorts by ``meta.lastUpdated``. A Period that is open at
    its start sorts by its end.
    """
    for steps in _STEPS.get(resource.get("resourceType", ""), ()):
        value: Any = resource
        for step in steps:
            value = value.get(step) if type(value) is dict else None
            if type(value) is list:
                value = value[0] if value else None
        found = interval(value) if type(value) is str else period(value)
        if found is not None:
            start = interval(value["end"]) if type(value) is dict and "start" not in value else found
            return (start or found)[0], found
    return None, None


_STEPS = {name: tuple(tuple(p.split(".")) for p in paths) for name, paths in DATING_ELEMENTS.items()}
