"""Three real Kafka brokers for tests: every partition on all three, written to two of them before it counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.kafka_broker import KafkaBroker
from tests.support.ports import free_ports

NODES: Final = 3


class KafkaCluster:
    """Brokers 0 to 2; one of them may be killed and started again without loss of what was acknowledged."""

    def __init__(self, directory: Path, **properties: str) -> None:
        voters = dict(enumerate(free_ports(NODES), start=1))
        replicated = {
            "default.replication.factor": str(NODES),
            "min.insync.replicas": str(NODES - 1),
            "offsets.topic.replication.factor": str(NODES),
            "replica.fetch.max.bytes": str(16 << 20),
        }
        self.brokers = [
            KafkaBroker(directory / f"node{number}", number, voters, **replicated, **properties) for number in voters
        ]

    @property
    def bootstrap(self) -> str:
        """Addresses for clients."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers and wait until each answers."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_ready()

    def stop(self) -> None:
        """End all brokers; what they hold is of no more use."""
        for broker in self.brokers:
            broker.kill()


@contextmanager
def kafka_cluster(directory: Path, **properties: str) -> Iterator[KafkaCluster]:
    """Give a running cluster."""
    cluster = KafkaCluster(directory, **properties)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
