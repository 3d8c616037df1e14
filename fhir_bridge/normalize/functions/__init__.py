"""Functions that rules may ``call``: what is too entangled for a verb, typed and named.

Each takes the verb's arguments and gives the closure that edits a draft. They obey the same law as verbs: every
change is put on record, and running them again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhir_bridge.normalize.functions import fit, stu3
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
}
