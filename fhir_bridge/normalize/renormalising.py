"""Make a stored version again from its original, under the rules in force now.

What only its message could tell (which record a ``urn:uuid:`` or a conditional reference meant, under which id it
went) is taken from the lineage, never guessed. So the result is what the message would give if it came again today,
the id kept and every reference led to where it led.

Invariants:
    * the id, the chart and the sender's own time stay;
    * what today's rules would not take, or would put into another chart, is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.ingest import (
    Body,
    Change,
    ChartRef,
    FhirVersion,
    Interaction,
    Normalized,
    SourceContext,
    Validated,
)
from fhir_bridge.normalize.charts import Placed, own_chart
from fhir_bridge.normalize.draft import Unconvertible
from fhir_bridge.normalize.explaining import read_lineage
from fhir_bridge.normalize.labelling import StoredVersion, ruleset_under
from fhir_bridge.normalize.links import REFERENCES, Links
from fhir_bridge.normalize.message import RELEASE_RULE, settle, shaped
from fhir_bridge.normalize.originals import fhir_in, reread
from fhir_bridge.normalize.pack import Ruleset
from fhir_bridge.normalize.stamping import finish

_ANOTHER_TYPE = Issue("error", "conflict", "today's rules make a record of another type of it")
_ANOTHER_RECORD = Issue("error", "conflict", "today's description of the files makes another record of its row")
_SEVERAL = Issue("error", "conflict", "today's description of the files reads its row in several ways")
_ANOTHER_CHART = Issue("error", "conflict", "today's rules put it into another chart")


def renormalised(
    stored: StoredVersion, chart: ChartRef, source: SourceContext, ruleset: Ruleset, sets: LabelSets
) -> Normalized:
    """Return a stored version as these rules and value sets make it; with the same content if nothing changes.

    Args:
        stored: A version that its institution sent, not a deletion.
        chart: Where it lies.
        source: The institution; its release counts where the lineage does not tell that of the message.

    Raises:
        RecordRefused: These rules would not take it.
    """
    changes = read_lineage(stored.lineage)
    resource, is_foreign = _as_sent(stored, source, ruleset)
    release = _release(changes, source, ruleset)
    try:
        draft = shaped(resource, release, ruleset)
    except Unconvertible as verdict:
        raise RecordRefused([verdict.issue]) from None
    draft.changes += [change for change in changes if change.rule == RELEASE_RULE]
    row = stored.row
    if draft.body["resourceType"] != row.type:
        raise RecordRefused([_ANOTHER_TYPE])
    links = Links(source.id_key, ruleset.base_urls, aliases=ruleset.aliases_for(release))
    for text, target in _resolved(changes):
        links.remember(text, target)
    targets, updated = settle(draft, row.id, links, source, sets)
    if release is not FhirVersion.R4 or draft.was_reshaped or is_foreign:
        issues = validate_r4(draft.body)
        if is_refused(issues):
            raise RecordRefused([issue for issue in issues if issue.severity in ("error", "fatal")])
    home = own_chart(Placed(row.type, row.id, draft.body, targets), source, {})
    if home is not None and home.chart != chart.chart:
        raise RecordRefused([_ANOTHER_CHART])
    draft.changes += [change for change in changes if not change.element and change.rule != RELEASE_RULE]
    return finish(
        draft,
        Validated(0, Interaction("PUT", row.type, row.id, if_match=row.version), None, stored.original, resource),
        local_id=row.id,
        chart=chart,
        references=targets,
        source_updated_us=updated,
        source=source,
        ruleset_hash=ruleset_under(ruleset.hash, sets.digest),
    )


def _as_sent(stored: StoredVersion, source: SourceContext, ruleset: Ruleset) -> tuple[Body, bool]:
    """The resource that was sent, and whether it was read of another format: by today's description of it."""
    original = fhir_in(stored.original)
    if original is not None:
        return original if "resourceType" in original else original["resource"], False
    found: list[Body] = []
    for drawn in reread(stored.original, ruleset.formats):
        body = drawn.resource
        is_it = body is not None and canonical_id(source.id_key, body["resourceType"], body["id"]) == stored.row.id
        if body is not None and is_it and body not in found:
            found.append(body)
    if len(found) == 1:
        return found[0], True
    if found:
        raise RecordRefused([_SEVERAL])
    raise RecordRefused([_ANOTHER_RECORD])


def names_rule(stored_lineage: bytes, rule: str) -> bool:
    """Tell whether a rule had a hand in a record; of the value sets' rule any set counts."""
    return any(change.rule == rule or change.rule.startswith(f"{rule} ") for change in read_lineage(stored_lineage))


def _release(changes: Sequence[Change], source: SourceContext, ruleset: Ruleset) -> FhirVersion:
    """The release that the message came in: told by the lineage, or by rules that only work on one."""
    for change in changes:
        if change.rule == RELEASE_RULE:
            return FhirVersion(change.after)
    of_stu3 = {rule.name for rule in ruleset.rules if rule.release == FhirVersion.STU3.value}
    if any(change.rule in of_stu3 for change in changes):
        return FhirVersion.STU3
    return source.fhir_version


def _resolved(changes: Iterable[Change]) -> Iterable[tuple[str, str]]:
    """What each reference of the message led to."""
    for change in changes:
        is_text = type(change.before) is str and type(change.after) is str
        if change.rule == REFERENCES.rule and change.element.endswith(".reference") and is_text:
            yield change.before, change.after
