"""Room 2: apply an institution's rules, so that one FHIR release and one set of ids stand inside.

Pure functions on values. A rule pack is loaded once (``load_ruleset``); ``normalize`` takes what intake accepted
and gives records that are ready to be versioned and sealed, each with the list of what rules changed in it.

Invariants:
    * the same bytes, key and ruleset give the same output, and normalising the output again changes nothing;
    * numbers that no rule touches keep their text;
    * what a rule removes is in the lineage, what has no home in R4 is in an extension.
"""

from __future__ import annotations

from fhir_bridge.normalize.code_maps import CodeMap, MapRow, by_url, unnamed
from fhir_bridge.normalize.differing import Difference, differences, worse
from fhir_bridge.normalize.examples import ExampleResult, run_examples
from fhir_bridge.normalize.explaining import (
    MEANS,
    Explanation,
    Kind,
    RulePlaces,
    Statement,
    changed_elements,
    described,
    explain,
    read_lineage,
    rules_of,
)
from fhir_bridge.normalize.guesses import Guess, remaining_guesses
from fhir_bridge.normalize.in_turn import InTurn
from fhir_bridge.normalize.labelling import StoredVersion, is_settled, relabelled, ruleset_under
from fhir_bridge.normalize.message import Normalization, Preview, explain_changes, normalize, preview
from fhir_bridge.normalize.pack import (
    ENGINE,
    Ruleset,
    files_of,
    layers_of,
    load_code_maps,
    load_ruleset,
    packaged_core,
)
from fhir_bridge.normalize.renormalising import names_rule, renormalised
from fhir_bridge.normalize.snapshots import Snapshot, rule_prints, take_snapshot

__all__ = [
    "ENGINE",
    "MEANS",
    "CodeMap",
    "Difference",
    "ExampleResult",
    "Explanation",
    "Guess",
    "InTurn",
    "Kind",
    "MapRow",
    "Normalization",
    "Preview",
    "RulePlaces",
    "Ruleset",
    "Snapshot",
    "Statement",
    "StoredVersion",
    "by_url",
    "changed_elements",
    "described",
    "differences",
    "explain",
    "explain_changes",
    "files_of",
    "is_settled",
    "layers_of",
    "load_code_maps",
    "load_ruleset",
    "names_rule",
    "normalize",
    "packaged_core",
    "preview",
    "read_lineage",
    "relabelled",
    "remaining_guesses",
    "renormalised",
    "rule_prints",
    "rules_of",
    "ruleset_under",
    "run_examples",
    "take_snapshot",
    "unnamed",
    "worse",
]
