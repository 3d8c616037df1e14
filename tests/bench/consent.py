"""How fast consent decisions are: one compiled policy, 1,000 consents, and a row of the view.

Run ``python -m tests.bench.consent``. Prints p50 and p99 of processor time in microseconds, for a requester who
asked before; compiling is done before, as in the service, which compiles a
Consent once. The first decision for a requester is told apart.
"""

from __future__ import annotations

import statistics
import time
from random import Random

from fhir_bridge.consent import ChartFacts, decide, load_policies
from tests.unit.consent.consent_samples import (
    CHART,
    HARBOR,
    NOW,
    Json,
    consent,
    labels,
    listed,
    provision,
    purposes,
    row,
    to,
)

ROUNDS = 3_000


def main() -> None:
    """Measure and print."""
    typical = consent(
        provision(
            "permit",
            provision("deny", **labels("PSY")),
            provision("permit", **labels("R"), **to("Practitioner/dr-h")),
            **to("Organization/org-harbor"),
            **purposes("TREAT"),
            **labels("N"),
        )
    )
    random = Random(1)
    many = [_one(random, number) for number in range(1_000)]
    seen = row(labelled=("N",))
    for name, bodies, rounds in (("1 consent", [typical], ROUNDS), ("1,000 consents", many, ROUNDS // 10)):
        lists = listed(*bodies)
        facts = ChartFacts(CHART, frozenset({"pat1"}), network=load_policies())
        times, rows = [], []
        for _ in range(rounds + 20):
            started = time.thread_time_ns()
            made = decide(HARBOR, facts, lists, None, instant=NOW, height=1)
            decided = time.thread_time_ns()
            made.permits(seen)
            rows.append(time.thread_time_ns() - decided)
            times.append(decided - started)
        print(f"{name}: first decision {times[0] / 1_000:.0f} µs")
        print(f"{name}: decision {_told(times[20:])}; a row {_told(rows[20:])}")


def _one(random: Random, number: int) -> Json:
    who = random.choice(["Organization/org-harbor", f"Organization/org-{number}", f"Practitioner/dr-{number}"])
    return consent(provision(random.choice(["permit", "deny"]), **to(who), **labels(random.choice(["N", "PSY"]))))


def _told(times: list[int]) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"p50 {cuts[49] / 1_000:.1f} µs, p99 {cuts[98] / 1_000:.1f} µs"


if __name__ == "__main__":
    main()
