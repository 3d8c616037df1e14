"""Functions that rules may ``call``: what is too entangled for a verb, typed and named.

Each takes the verb's arguments and gives the closure that edits a draft. They obey the same law as verbs: every
change is put on record, and running them again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhir_bridge.normalize.functions import consents, fit, moving, r5_clinical, r5_directory, r5_documents, stu3
from fhir_bridge.normalize.verb_args import Act, Args

FUNCTIONS: Mapping[str, Callable[[Args], Act]] = {
    "fit-to-r4": fit.fit_to_r4,
    "lift": moving.lift,
    "not-done": stu3.not_done,
    "imaging-study": stu3.imaging_study,
    "device": stu3.device,
    "benefit-totals": stu3.benefit_totals,
    "observation-related": stu3.observation_related,
    "become": moving.become,
    "explanation": stu3.explanation,
    "unwrap": moving.unwrap,
    "prisms": stu3.prisms,
    "coordinate-system": r5_clinical.coordinate_system,
    "instance": r5_clinical.instance,
    "user-ids": stu3.user_ids,
    "coverage-classes": stu3.coverage_classes,
    "package-batch": stu3.package_batch,
    "outcome": r5_documents.outcome,
    "body-sites": r5_documents.body_sites,
    "schedules": r5_clinical.schedules,
    "relations": r5_documents.relations,
    "eligibility": stu3.eligibility,
    "consent-stu3": consents.consent_stu3,
    "consent-r5": consents.consent_r5,
    "participants": r5_clinical.participants,
    "evidence": r5_clinical.evidence,
    "split": moving.split,
    "into": moving.into,
    "used-reasons": r5_clinical.used_reasons,
    "each-alone": moving.each_alone,
    "yes-no": moving.yes_no,
    "comment": r5_clinical.comment,
    "instructions": r5_clinical.instructions,
    "reported": r5_clinical.reported,
    "included-structure": r5_clinical.included_structure,
    "document-context": r5_documents.document_context,
    "document-format": r5_documents.document_format,
    "contacts": r5_directory.contacts,
    "availability": r5_directory.availability,
    "endpoint-payload": r5_directory.endpoint_payload,
    "membership": r5_clinical.membership,
}
