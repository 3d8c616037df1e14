"""What one group of messages will change, gathered before anything is written.

The ingest line stages message after message; a refused transaction leaves no
trace, because a message works on a layer of its own that is merged only when
all its entries hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from fhir_bridge.errors import Issue
from fhir_bridge.lines.charts import OpenChart
from fhir_bridge.lines.versions import held_before, is_superseded, place, unchanged, versioned
from fhir_bridge.model.ingest import ChartRef, IndexRow, Interaction, Normalized, Outcome

_SUPERSEDED = Issue(
    "error", "conflict", "a newer version came after this message: ask the sender to send it again if it still holds"
)
_TAKEN = Interaction("PUT", "")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StagedRecord(msgspec.Struct, frozen=True):
    """A new version that is to be sealed."""

    record: Normalized
    chart: ChartRef
    row: IndexRow


class Refused(Exception):
    """An entry cannot be taken for a reason that only the stored state shows."""

    def __init__(self, status: str, issue: Issue) -> None:
        super().__init__(status)
        self.status = status
        self.issue = issue


class Elsewhere(Refused):
    """The criteria of a conditional write match another record than it is about; ``found`` is its id, or empty."""

    def __init__(self, found: str) -> None:
        issue = Issue("error", "conflict", "the criteria match another record by now; try again")
        super().__init__("409 Conflict", issue)
        self.found = found


@dataclass(slots=True)
class Layer:
    """Versions added by one message (or, merged, by a group), over the charts as they are durable.

    ``replayed_from_us`` is when the message first came, if it is one that is sent through the line again.
    """

    charts: Mapping[str, OpenChart]
    below: Layer | None = None
    histories: dict[str, list[IndexRow]] = field(default_factory=dict)
    chart_of: dict[str, ChartRef] = field(default_factory=dict)
    staged: list[StagedRecord] = field(default_factory=list)
    replayed_from_us: int | None = None

    def history(self, chart: str, record_id: str) -> Sequence[IndexRow]:
        """Return the versions of a record as this layer sees them, oldest first."""
        for layer in self._downwards():
            if record_id in layer.histories:
                return layer.histories[record_id]
        return self._durable(chart).get(record_id, ())

    def all_histories(self, chart: str) -> Mapping[str, Sequence[IndexRow]]:
        """Return the versions of every record of a chart as this layer sees them, by record id."""
        found = dict(self._durable(chart))
        for layer in reversed(list(self._downwards())):
            found |= {name: layer.histories[name] for name, home in layer.chart_of.items() if home.chart == chart}
        return found

    def charts_of_patients(self) -> list[ChartRef]:
        """Return the charts of the Patients that are staged here and below."""
        return [item.chart for layer in self._downwards() for item in layer.staged if item.row.type == "Patient"]

    def home(self, record_id: str) -> ChartRef | None:
        """Return the chart of a record staged here or below."""
        for layer in self._downwards():
            if record_id in layer.chart_of:
                return layer.chart_of[record_id]
        return None

    def _downwards(self) -> Iterator[Layer]:
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.below

    def _durable(self, chart: str) -> Mapping[str, Sequence[IndexRow]]:
        # Of the layer that is asked: one below may know other charts.
        opened = self.charts.get(chart)
        return opened.histories if opened is not None else {}

    def take(self, record: Normalized, chart: ChartRef, id_key: bytes, now: datetime) -> Outcome:
        """Stage one record and return what its sender is told.

        Raises:
            Refused: ``If-Match`` names another version than the current one, ``If-None-Match: *`` meets a current
                one, or a replay comes too late.
        """
        history = self.history(chart.chart, record.id)
        check_if_match(record, history)
        check_if_none_match(record, history)
        known = unchanged(history, record.row)
        if known is None and self.replayed_from_us is not None:
            known = held_before(history, record.row)
            if known is None and is_superseded(history, record.row, self.replayed_from_us):
                raise Refused("409 Conflict", _SUPERSEDED)
        if known is not None:
            return _outcome(record, known, "204 No Content" if known.deleted else "200 OK")
        if record.row.deleted and not history:
            return Outcome(record.index, "204 No Content", record.type, record.id)
        row = versioned(id_key, record, history, now)
        extended = list(history)
        place(extended, row)
        self.histories[record.id] = extended
        self.chart_of[record.id] = chart
        self.staged.append(StagedRecord(_spare(record, row), chart, row))
        if row.deleted:
            return _outcome(record, row, "204 No Content")
        return _outcome(record, row, "200 OK" if history else "201 Created")

    def merge(self, above: Layer) -> None:
        """Take over what a layer above has staged."""
        self.histories.update(above.histories)
        self.chart_of.update(above.chart_of)
        self.staged += above.staged


def _spare(record: Normalized, row: IndexRow) -> Normalized:
    """Return a slim record without what it takes no longer once it is staged; any other as it is."""
    if record.kept is None:
        return record
    return msgspec.structs.replace(record, interaction=_TAKEN, id=row.id, local_id="", row=row)


@lru_cache(maxsize=16)
def instant_of(microseconds: int) -> datetime:
    """Return the aware datetime of µs since 1970; all records of a commit have the same."""
    return _EPOCH + timedelta(microseconds=microseconds)


def check_if_match(record: Normalized, history: Sequence[IndexRow]) -> None:
    """Check the version that the sender expects.

    Raises:
        Refused: It is not the current one, or there is none.
    """
    wanted = record.interaction.if_match
    if wanted is None or (history and history[-1].version == wanted):
        return
    issue = Issue("error", "conflict", "If-Match does not name the current version; read it and try again")
    raise Refused("412 Precondition Failed", issue)


def check_match(record: Normalized, found: IndexRow | None) -> None:
    """Check that the criteria of a conditional write match what it is about, or nothing if it is to create.

    Raises:
        Elsewhere: They match another record, or none where one was expected.
    """
    if found is None:
        if record.interaction.id is not None:
            raise Elsewhere("")
    elif found.id != record.id:
        raise Elsewhere(found.id)


def check_if_none_match(record: Normalized, history: Sequence[IndexRow]) -> None:
    """Check that a sender who only wants to create meets nothing; a deleted record may be made again.

    Raises:
        Refused: The record exists.
    """
    if record.interaction.if_none_match != "*" or not history or history[-1].deleted:
        return
    issue = Issue(
        "error", "conflict", "If-None-Match: * asks to create, and the record exists; leave it out to update"
    )
    raise Refused("412 Precondition Failed", issue)


def _outcome(record: Normalized, row: IndexRow, status: str) -> Outcome:
    return Outcome(
        record.index, status, record.type, record.id, row.version, instant_of(row.last_updated_us), record.flags
    )
