"""Explain a value: from the bytes that were sent, by rules, to what stands in the record; and prove it.

:class:`Explaining` answers an institution's own engineers from what is sealed. :func:`prove` is for whoever holds the
exported parts and distrusts us: it asks the receipt whether each part is the one that the ledger holds the
commitment of.

Invariants:
    * nothing is explained from a part that the record's commitment does not bind;
    * what a receipt cannot prove is not said to be proved: that the hospital sent these bytes is for its signature,
      that the rules were right is for whoever reads them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from fhir_bridge.errors import IntegrityBroken, SetupWrong
from fhir_bridge.fhir.json import parse
from fhir_bridge.lines.charts import ChartBook
from fhir_bridge.lines.evidence import Disclosed, Evidence
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.rule_story import RuleStory
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.normalize import (
    Explanation,
    described,
    explain,
    read_lineage,
    rules_of,
)
from fhir_bridge.ports.formats import SourceFormat
from fhir_bridge.ports.vault import Vault
from fhir_bridge.seal import LINEAGE, NORMALISED, ORIGINAL, RecordPlace
from ledger_core import Outcome, Policy, verify_receipt

_NAMED = re.compile(
    r"(?P<type>[A-Za-z]{1,64})/(?P<id>[A-Za-z0-9.-]{1,64})(?:/_history/(?P<version>[A-Za-z0-9.-]{1,64}))?"
)


class Explaining:
    """Opens what an explanation needs and nothing more."""

    def __init__(
        self, *, vault: Vault, registry: Registry, book: ChartBook, evidence: Evidence, story: RuleStory
    ) -> None:
        self._vault = vault
        self._registry = registry
        self._book = book
        self._evidence = evidence
        self._story = story

    async def explain(self, record: str, path: str) -> dict[str, Any]:
        """Explain the values of a record version at or below a path, with the parts that prove it.

        Args:
            record: ``Type/id`` for the current version or ``Type/id/_history/version``; canonical or local id.
            path: Empty for the whole record.

        Raises:
            SetupWrong: No such record or version, a chart that was erased, no such element, or a path that cannot be
                read.
            EnvelopeBroken: What is stored was changed.
            Unavailable: Not anchored yet.
        """
        place = await self._place(record)
        found = await self._evidence.disclosed(place)
        if found is None or not found.record:
            raise SetupWrong("there is no such version of a record, or it is a deletion")
        answering = await self._story.answering(place.origin, found.ruleset)
        ruleset = None if answering is None else await self._story.compiled(answering["ruleset"])
        rules = {} if ruleset is None else rules_of(ruleset)
        formats = () if ruleset is None else ruleset.formats
        told = explained(found.original, found.record, found.lineage, path, formats)
        body = parse(found.record)
        return {
            "record": f"{body['resourceType']}/{place.id}/_history/{place.version}",
            "institution": place.origin,
            "ruleset": found.ruleset,
            "height": found.height,
            "answering": answering,
            **described(told, rules),
            "parts": _parts(found),
        }

    async def _place(self, record: str) -> RecordPlace:
        named = _NAMED.fullmatch(record)
        if named is None:
            raise SetupWrong("name a record: Type/id, or Type/id/_history/version")
        keys = [self._registry.id_key(name) for name in self._registry.institutions]
        ids = dict.fromkeys([named["id"], *(canonical_id(key, named["type"], named["id"]) for key in keys)])
        homes = await self._vault.charts_of(list(ids))
        if len(homes) != 1:
            problem = (
                "several institutions have such a record: name it by its canonical id" if homes else "no such record"
            )
            raise SetupWrong(problem)
        ((record_id, chart),) = homes.items()
        home = self._registry.chart(chart)
        if home is None:
            raise IntegrityBroken("a record lies in a chart that is not known: run fsck")
        key = self._registry.held_chart_key(home)
        if key is None:
            raise SetupWrong("the chart of this record was erased: nobody can read what was in it")
        history = (await self._book.open(home, key)).histories.get(record_id, ())
        rows = [row for row in history if named["version"] in (None, row.version) and row.type == named["type"]]
        if not rows:
            raise SetupWrong("no such record, or no such version of it")
        return RecordPlace.of(chart, rows[-1])


def explained(
    original: bytes, record: bytes, lineage: bytes, path: str, formats: Sequence[SourceFormat] = ()
) -> Explanation:
    """Explain out of the three parts of a record; of a row of CSV, with the formats of the pack that read it.

    Raises:
        SetupWrong: They are not parts of a record, or it has no such element.
    """
    try:
        told = explain(original, parse(record), read_lineage(lineage), path, formats)
    except ValueError as wrong:
        raise SetupWrong(str(wrong)) from None
    if not told.statements:
        raise SetupWrong("the record has no such element, and none was sent: try a shorter path")
    return told


def prove(receipt: str, *, original: bytes, record: bytes, lineage: bytes, policy: Policy | None = None) -> Outcome:
    """Check that the three parts are those of one record on the ledger; return what vouches for that.

    Raises:
        LedgerError: The receipt is not sound, opens none of them, or misses the policy.
        SetupWrong: A part is there under another name.
    """
    outcome = verify_receipt(receipt, records=[original, record, lineage], policy=policy)
    for name, content in ((ORIGINAL, original), (NORMALISED, record), (LINEAGE, lineage)):
        (opened,) = verify_receipt(receipt, records=[content]).records
        if name not in opened.matched:
            raise SetupWrong(f"what is given as the {name} is another part of the record")
    return outcome


def _parts(found: Disclosed) -> dict[str, str]:
    contents: Sequence[tuple[str, bytes]] = (
        ("original", found.original),
        ("record.json", found.record),
        ("lineage.json", found.lineage),
        ("receipt.json", found.receipt.encode()),
    )
    return {name: base64.b64encode(content).decode() for name, content in contents}
