"""What a broker tells of topics, whatever it knows of their ids."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataResponse_v5  # type: ignore[import-untyped]

from fhir_bridge.adapters.kafka_topics import _found, _Metadata

METADATA = 3
"""Key of the request in the Kafka protocol guide."""


@pytest.mark.parametrize(("newest", "asked"), [(7, 5), (9, 5), (10, 10), (13, 10)])
def test_ids_are_asked_of_brokers_that_have_them_and_no_topic_is_made_by_asking(newest: int, asked: int) -> None:
    request = _Metadata(["fhir.northgate.in"]).prepare({METADATA: (0, newest)})
    assert (request.API_VERSION, request.allow_auto_topic_creation) == (asked, False)


def test_partitions_are_found_without_ids_and_those_without_a_leader_are_not() -> None:
    partitions: list[tuple[object, ...]] = [(0, 0, 1, [1], [1], []), (5, 1, -1, [1], [], [])]
    topics = [(0, "kept", False, partitions), (3, "gone", False, []), (29, "closed", False, [])]
    answer = MetadataResponse_v5(0, [(1, "one", 9092, None)], "cluster", 1, topics).encode()
    told = MetadataResponse_v5.decode(answer).to_object()["topics"]
    found = _found({each["topic"]: each for each in told}, {"gone": "PolicyViolationError"})
    assert found.partitions == {TopicPartition("kept", 0): ""}
    assert found.unread == {
        "kept": "LeaderNotAvailableError",
        "gone": "PolicyViolationError",
        "closed": "TopicAuthorizationFailedError",
    }
