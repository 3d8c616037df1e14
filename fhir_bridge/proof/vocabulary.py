"""Codes that AuditEvents and Provenance are written in."""

from __future__ import annotations

from typing import Any, Final

ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
PROFILES: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/"
SOFTWARE_SYSTEM: Final = "urn:fhir-bridge:software"
CLIENT_SYSTEM: Final = "urn:fhir-bridge:client"
RULESET_PREFIX: Final = "urn:fhir-bridge:ruleset:"

_AUDIT = "http://terminology.hl7.org/CodeSystem/"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"

REST: Final = {"system": f"{_AUDIT}audit-event-type", "code": "rest", "display": "Restful Operation"}
PERSON: Final = {"system": f"{_AUDIT}audit-entity-type", "code": "1", "display": "Person"}
SYSTEM_OBJECT: Final = {"system": f"{_AUDIT}audit-entity-type", "code": "2", "display": "System Object"}
ROLE_PATIENT: Final = {"system": f"{_AUDIT}object-role", "code": "1", "display": "Patient"}
ROLE_DOMAIN_RESOURCE: Final = {"system": f"{_AUDIT}object-role", "code": "4", "display": "Domain Resource"}
ROLE_QUERY: Final = {"system": f"{_AUDIT}object-role", "code": "24", "display": "Query"}
CONSENT_TYPE: Final = {"system": "http://hl7.org/fhir/resource-types", "code": "Consent"}
APPLICATION_SERVER: Final = {"system": f"{_AUDIT}security-source-type", "code": "4", "display": "Application Server"}
CLIENT: Final = {"system": _DICOM, "code": "110153", "display": "Source Role ID"}
SERVER: Final = {"system": _DICOM, "code": "110152", "display": "Destination Role ID"}
RECIPIENT: Final = {"system": PARTICIPATION, "code": "IRCP", "display": "information recipient"}
PROVIDER: Final = {"system": "http://terminology.hl7.org/CodeSystem/v3-RoleClass", "code": "PROV"}
SECURITY_ALERT: Final = {"system": _DICOM, "code": "110113", "display": "Security Alert"}
EMERGENCY_STARTED: Final = {"system": _DICOM, "code": "110127", "display": "Emergency Override Started"}
SECURITY_ROLES_CHANGED: Final = {"system": _DICOM, "code": "110136", "display": "Security Roles Changed"}
REQUEST_ID: Final = {
    "system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType",
    "code": "XrequestId",
}
INTERACTION: Final = "http://hl7.org/fhir/restful-interaction"
PARTICIPANT: Final = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
DATA_OPERATION: Final = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"


def concept(coding: dict[str, str]) -> dict[str, Any]:
    """Return a CodeableConcept of one coding."""
    return {"coding": [coding]}
