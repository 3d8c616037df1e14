"""Where the Kafka brokers are, read from the bus URL; loads no Kafka library."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from fhir_bridge.errors import SetupWrong
from fhir_bridge.ports.bus import Notice

CLIENT_ID: Final = "fhir-bridge"
SASL: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
_FILES: Final = ("cafile", "certfile", "keyfile")
_NUMBERS: Final = frozenset({"partitions", "replication_factor", "retention_ms", "max_message_bytes"})


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the brokers are and how topics are made.

    Attributes:
        bootstrap: ``host:port``, several separated by commas.
        partitions: Of topics made here; existing topics keep theirs, and added partitions are noticed.
        replication_factor: Of topics made here; 3 on a cluster.
        retention_ms: Of topics made here. Messages are plain text on the broker: keep them no longer than the
            longest outage of this service that must lose nothing.
        max_message_bytes: Largest message; brokers and their replicas must allow it as well.
        request_timeout_ms: Longest wait for an answer of the broker.
        notices: What institutions are told on topics of their own.
        refresh_s: How often added partitions are looked for.
        group: Under which offsets are committed as advice, for tools that show lag.
        sasl: How a user signs in.
    """

    bootstrap: str
    prefix: str = "fhir"
    partitions: int = 6
    replication_factor: int = 1
    retention_ms: int = 7 * 24 * 3600 * 1000
    max_message_bytes: int = 16 << 20
    request_timeout_ms: int = 10_000
    refresh_s: float = 30.0
    notices: frozenset[Notice] = frozenset({Notice.DEAD})
    ssl_context: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    group: str = CLIENT_ID
    sasl: str = SASL[0]

    @classmethod
    def from_url(cls, url: str) -> KafkaSettings:
        """Read ``kafka://[user:password@]host:port[,host:port…][?partitions=6&replication_factor=3&prefix=fhir&notices=dead,changes]``.

        ``kafkas://`` speaks TLS with the system's certificates, or with those of ``cafile=PATH`` alone; a user signs
        in over TLS only, by SCRAM-SHA-512 unless ``sasl`` says SCRAM-SHA-256 or PLAIN. ``certfile=PATH`` and
        ``keyfile=PATH`` (PEM, the key not encrypted) show the broker a certificate of ours. ``group=NAME`` names the
        group under which offsets are committed.

        Raises:
            SetupWrong: Another scheme, no host, an unknown option, a file that cannot be read, or a password in the
                clear.
        """
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme not in ("kafka", "kafkas") or not hosts or parts.path.strip("/"):
            raise SetupWrong("the bus URL must read kafka://host:port or kafkas://host:port")
        if credentials and parts.scheme == "kafka":
            raise SetupWrong("a Kafka password is sent over TLS only: use kafkas://")
        prefix = options.pop("prefix", "fhir")
        group, sasl = options.pop("group", CLIENT_ID), options.pop("sasl", SASL[0])
        if sasl not in SASL:
            raise SetupWrong(f"sasl of the bus URL is {', '.join(SASL[:-1])} or {SASL[-1]}")
        told = [name for name in options.pop("notices", Notice.DEAD).split(",") if name]
        if not set(told) <= set(Notice):
            raise SetupWrong("notices of the bus URL are dead, changes, both with a comma, or nothing")
        files: dict[str, str] = {name: options.pop(name) for name in _FILES if name in options}
        if files and parts.scheme == "kafka":
            raise SetupWrong("certificates are for TLS: use kafkas://")
        if not options.keys() <= _NUMBERS:
            raise SetupWrong("the bus URL has an unknown option")
        if not all(value.isdecimal() and int(value) > 0 for value in options.values()):
            raise SetupWrong("options of the bus URL are whole numbers above 0")
        return cls(
            bootstrap=hosts,
            prefix=prefix,
            group=group,
            sasl=sasl,
            notices=frozenset(Notice(name) for name in told),
            ssl_context=_tls(files) if parts.scheme == "kafkas" else None,
            username=unquote(username) or None,
            password=unquote(password) or None,
            **{name: int(value) for name, value in options.items()},
        )

    def connection(self) -> dict[str, Any]:
        """Return the arguments that every Kafka client takes."""
        protocol = ("SASL_" if self.username else "") + ("SSL" if self.ssl_context else "PLAINTEXT")
        common = {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": CLIENT_ID,
            "request_timeout_ms": self.request_timeout_ms,
            "security_protocol": protocol,
            "ssl_context": self.ssl_context,
        }
        if not self.username:
            return common
        sign_in = {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        return {**common, "sasl_mechanism": self.sasl, **sign_in}


def _tls(files: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("cafile"))
        if "certfile" in files:
            # Never asked for on a terminal, where nobody is: an encrypted key is refused.
            context.load_cert_chain(files["certfile"], files.get("keyfile"), password=lambda: b"")
        elif "keyfile" in files:
            raise SetupWrong("keyfile of the bus URL needs certfile")
    except OSError as wrong:
        raise SetupWrong(f"a certificate file of the bus URL cannot be used ({type(wrong).__name__})") from wrong
    return context
