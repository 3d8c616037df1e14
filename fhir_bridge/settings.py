"""Settings with unit, limits and explanation; every default works on one machine.

Each is read from the environment (``FHIR_BRIDGE_INGEST_WORKERS=4``).
docs/settings.md is generated from here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class IngestSettings(BaseSettings):
    """How messages are taken in."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_INGEST_", frozen=True, extra="forbid")

    workers: int = Field(2, ge=0, le=64, description="Worker processes for decoding, validation and rules; 0: none.")
    queue_max_bytes: int = Field(
        64 << 20, ge=1 << 20, description="Bytes of messages waiting before buses pause and HTTP answers 429."
    )
    group_max_messages: int = Field(256, ge=1, le=10_000, description="Messages in one vault commit at the most.")
    group_max_bytes: int = Field(512 << 10, ge=1 << 16, description="Message bytes in one vault commit, about.")
    max_message_bytes: int = Field(64 << 20, ge=1 << 10, description="Bytes of one message.")
    large_message_bytes: int = Field(
        4 << 20,
        ge=1 << 10,
        description="Bytes from which what a message makes is kept on disk, sealed, until it is committed whole.",
    )
    claims_keep_s: int = Field(
        7 * 86_400, ge=60, description="Seconds in which a record of the bus can claim what was put to /fhir/$claim."
    )
    max_body_s: int = Field(300, ge=1, le=86_400, description="Seconds in which a body over HTTP must come whole.")
    max_entries: int = Field(50_000, ge=1, description="Entries of one bundle.")
    max_depth: int = Field(64, ge=8, le=500, description="Nesting of JSON.")


class ImportSettings(BaseSettings):
    """How imports of many lines are taken in (docs/quickstart-vendor.md)."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_IMPORT_", frozen=True, extra="forbid")

    max_bytes: int = Field(
        16 << 30, ge=1 << 10, description="Bytes of one import's body, both as sent and decompressed."
    )
    max_lines: int = Field(20_000_000, ge=1, description="Lines of one import, about.")
    max_line_bytes: int = Field(16 << 20, ge=1 << 10, description="Bytes of one line; a longer one is refused alone.")
    max_jobs: int = Field(4, ge=1, le=1_000, description="Imports of one institution that are received or under way.")
    max_still_s: int = Field(60, ge=1, le=3_600, description="Seconds that an import's body may stand still.")
    in_flight_lines: int = Field(
        64, ge=1, le=10_000, description="Lines of imports on the ingest line at once, all institutions together."
    )
    in_flight_bytes: int = Field(
        128 << 10, ge=1 << 10, description="Bytes of such lines; one that is longer is on the line alone."
    )
    keep_s: int = Field(
        7 * 86_400,
        ge=60,
        description="Seconds after its end in which an import's status and results can be asked for.",
    )


class RulesSettings(BaseSettings):
    """How rules come into force (docs/mapping.md, Going live)."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_RULES_", frozen=True, extra="forbid")

    four_eyes: bool = Field(
        False,
        description="Whether rules come into force only when somebody else than their author has approved them.",
    )
    watch: bool = Field(
        False,
        description="Whether a pack comes into force whenever a file of its folder is saved; for an engineer's own "
        "machine, and never with four eyes.",
    )
    canary_worse_entries: int = Field(
        3, ge=1, description="Entries that only the rules in force take before a canary is withdrawn."
    )
    canary_worse_percent: float = Field(
        1.0, ge=0, le=100, description="And the share of the canary's entries that they must exceed, in percent."
    )


class StorageSettings(BaseSettings):
    """Where ciphertexts, indexes and positions are kept, and where the ledger."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_", frozen=True, extra="forbid")

    vault_url: SecretStr = Field(
        SecretStr(""),
        description="postgresql://USER:PASSWORD@HOST/DATABASE of the vault; empty: vault.db in the data directory.",
    )
    ledger_url: SecretStr = Field(
        SecretStr(""),
        description="postgresql://USER:PASSWORD@HOST/DATABASE of the ledger, the vault's or another; empty: "
        "ledger/ledger.db in the data directory.",
    )


class AnswerSettings(BaseSettings):
    """How questions are answered."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_ANSWER_", frozen=True, extra="forbid")

    index_max_rows: int = Field(
        400_000,
        ge=1_000,
        description="Decrypted index rows held in memory, all charts together, 2.3 to 5 kB each.",
    )
    own_records: Literal["open", "closed-by-provision", "closed-by-any"] = Field(
        "open",
        description="What a patient's denial closes to the institution that wrote it itself: nothing (open), what a "
        "provision denies, or also what a base rule denies.",
    )
    page_default: int = Field(20, ge=1, le=1_000, description="Entries of a search page when _count is absent.")
    stream_above: int = Field(
        1_000, ge=1, description="Answers of more records than this leave block by block, without Content-Length."
    )
    stream_block: int = Field(500, ge=1, le=10_000, description="Records in one block of such an answer.")
    page_max: int = Field(1_000, ge=1, le=10_000, description="Largest _count that is honoured.")


class IndexSettings(BaseSettings):
    """How charts' indexes are kept on disk."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_INDEX_", frozen=True, extra="forbid")

    merge_at: int = Field(
        16, ge=2, le=1_000, description="Index segments of about a size that are merged when a chart has so many."
    )


class ConsentSettings(BaseSettings):
    """What decides beside consents."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_CONSENT_", frozen=True, extra="forbid")

    policies_file: str = Field(
        "",
        description="JSON file of the network's policies: legal bases, defaults, emergency access (docs/consent.md); "
        "empty: none, and emergency access for doctors and nurses for up to an hour.",
    )


class AuditSettings(BaseSettings):
    """How accesses are recorded."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_AUDIT_", frozen=True, extra="forbid")

    epoch_s: int = Field(60, ge=1, le=3_600, description="Seconds between two audit heads on the ledger.")


class AccessSettings(BaseSettings):
    """Who may ask."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_ACCESS_", frozen=True, extra="forbid")

    issuers_file: str = Field(
        "", description="JSON file of external issuers to accept; empty: the built-in one only."
    )


class PersonSettings(BaseSettings):
    """How charts of one human are recognised."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_PERSON_", frozen=True, extra="forbid")

    trusted_systems: str = Field(
        "http://hl7.org/fhir/sid/us-ssn",
        description="Systems of identifiers that are given once to each human, such as a national number; by blanks.",
    )


class ServiceSettings(BaseSettings):
    """Where the service listens and keeps its data."""

    model_config = SettingsConfigDict(env_prefix="FHIR_BRIDGE_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    base_url: str = Field("", description="URL that clients use, when it is not http://HOST:PORT.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    network: str = Field("fhir-bridge.example/network", description="Name of the ledger's network, its log's origin.")
    drain_notice_s: int = Field(
        0, ge=0, le=300, description="Seconds after SIGTERM in which readiness says no and requests are still taken."
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port on 127.0.0.1 for Prometheus metrics; 0: none, they are on the control socket only.",
    )
    otlp_url: str = Field(
        "",
        description="OpenTelemetry collector that gets traces by OTLP over HTTP, http://HOST:4318; empty: none.",
    )
    drain_s: int = Field(30, ge=1, description="Seconds to finish work after SIGTERM.")


def told_wrong(error: ValidationError) -> str:
    """Return which setting is wrong and how, but not its value, which may be secret; empty if none of these."""
    prefixes = {each.__name__: each.model_config["env_prefix"] for each in BaseSettings.__subclasses__()}
    if error.title not in prefixes:
        return ""
    wrong = error.errors(include_input=False, include_context=False, include_url=False)[0]
    return f"{prefixes[error.title]}{wrong['loc'][0]}".upper() + f": {wrong['msg']}"
