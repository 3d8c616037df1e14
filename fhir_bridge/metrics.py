"""Counters and durations for operators, in Prometheus' terms; the only module that speaks to its client.

They are read where operators are (the control socket, a loopback port), never
on the public port: how much an institution has sent lately is more than a
requester may know.

Invariants:
    * a label's values are few and fixed by code or configuration: names of institutions, interactions, outcomes;
      never an id, a path, a query or anything a stranger can invent;
    * nothing counts what an answer hid or showed, so that no difference of two readings tells of a hidden record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "fhir_bridge_"

disable_created_metrics()  # type: ignore[no-untyped-call]
_REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=_REGISTRY)
PlatformCollector(registry=_REGISTRY)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_GROUP = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(PREFIX + name, text, labels, registry=_REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(PREFIX + name, text, labels, registry=_REGISTRY, buckets=buckets)


MESSAGES = _counter("messages", "Messages committed, by sender and by what became of them.", "institution", "outcome")
ENTRIES = _counter("entries", "Entries of committed messages, by what became of them.", "outcome")
MESSAGE_BYTES = _counter("message_bytes", "Bytes of committed messages.")
COMMIT = _histogram("vault_commit_seconds", "Time that a group's commit to the vault took.")
GROUP = _histogram("commit_group_messages", "Messages in one commit.", buckets=_GROUP)
COMMIT_FAILURES = _counter("commit_failures", "Groups that could not be committed at once.")
ANCHOR = _histogram("anchor_seconds", "Time to bring a batch to the ledger.")
ANCHOR_FAILURES = _counter("anchor_failures", "Batches that the ledger did not take at once.")
BUS_REOPENED = _counter("bus_reopened", "Times that a reader of the bus stood still before messages.")
IMPORTS = _counter("imports", "Imports, by what became of them.", "outcome")
RULES_CHANGES = _counter(
    "rules_changes", "Changes of rules in use, by what was done or refused.", "institution", "outcome"
)
RULES_LIVE = _histogram("rules_live_seconds", "Time from the order to put rules in force until they are.")
TRIALS = _counter(
    "rules_tried", "Messages that rules on trial did too, by what came of it.", "institution", "outcome"
)
ANSWERS = _counter("answers", "HTTP answers, by interaction and class of status.", "interaction", "status")
ANSWER = _histogram("answer_seconds", "Time from a request's head to its answer's last byte.", "interaction")
DECISION = _histogram("decision_seconds", "Time to make one requester's view of one person.")


@dataclass(frozen=True, slots=True)
class Gauge:
    """A state at the moment of reading: what it is called, what it means, its values by the value of one label.

    ``label`` is empty for a state that has no label; its one value stands under the empty text.
    """

    name: str
    text: str
    values: Mapping[str, float]
    label: str = ""


def gauge(name: str, text: str, value: float) -> Gauge:
    """Return a state without a label."""
    return Gauge(name, text, {"": float(value)})


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long a block took, whether it succeeds or not."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - begun)


def exposition(gauges: list[Gauge]) -> bytes:
    """Return everything counted in this process and these states, as a Prometheus text page."""
    return generate_latest(_REGISTRY) + generate_latest(_states(gauges))


def _states(gauges: list[Gauge]) -> CollectorRegistry:
    class States:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for each in gauges:
                family = GaugeMetricFamily(PREFIX + each.name, each.text, labels=[each.label] if each.label else [])
                for label, value in each.values.items():
                    family.add_metric([label] if each.label else [], value)
                yield family

    registry = CollectorRegistry()
    registry.register(States())
    return registry
