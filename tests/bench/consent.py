"""How fast consent decisions are: one compiled policy, 1,000 consents, and a row of the view.

Run ``make bench ARGS="--only consent"``. Tells p50 and p99 of processor time in microseconds, of all that the answer
line asks for a chart (:func:`fhir_bridge.consent.judge`), for a requester who asked before. Told apart are the first
decision, which compiles the Consents, and the first after a Consent was added.
"""

from __future__ import annotations

import statistics
import time
from random import Random

from fhir_bridge.consent import ChartFacts, ConsentList, Inputs, judge, load_policies
from fhir_bridge.model.access import Decision
from tests.bench.feeding import Figures
from tests.unit.consent.consent_samples import (
    CHART,
    HARBOR,
    NOW,
    Json,
    consent,
    entry,
    labels,
    listed,
    provision,
    purposes,
    row,
    to,
)

ROUNDS = 3_000
WARM_UP = 20


_NETWORK = load_policies()

AIMS = {
    "consent_1.decision_p99_us": "50",
    "consent_1000.decision_p50_us": "1,000",
}


def decisions() -> dict[str, Figures]:
    """Measure one consent, and a chart with a thousand of them."""
    random = Random(1)
    return {
        "consent_1": _measured([_typical()], ROUNDS),
        "consent_1000": _measured([_one(random, number) for number in range(1_000)], ROUNDS // 10),
    }


def main() -> None:
    """Measure and print."""
    for name, figures in decisions().items():
        print(f"{name}: " + ", ".join(f"{what} {value}" for what, value in figures.items()))


def _measured(bodies: list[Json], rounds: int) -> Figures:
    lists, seen = listed(*bodies), row(labelled=("N",))
    times, rows = [], []
    for _ in range(rounds + WARM_UP):
        taken, made = _timed(lists)
        times.append(taken)
        started = time.thread_time_ns()
        made.permits(seen)
        rows.append(time.thread_time_ns() - started)
    changes = []
    for number in range(rounds // 10):
        changed = lists.with_entry(entry(_typical(), 10_000, signed_at=number))
        changes.append(_timed(changed)[0])
    figures: Figures = {"first_decision_us": round(times[0] / 1_000)}
    for name, each in (("decision", times[WARM_UP:]), ("after_a_change", changes), ("row", rows[WARM_UP:])):
        cuts = statistics.quantiles(each, n=100)
        figures |= {f"{name}_p{share}_us": round(cuts[share - 1] / 1_000, 1) for share in (50, 99)}
    return figures


def _timed(lists: ConsentList) -> tuple[int, Decision]:
    """Judge as the answer line does; return the nanoseconds of processor time and the decision."""
    started = time.thread_time_ns()
    facts = ChartFacts(CHART, frozenset({"pat1"}), network=_NETWORK)
    made = judge(Inputs(HARBOR, facts, lists, None, True, False, False, NOW, 1))
    return time.thread_time_ns() - started, made


def _typical() -> Json:
    return consent(
        provision(
            "permit",
            provision("deny", **labels("PSY")),
            provision("permit", **labels("R"), **to("Practitioner/dr-h")),
            **to("Organization/org-harbor"),
            **purposes("TREAT"),
            **labels("N"),
        )
    )


def _one(random: Random, number: int) -> Json:
    who = random.choice(["Organization/org-harbor", f"Organization/org-{number}", f"Practitioner/dr-{number}"])
    return consent(provision(random.choice(["permit", "deny"]), **to(who), **labels(random.choice(["N", "PSY"]))))


if __name__ == "__main__":
    main()
