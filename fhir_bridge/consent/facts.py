"""What deciding needs to know about a chart, beside who asks and what its consents say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhir_bridge.consent.network_policy import NO_POLICIES, NetworkPolicies, OwnRecords
from fhir_bridge.model.ingest import ChartRef, IndexRow


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """What deciding needs to know about a chart.

    Attributes:
        patients: Canonical Patient ids linked to this chart's person now, the chart's own included.
        rows: All rows of the person, needed only for consents that name ``related`` data.
        own_records: Network policy on what a consent may close to the institution that wrote it.
        base_url: Our own FHIR base, under which absolute references in consents are ours.
        network: The policies beside consents.
    """

    chart: ChartRef
    patients: frozenset[str] = frozenset()
    rows: Sequence[IndexRow] = ()
    own_records: OwnRecords = OwnRecords.CLOSED_BY_PROVISION
    base_url: str | None = None
    network: NetworkPolicies = NO_POLICIES
