"""What a resource type of another release is called in R4.

For reading references and for normalisation; small, so that no table of a release is loaded for it. Three tests keep
it true to the definitions.
"""

from __future__ import annotations

from typing import Final

RENAMED: Final = {
    "ProcedureRequest": "ServiceRequest",
    "ReferralRequest": "ServiceRequest",
    "BodySite": "BodyStructure",
    "EligibilityRequest": "CoverageEligibilityRequest",
    "EligibilityResponse": "CoverageEligibilityResponse",
    "Sequence": "MolecularSequence",
    "DeviceUsage": "DeviceUseStatement",
    "RequestOrchestration": "RequestGroup",
}
"""Types of STU3 and R5 that R4 has under another name."""

_WITHOUT_TEXT = """
    ActorDefinition AdministrableProductDefinition ArtifactAssessment BiologicallyDerivedProductDispense Citation
    ClinicalUseDefinition ConditionDefinition DataElement DeviceAssociation DeviceComponent DeviceDispense
    EncounterHistory EvidenceReport ExpansionProfile FormularyItem GenomicStudy ImagingManifest ImagingSelection
    Ingredient InventoryItem InventoryReport ManufacturedItemDefinition MedicinalProductDefinition NutritionIntake
    NutritionProduct PackagedProductDefinition Permission ProcessRequest ProcessResponse RegulatedAuthorization
    Requirements ServiceDefinition SubscriptionStatus SubscriptionTopic SubstanceDefinition TestPlan Transport
"""
WITHOUT_R4: Final = frozenset(_WITHOUT_TEXT.split())
"""Types of STU3, R4B and R5 that R4 lacks; HL7's cross-version guides write them as Basic."""

BASIC: Final = "Basic"


def type_in_r4(name: str) -> str:
    """Return what R4 calls a type of any release; a name that no release knows stays as it is."""
    return BASIC if name in WITHOUT_R4 else RENAMED.get(name, name)


def id_in_r4(name: str, local_id: str) -> str:
    """Return the local id under which a record is known in R4: two types that become Basic may use one id twice."""
    return f"{name}/{local_id}" if name in WITHOUT_R4 else local_id
