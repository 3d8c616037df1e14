"""Room 2: apply an institution's rules, so that one FHIR release and one set of ids stand inside.

Pure functions on values. A rule pack is loaded once (``load_ruleset``); ``normalize`` takes what intake accepted
and gives records that are ready to be versioned and sealed, each with the list of what rules changed in it.

Invariants:
    * the same bytes, key and ruleset give the same output, and normalising the output again changes nothing;
    * numbers that no rule touches keep their text;
    * what a rule removes is in the lineage, what has no home in R4 is in an extension.
"""

from __future__ import annotations

from fhir_bridge.normalize.examples import ExampleResult, run_examples
from fhir_bridge.normalize.explaining import (
    MEANS,
    Explanation,
    Kind,
    Rules,
    Statement,
    changed_elements,
    described,
    explain,
    read_lineage,
    rules_of,
)
from fhir_bridge.normalize.labelling import StoredVersion, is_settled, relabelled, ruleset_under
from fhir_bridge.normalize.message import Normalization, Preview, explain_changes, normalize, preview
from fhir_bridge.normalize.pack import Ruleset, load_ruleset, packaged_core
from fhir_bridge.normalize.renormalising import names_rule, renormalised

__all__ = [
    "MEANS",
    "ExampleResult",
    "Explanation",
    "Kind",
    "Normalization",
    "Preview",
    "Rules",
    "Ruleset",
    "Statement",
    "StoredVersion",
    "changed_elements",
    "described",
    "explain",
    "explain_changes",
    "is_settled",
    "load_ruleset",
    "names_rule",
    "normalize",
    "packaged_core",
    "preview",
    "read_lineage",
    "relabelled",
    "renormalised",
    "rules_of",
    "ruleset_under",
    "run_examples",
]
