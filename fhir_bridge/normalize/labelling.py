"""Label a record by the value sets in force: the last step of normalisation, which no pack can leave out.

For normalising and for judging again what is stored, so that both give the same bytes. Labels follow the codes of the
record itself and of what it contains; what it refers to is never looked up, so a label tells of nothing but its own
record.

Invariants:
    * a label that the sender or a rule has given is never taken away;
    * each label that the sets give is a change of its own in the lineage, which names set, version and concepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from fhir_bridge.fhir.json import parse, parse_any, render
from fhir_bridge.fhir.value_sets import ACT_CODE, Given, LabelSets, every_coding
from fhir_bridge.model.ids import content_digest
from fhir_bridge.model.ingest import Body, Change, ChartRef, IndexRow, Interaction, Normalized
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.stamping import index_row, lineage, meta_start

RULE = "core/sensitivity"
"""Name of this step in lineage; the value set follows after a blank."""

Label = dict[str, Any]
_NO_CHART = ChartRef("", "", None)
"""The line knows the chart of what is stored already."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version as it was sealed, to be judged again."""

    row: IndexRow
    content: bytes
    original: bytes
    lineage: bytes
    ruleset: str


def label_by_sets(draft: Draft, sets: LabelSets) -> None:
    """Give a draft the labels that its codes imply."""
    for given in sets.given(every_coding(draft.body)):
        meta = draft.body.setdefault("meta", {})
        before = meta.get("security", [])
        if not _holds(before, given.label):
            meta["security"] = [*before, {"system": ACT_CODE, "code": given.label}]
            by = By(f"{RULE} {given.value_set}", _reason(given))
            element = f"{draft.body['resourceType']}.meta.security"
            draft.changed(by, element, before or None, meta["security"], is_safe=True)


def ruleset_under(ruleset: str, sets: bytes) -> str:
    """Return the hash that names rules and value sets together; it stands on the ledger for what they made.

    Args:
        ruleset: Hash of the pack, or of the rules that made a version that is judged again.
        sets: Digest of the value sets.
    """
    return blake3(b"fhir-bridge/ruleset-and-sets/1\0" + bytes.fromhex(ruleset) + sets).hexdigest()


def is_settled(content: bytes, labels: Sequence[str], sets: LabelSets) -> bool:
    """Tell that a stored version's labels are what these sets make of it, without asking who gave them.

    False only says that :func:`relabelled` must look: a topic may have come from the sender or from a rule.
    """
    given = {f"{ACT_CODE}|{each.label}" for each in sets.given(every_coding(parse(content)))}
    return given == {label for label in labels if label.startswith(f"{ACT_CODE}|")}


def relabelled(stored: StoredVersion, sets: LabelSets, id_key: bytes) -> Normalized:
    """Return a version as its rules would have made it under these sets; with the same content if nothing changes.

    The original stays what the sender sent. The lineage keeps what the rules did and says anew what the sets give.
    """
    body = _without_stamp(parse(stored.content))
    changes = [Change(**change) for change in parse_any(stored.lineage)]
    draft = Draft(body, stored.row.type, [change for change in changes if not _is_ours(change)])
    tag = body["meta"].pop("tag", None)
    _keep(body["meta"], _given_before([change for change in changes if _is_ours(change)]))
    label_by_sets(draft, sets)
    if tag is not None:
        body["meta"]["tag"] = tag
    content = render(body)
    row = stored.row
    return Normalized(
        index=0,
        interaction=Interaction("PUT", row.type, stored.row.id, if_match=row.version),
        chart=_NO_CHART,
        type=row.type,
        id=row.id,
        local_id=stored.row.id,
        original=stored.original,
        content=content,
        stamp_at=meta_start(row.type, row.id),
        row=index_row(
            body,
            origin=row.origin,
            digest=content_digest(id_key, content),
            references=row.references,
            source_updated_us=row.source_updated_us,
        ),
        identifiers=(),
        lineage=lineage(draft.changes),
        ruleset=ruleset_under(stored.ruleset, sets.digest),
    )


def _reason(given: Given) -> str:
    found = ", ".join(f"{system}|{code}" for system, code in given.concepts)
    return f"{given.value_set} holds {found}"


def _is_ours(change: Change) -> bool:
    return change.rule == RULE or change.rule.startswith(f"{RULE} ")


def _holds(security: Iterable[Any], label: str) -> bool:
    return any(type(each) is dict and _key(each) == (ACT_CODE, label) for each in security)


def _key(label: Label) -> tuple[str, str]:
    return (label.get("system") or "", label.get("code") or "")


def _without_stamp(body: Body) -> Body:
    for name in ("versionId", "lastUpdated"):
        body["meta"].pop(name, None)
    return body


def _given_before(changes: Sequence[Change]) -> set[tuple[str, str]]:
    """Return the labels that sets gave when the version was made."""
    return {_key(each) for change in changes for each in change.after or () if each not in (change.before or ())}


def _keep(meta: Body, taken: set[tuple[str, str]]) -> None:
    """Leave the labels that do not come from sets."""
    kept = [each for each in meta.get("security", ()) if _key(each) not in taken]
    if kept:
        meta["security"] = kept
    else:
        meta.pop("security", None)
