"""Read what is stored together with the ruleset that made it."""

from __future__ import annotations

import json
from typing import Any

from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.normalize import ruleset_under
from fhir_bridge.seal import RecordPlace, open_normalised
from tests.support.bridge_world import World


async def stored_by_ruleset(world: World, type_name: str = "Observation") -> list[tuple[str, dict[str, Any]]]:
    """Return ruleset and content of every version of a type, in no order."""
    vault, registry = world.bridge.backfilling._vault, world.bridge.backfilling._registry
    found = []
    async for stored in vault.scan():
        chart = registry.chart(stored.chart)
        assert chart is not None
        where = RecordPlace(stored.chart, stored.id, stored.version, chart.institution)
        opened = open_normalised(registry.chart_key(chart), where, stored.normalised)
        content = json.loads(opened.content) if opened.content else {}
        if content.get("resourceType") == type_name:
            found.append((opened.ruleset, content))
    return found


def named(pack_hash: str) -> str:
    """Return how a record names a pack under the sets that ship with the package."""
    return ruleset_under(pack_hash, packaged_sets().digest)
