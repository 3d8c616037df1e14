"""What each chart's part of a decision rested on, gathered from the sight an answer was made from.

For the book of decisions. A chart that stood in for one that is not there has
grounds like the hidden one that it stands for, which nobody is told; more that
nobody is told fill up to a fixed number. So an answer about nobody takes the
steps of one about hidden charts, over contents of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fhir_bridge.consent import EVALUATOR
from fhir_bridge.lines.people import Behind, Sight
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.access import Decision, Question, Requester
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.proof.decision import ChartGrounds, Name, slots_for

_NO_POLICIES = bytes(32)


@dataclass(frozen=True, slots=True)
class Looked:
    """Grounds of a chart that was looked at, or of none that fills up.

    Attributes:
        chart: None for what fills up.
        is_told: The chart's patient may open it; nobody may open any other, ever.
    """

    grounds: ChartGrounds
    chart: ChartRef | None
    is_told: bool


def looked_at(
    who: Requester,
    question: Question,
    sight: Sight,
    shown: Mapping[str, Sequence[Name]],
    now: datetime,
    base_url: str,
) -> list[Looked]:
    """Return the grounds of each chart that was looked at, the directory aside, then what fills up.

    Args:
        shown: Chart → names of what the answer shows of it.
        base_url: Our FHIR base.
    """
    sights: list[tuple[Sight, Behind | None]] = [(sight, None)]
    sights += [(each.sight, each) for each in sight.behind]
    looked: dict[tuple[str, str], Looked] = {}
    for seen, behind in sights:
        decisions = {each.chart: each for each in seen.decisions}
        # A chart is told of once; one that stands in is as many as it stands for.
        stands_for = behind.record if behind is not None and behind.is_stand_in else ""
        for ref in seen.charts:
            if ref.patient_id is not None and (stands_for, ref.chart) not in looked:
                names, withheld = tuple(shown.get(ref.chart, ())), _withheld(behind, ref)
                made = _grounds(who, question, seen, ref, decisions[ref.chart], now, names, withheld)
                looked[stands_for, ref.chart] = Looked(made, ref, is_told=not stands_for)
    filling = slots_for(len(looked)) - len(looked)
    nobodys = Looked(_nobody(who, question, sight, now, base_url), None, is_told=False)
    return [*looked.values(), *[nobodys] * filling]


def _nobody(who: Requester, question: Question, sight: Sight, now: datetime, base_url: str) -> ChartGrounds:
    return ChartGrounds(
        request=question.request,
        requester=who,
        chart="",
        home="",
        patient="",
        linked=(),
        instant_us=microseconds(now),
        height=sight.height,
        batch=sight.newest,
        evaluator=EVALUATOR,
        basis="",
        base_url=base_url,
        policies=_NO_POLICIES,
        lists=(None, None, None),
        path=None,
        is_sound=True,
        is_attested=False,
        in_emergency=False,
    )


def _grounds(
    who: Requester,
    question: Question,
    seen: Sight,
    ref: ChartRef,
    decision: Decision,
    now: datetime,
    shown: tuple[tuple[str, str, str], ...],
    withheld: tuple[tuple[str, str], ...],
) -> ChartGrounds:
    rests_on = next(each for each in seen.grounds if each.facts.chart.chart == ref.chart)
    facts, lists = rests_on.facts, rests_on.lists
    return ChartGrounds(
        request=question.request,
        requester=who,
        chart=ref.chart,
        home=ref.institution,
        patient=ref.patient_id or "",
        linked=tuple(facts.patients),
        instant_us=microseconds(now),
        height=lists.height,
        batch=seen.newest,
        evaluator=decision.evaluator,
        basis=decision.basis,
        base_url=facts.base_url or "",
        policies=facts.network.digest,
        lists=(lists.hashes.owner, lists.hashes.institution, lists.hashes.kept),
        path=lists.hashes.path,
        is_sound=lists.is_sound,
        is_attested=lists.is_attested,
        in_emergency=rests_on.in_emergency,
        consents=decision.policies,
        shown=shown,
        withheld=withheld,
    )


def _withheld(behind: Behind | None, ref: ChartRef) -> tuple[tuple[str, str], ...]:
    """Return the record that a question named, if it was looked for in this chart in vain."""
    if behind is None or behind.chart != ref.chart or not behind.record:
        return ()
    type_name, _, record_id = behind.record.partition("/")
    return ((type_name, record_id),)
