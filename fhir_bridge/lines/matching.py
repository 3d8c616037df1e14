"""Which charts may be one human's: suggestions for a person who decides, and what was decided.

For the operator. A score links nobody: it puts a pair before somebody who looks both up where they were treated. Only
a trusted identifier in common, with nothing against it, links by itself, and only where the operator asks for that.

Invariants:
    * suggestions are computed when asked for and stored nowhere; what is stored is who was told one or two;
    * what leaves here names canonical ids and fields, never a value of a Patient.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bridge.errors import SetupWrong
from fhir_bridge.fhir.json import parse
from fhir_bridge.lines.charts import ChartBook
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.registry import IDENTIFIER, REVIEWED, Registry
from fhir_bridge.model.access import Found
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.normalize.likeness import Likeness, Traits, likeness, pairs, traits_of
from fhir_bridge.settings import PersonSettings

_TOLD_EVERY = 200


@dataclass(frozen=True, slots=True)
class _Pair:
    one: ChartRef
    two: ChartRef
    how: Likeness


class Matching:
    """Compares the Patients of all charts, and keeps what was decided about pairs of them."""

    def __init__(
        self,
        *,
        registry: Registry,
        book: ChartBook,
        opening: Opening,
        grant: GrantLine,
        settings: PersonSettings,
    ) -> None:
        self._registry = registry
        self._book = book
        self._opening = opening
        self._grant = grant
        self._trusted = frozenset(settings.trusted_systems.split())

    async def suggest(
        self, least_bits: float | None = None, *, link_identifiers: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Compare all Patients; yield ``progress``, then each ``suggestion``, best first, then ``done``.

        Reads the index of every chart once. Pairs that are linked, or said to be two humans, are left out.

        Args:
            least_bits: Evidence from which a pair is suggested; by default 10 bits more than the logarithm of the
                number of Patients, so that chance gives about one pair in a thousand Patients.
            link_identifiers: Link pairs that share a trusted identifier and agree otherwise, instead of suggesting.
        """
        charts: list[ChartRef] = []
        everyone: list[Traits] = []
        async for chart, traits in self._patients():
            charts.append(chart)
            everyone.append(traits)
            if len(charts) % _TOLD_EVERY == 0:
                yield {"progress": {"patients": len(charts)}}
        least = 10 + math.log2(max(len(charts), 1)) if least_bits is None else least_bits
        found, skipped = await asyncio.to_thread(self._compare, charts, everyone, least)
        linked = 0
        for pair in found:
            if link_identifiers and _is_certain(pair.how) and await self._joins(pair):
                linked += 1
            else:
                yield {"suggestion": _told(pair)}
        if linked:
            await self._grant.follow_links()
        yield {"done": {"patients": len(charts), "linked": linked, "least_bits": round(least, 1), "skipped": skipped}}

    async def accept(self, one: str, two: str, *, merge: bool = False) -> dict[str, Any]:
        """Link two charts because somebody has looked; ids are canonical."""
        if self._chart(one) == self._chart(two):
            raise SetupWrong("these are one and the same Patient")
        count = await self._registry.join(self._chart(one), self._chart(two), REVIEWED, merge=merge)
        await self._grant.follow_links()
        return {"linked": count}

    async def refuse(self, one: str, two: str) -> dict[str, Any]:
        """Note that two charts are two humans'."""
        await self._registry.part(self._chart(one), self._chart(two))
        return {"apart": True}

    async def unlink(self, patient: str) -> dict[str, Any]:
        """Undo a chart's link."""
        return {"unlinked_from": await self._registry.unlink(self._chart(patient))}

    def linked(self, patient: str) -> list[dict[str, str]]:
        """Return the charts of a person, and on what ground each is linked."""
        return [
            {
                "institution": chart.institution,
                "patient": str(chart.patient_id),
                "assurance": self._registry.assurance(chart),
            }
            for chart in self._registry.linked(self._chart(patient))
        ]

    def _chart(self, patient: str) -> ChartRef:
        chart = self._registry.chart_of_patient(patient.removeprefix("Patient/"))
        if chart is None:
            raise SetupWrong("no such patient is known here: give the canonical id that 'person suggest' names")
        return chart

    async def _patients(self) -> AsyncIterator[tuple[ChartRef, Traits]]:
        for chart in self._registry.all_charts():
            if chart.is_directory:
                continue
            opened = await self._book.open(chart, self._registry.chart_key(chart))
            versions = opened.histories.get(str(chart.patient_id), ())
            if not versions or versions[-1].deleted:
                continue
            (body,) = await self._opening.bodies([Found(chart.chart, versions[-1])])
            yield chart, traits_of(parse(body))

    def _compare(
        self, charts: Sequence[ChartRef], everyone: Sequence[Traits], least: float
    ) -> tuple[list[_Pair], int]:
        candidates, skipped = pairs(everyone, self._trusted)
        person = [frozenset(chart.chart for chart in self._registry.linked(each)) for each in charts]
        found = []
        for a, b in candidates:
            if charts[b].chart in person[a] or self._registry.are_apart(charts[a], charts[b]):
                continue
            how = likeness(everyone[a], everyone[b], self._trusted)
            if how.bits >= least and not how.is_ruled_out:
                found.append(_Pair(charts[a], charts[b], how))
        found.sort(key=lambda pair: (-pair.how.bits, pair.one.chart, pair.two.chart))
        return found, skipped

    async def _joins(self, pair: _Pair) -> bool:
        """Link a pair unless that would make one human of two groups of charts: then it is for somebody to decide."""
        try:
            await self._registry.join(pair.one, pair.two, IDENTIFIER)
        except SetupWrong:
            return False
        return True


def _is_certain(how: Likeness) -> bool:
    """Tell whether a trusted identifier is shared and name and birth date do not speak against it."""
    against = {how.fields.get("given name"), how.fields.get("birth date")} & {"different"}
    return how.shares_identifier and not against


def _told(pair: _Pair) -> dict[str, Any]:
    return {
        "one": {"institution": pair.one.institution, "patient": str(pair.one.patient_id)},
        "two": {"institution": pair.two.institution, "patient": str(pair.two.patient_id)},
        "bits": round(pair.how.bits, 1),
        "fields": dict(pair.how.fields),
    }
