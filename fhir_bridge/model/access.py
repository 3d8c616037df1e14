"""A question on its way through: AccessRequest → Decision → Answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fhir_bridge.model.ingest import IndexRow


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, as established from a verified token and nothing else.

    Exactly one of ``institution`` (a clinician or system of it) and
    ``patient`` (person acting through the own agent) is set.

    Attributes:
        institution: Name of the institution.
        institution_id: Its public id, as consents name it (``Organization/<id>``).
        practitioner: ``Practitioner`` id as the token states, if any.
        roles: Role codes ``system|code`` that the token states.
        purpose: Purpose of use, code of http://terminology.hl7.org/CodeSystem/v3-ActReason.
        patient: Canonical Patient id whose agent asks.
        delegate: Who acts for the patient in an own name; None for the patient's own agent.
        scopes: Granted SMART scopes.
        client_id: Who authenticated.
        groups: ``Group/…``, ``CareTeam/…`` and the like that the token states membership of;
            None if it states nothing about membership.
    """

    client_id: str
    institution: str | None = None
    institution_id: str | None = None
    practitioner: str | None = None
    roles: tuple[str, ...] = ()
    purpose: str = "TREAT"
    patient: str | None = None
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    delegate: str | None = None


Predicate = Callable[[IndexRow], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a requester may see of one chart, and why.

    Attributes:
        permits: Tells for an index row whether it is in the permitted view.
        height: Ledger height whose state was used.
        evaluator: Version of the evaluator.
        policies: ``(consent id, version)`` that had a say; never shown to the requester.
        basis: ``own``, ``consent``, ``patient``, ``directory``, ``law``, ``emergency`` or ``default-deny``.
        network_policy: Version of the policies beside consents, the hex digest that the ledger names.
    """

    chart: str
    permits: Predicate
    height: int
    evaluator: str
    instant: datetime
    policies: tuple[tuple[str, str], ...] = ()
    basis: str = "default-deny"
    network_policy: str = ""


@dataclass(frozen=True, slots=True)
class ChartView:
    """The permitted rows of one chart: all versions that the requester may see, oldest first."""

    chart: str
    institution: str
    rows: tuple[IndexRow, ...]


@dataclass(frozen=True, slots=True)
class PermittedView:
    """The records of a person that a requester may see now; the only door to records.

    ``current`` maps ``Type/id`` to the newest permitted row that is not deleted.
    """

    charts: tuple[ChartView, ...]
    current: Mapping[str, tuple[ChartView, IndexRow]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """One row of an answer, with the chart that holds its ciphertext."""

    chart: str
    row: IndexRow
    mode: str = "match"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a searchset, in order; ``next_cursor`` is None on the last page."""

    found: tuple[Found, ...]
    total: int | None
    next_cursor: str | None = None
