"""The bus URL: what it may say, and that a password stays out of sight."""

from __future__ import annotations

import pytest

from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.errors import SetupWrong


def test_a_plain_url_names_the_brokers() -> None:
    settings = KafkaSettings.from_url("kafka://one:9092,two:9093?partitions=12&replication_factor=3&prefix=net")
    assert settings.bootstrap == "one:9092,two:9093"
    assert (settings.partitions, settings.replication_factor, settings.prefix) == (12, 3, "net")
    connection = settings.connection()
    assert connection["bootstrap_servers"] == ["one:9092", "two:9093"]
    assert (connection["security_protocol"], connection["ssl_context"]) == ("PLAINTEXT", None)
    assert "sasl_mechanism" not in connection


def test_a_user_signs_in_over_tls() -> None:
    connection = KafkaSettings.from_url("kafkas://us%40er:p%3Aw@one:9093").connection()
    assert connection["security_protocol"] == "SASL_SSL"
    assert connection["ssl_context"].check_hostname
    assert (connection["sasl_mechanism"], connection["sasl_plain_username"]) == ("SCRAM-SHA-512", "us@er")
    assert connection["sasl_plain_password"] == "p:w"


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_a_user_may_sign_in_as_the_broker_wants_it(mechanism: str) -> None:
    connection = KafkaSettings.from_url(f"kafkas://user:word@one:9093?sasl={mechanism}").connection()
    assert (connection["security_protocol"], connection["sasl_mechanism"]) == ("SASL_SSL", mechanism)


def test_the_group_is_named_in_the_url() -> None:
    assert KafkaSettings.from_url("kafka://one:9092").group == "fhir-bridge"
    assert KafkaSettings.from_url("kafka://one:9092?group=net.bridge").group == "net.bridge"


def test_tls_without_a_user() -> None:
    assert KafkaSettings.from_url("kafkas://one:9093").connection()["security_protocol"] == "SSL"


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(KafkaSettings.from_url("kafkas://user:hunter2@one:9093"))


@pytest.mark.parametrize(
    "url",
    [
        "http://one:9092",
        "kafka://",
        "one:9092",
        "kafka://user:hunter2@one:9092",
        "kafka://one:9092/topic",
        "kafka://one:9092?acks=0",
        "kafka://one:9092?partitions=many",
        "kafka://one:9092?partitions=-1",
        "kafka://one:9092?partitions=0",
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SetupWrong) as refused:
        KafkaSettings.from_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://one:9092?cafile=/etc/ca.pem", "use kafkas"),
        ("kafkas://one:9093?cafile=/nowhere/ca.pem", "cannot be used"),
        ("kafkas://one:9093?certfile=/nowhere/own.pem", "cannot be used"),
        ("kafkas://one:9093?keyfile=/nowhere/own.pem", "needs certfile"),
        ("kafkas://one:9093?notices=deaf", "notices"),
        ("kafkas://u:p@one:9093?sasl=GSSAPI", "SCRAM-SHA-256 or PLAIN"),
    ],
)
def test_certificate_files_that_cannot_serve_and_unknown_notices_are_told(url: str, says: str) -> None:
    with pytest.raises(SetupWrong, match=says):
        KafkaSettings.from_url(url)


@pytest.mark.parametrize(
    ("query", "told"), [("", {"dead"}), ("?notices=", set()), ("?notices=dead,changes", {"dead", "changes"})]
)
def test_notices_are_chosen_in_the_url(query: str, told: set[str]) -> None:
    assert KafkaSettings.from_url(f"kafka://one:9092{query}").notices == told
