"""Functions that rules may ``call``: what is too entangled for a verb, typed and named.

Each takes the verb's arguments and gives the closure that edits a draft. They obey the same law as verbs: every
change is put on record, and running them again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhir_bridge.normalize.functions import consents, fit, r5, stu3
from fhir_bridge.normalize.verb_args import Act, Args

FUNCTIONS: Mapping[str, Callable[[Args], Act]] = {
    "fit-to-r4": fit.fit_to_r4,
    "lift": stu3.lift,
    "not-done": stu3.not_done,
    "imaging-study": stu3.imaging_study,
    "device": stu3.device,
    "benefit-totals": stu3.benefit_totals,
    "observation-related": stu3.observation_related,
    "become": stu3.become,
    "explanation": stu3.explanation,
    "unwrap": stu3.unwrap,
    "prisms": stu3.prisms,
    "coordinate-system": r5.coordinate_system,
    "instance": r5.instance,
    "user-ids": stu3.user_ids,
    "coverage-classes": stu3.coverage_classes,
    "package-batch": stu3.package_batch,
    "outcome": r5.outcome,
    "body-sites": r5.body_sites,
    "schedules": r5.schedules,
    "relations": r5.relations,
    "eligibility": stu3.eligibility,
    "consent-stu3": consents.consent_stu3,
    "consent-r5": consents.consent_r5,
    "participants": r5.participants,
    "evidence": r5.evidence,
    "split": r5.split,
    "into": r5.into,
    "used-reasons": r5.used_reasons,
    "each-alone": r5.each_alone,
    "yes-no": r5.yes_no,
    "comment": r5.comment,
    "instructions": r5.instructions,
    "reported": r5.reported,
    "included-structure": r5.included_structure,
    "document-context": r5.document_context,
    "document-format": r5.document_format,
    "contacts": r5.contacts,
    "availability": r5.availability,
    "endpoint-payload": r5.endpoint_payload,
    "membership": r5.membership,
}
