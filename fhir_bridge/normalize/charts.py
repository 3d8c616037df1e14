"""Which chart each record of a message belongs to.

The patient's at that institution; administrative resources go to the institution's directory; a record without a
patient follows the record that refers to it in the same message, else the one patient whom a whole transaction is
about. What is left has no chart and cannot be stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from fhir_bridge.fhir.compartment import each_patient_reference
from fhir_bridge.fhir.reference_text import parse_reference
from fhir_bridge.model.ids import DIRECTORY_TYPES, canonical_id, chart_id, directory_id
from fhir_bridge.model.ingest import Body, ChartRef, SourceContext


@dataclass(frozen=True, slots=True)
class Placed:
    """A record with canonical id and references, on its way to a chart."""

    type: str
    id: str
    body: Body
    targets: tuple[str, ...]


def charts_of(records: Sequence[Placed], source: SourceContext, *, is_transaction: bool) -> list[ChartRef | None]:
    """Return the chart of each record, None where nothing tells.

    Args:
        is_transaction: The records came as one unit; a batch holds what may have nothing to do with each other.
    """
    known: dict[str, ChartRef | None] = {}
    charts = [own_chart(record, source, known) for record in records]
    if None not in charts:
        return charts
    names = [f"{record.type}/{record.id}" for record in records]
    return follow(charts, names, [record.targets for record in records], is_transaction=is_transaction)


def follow(
    charts: list[ChartRef | None],
    names: Sequence[str],
    targets: Sequence[tuple[str, ...]],
    *,
    is_transaction: bool,
) -> list[ChartRef | None]:
    """Return the charts with those of records that name none themselves, as far as something tells.

    Args:
        names: ``Type/id`` of each record.
        targets: What each refers to.
    """
    place = {name: index for index, name in enumerate(names)}
    waiting = [index for index, chart in enumerate(charts) if chart is not None]
    while waiting:
        index = waiting.pop(0)
        chart = charts[index]
        if chart is None or chart.is_directory:
            continue
        for target in targets[index]:
            found = place.get(target)
            if found is not None and charts[found] is None:
                charts[found] = chart
                waiting.append(found)
    return _with_the_only_patient(charts) if is_transaction else charts


def _with_the_only_patient(charts: list[ChartRef | None]) -> list[ChartRef | None]:
    """A Medication may come before the order that names it; a transaction about one person tells whose it is."""
    patients = {chart for chart in charts if chart is not None and not chart.is_directory}
    if len(patients) != 1:
        return charts
    (only,) = patients
    return [chart or only for chart in charts]


def own_chart(record: Placed, source: SourceContext, known: dict[str, ChartRef | None]) -> ChartRef | None:
    """The chart that a record names itself.

    Args:
        known: What references of the same source's records say; grows.
    """
    chart = chart_of_type(record.type, record.id, source)
    if chart is not None:
        return chart
    # The compartment of R4 leaves out Device.patient and its like, which say all the same whose the record is.
    for text in chain(each_patient_reference(record.body), _named_patients(record.body)):
        if text not in known:
            known[text] = _chart_of_patient(text, source)
        if known[text] is not None:
            return known[text]
    return None


def chart_of_type(type_name: str, record_id: str, source: SourceContext) -> ChartRef | None:
    """The chart that follows from type and canonical id alone: the directory's, or a Patient's own."""
    if type_name in DIRECTORY_TYPES:
        return ChartRef(source.institution, directory_id(source.id_key), None)
    if type_name == "Patient":
        return ChartRef(source.institution, chart_id(source.id_key, record_id), record_id)
    return None


def _named_patients(body: Body) -> Iterator[str]:
    for element in ("patient", "subject"):
        reference = body.get(element)
        text = reference.get("reference") if type(reference) is dict else None
        if type(text) is str:
            yield text


def _chart_of_patient(text: str, source: SourceContext) -> ChartRef | None:
    parsed = parse_reference(text)
    if parsed.type != "Patient" or parsed.id is None:
        return None
    # Another institution's Patient: the writer's own chart of that person, found by the whole address.
    local = parsed.id if parsed.base is None else f"{parsed.base}/Patient/{parsed.id}"
    patient = canonical_id(source.id_key, "Patient", local)
    return ChartRef(source.institution, chart_id(source.id_key, patient), patient)


def unknown_chart(institution: str) -> ChartRef:
    """Stands for the chart of a deletion, which only the vault can tell."""
    return ChartRef(institution, "", "")
