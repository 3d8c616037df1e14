"""A broker that speaks TLS and asks who we are: by SCRAM-SHA-512, or by a certificate of ours."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fhir_bridge.adapters.kafka import KafkaBus
from fhir_bridge.adapters.kafka_settings import KafkaSettings
from fhir_bridge.errors import Unavailable, kind_of
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_reading import read
from tests.support.ports import free_ports

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(900),
    # aiokafka closes a TLS connection without waiting for the broker's goodbye: where the loop ends first, the
    # transport tells so as it is collected (by `collect`, within the test that left it).
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <function _SelectorTransport\.__del__:pytest.PytestUnraisableExceptionWarning"
    ),
]
PASSWORD = "p:w@rd/1"


class Authority:
    """A certificate authority of one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key, is_authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str) -> Path:
        """Return a file with a key and its certificate for loopback, for server or client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, is_authority=False)
        file = self._folder / f"{name}.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        return file

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
            builder = builder.add_extension(loopback, critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Guarded:
    """A broker with two more listeners: ``sasl`` wants a user, ``mutual`` a certificate."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        self.stranger = Authority(folder, "stranger")
        self.sasl, self.mutual = free_ports(2)
        server = self.authority.issue("server")
        listeners = {"PLAINTEXT": "{port}", "SASL_SSL": self.sasl, "SSL": self.mutual}
        told = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
        protocols = ",".join(f"{name}:{name}" for name in listeners)
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        self.broker = KafkaBroker(
            folder / "kafka",
            1,
            None,
            {"bridge": PASSWORD, "guest": PASSWORD},
            **{
                "listeners": f"{told},CONTROLLER://127.0.0.1:{{controller}}",
                "advertised.listeners": told,
                "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(server),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.file),
                "listener.name.ssl.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": jaas,
                "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{plain} user_bridge="{PASSWORD}";',
                # A guest may do what a rule says, and nothing else.
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:bridge;User:CN=bridge",
            },
        )
        self.broker.start()


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    yield made
    made.broker.stop()


@asynccontextmanager
async def bus_of(url: str) -> AsyncIterator[KafkaBus]:
    bus = KafkaBus(KafkaSettings.from_url(url))
    try:
        yield bus
    finally:
        await bus.close()


async def test_a_user_signs_in_over_tls_and_reads_what_was_put(guarded: Guarded, institution: str) -> None:
    url = f"kafkas://bridge:p%3Aw%40rd%2F1@127.0.0.1:{guarded.sasl}?cafile={guarded.authority.file}"
    async with bus_of(url) as bus:
        await bus.start([institution], [])
        await bus.put(institution, b"over TLS")
        assert [m.value for m in await read(bus, 1)] == [b"over TLS"]


async def test_a_certificate_of_ours_signs_in_where_the_broker_asks_for_one(
    guarded: Guarded, institution: str
) -> None:
    own = guarded.authority.issue("bridge")
    url = f"kafkas://127.0.0.1:{guarded.mutual}?cafile={guarded.authority.file}&certfile={own}"
    async with bus_of(url) as bus:
        await bus.start([institution], [])
        await bus.put(institution, b"by certificate")
        assert [m.value for m in await read(bus, 1)] == [b"by certificate"]


async def test_a_user_signs_in_plainly_where_the_broker_wants_it_so(guarded: Guarded, institution: str) -> None:
    url = f"kafkas://bridge:p%3Aw%40rd%2F1@127.0.0.1:{guarded.sasl}?cafile={guarded.authority.file}&sasl=PLAIN"
    async with bus_of(url) as bus:
        await bus.put(institution, b"plain")


async def test_whoever_may_only_read_one_topic_reads_it_and_is_told_which_it_may_not(
    guarded: Guarded, institution: str
) -> None:
    """As most operators grant it: topics are theirs to make, and a right that is missing is one sender's trouble."""
    made, missing = institution, f"{institution}-missing"
    unreadable = f"{institution}-unreadable"
    owner = KafkaBus(KafkaSettings(guarded.broker.bootstrap))
    for name in (made, unreadable):
        await owner.put(name, b"a")
    await asyncio.to_thread(guarded.broker.permit, "User:guest", "Read", f"fhir.{made}.in")
    await asyncio.to_thread(guarded.broker.permit, "User:guest", "Describe", f"fhir.{unreadable}.in")
    url = f"kafkas://guest:p%3Aw%40rd%2F1@127.0.0.1:{guarded.sasl}?cafile={guarded.authority.file}"
    async with bus_of(url) as bus:
        await bus.start([made, missing, unreadable], [])
        assert [m.value for m in await read(bus, 1)] == [b"a"]
        closed = {f"fhir.{name}.in": "TopicAuthorizationFailedError" for name in (missing, unreadable)}
        async with asyncio.timeout(60):
            while bus.unread() != closed:
                await bus.take(max_messages=1, max_bytes=1, wait_ms=200)
        await owner.put(made, b"b")
        (message,) = await read(bus, 1)
        assert message.value == b"b"
        await bus.acknowledge([message.position])
        assert (await bus.lag())[made] == 0
    await owner.close()


@pytest.mark.parametrize(
    "case", ["wrong password", "another authority", "the system's authorities", "no certificate"]
)
async def test_who_is_not_who_they_say_is_not_spoken_to(guarded: Guarded, institution: str, case: str) -> None:
    right = f"cafile={guarded.authority.file}"
    url = {
        "wrong password": f"kafkas://bridge:wrong@127.0.0.1:{guarded.sasl}?{right}",
        "another authority": f"kafkas://bridge:x@127.0.0.1:{guarded.sasl}?cafile={guarded.stranger.file}",
        "the system's authorities": f"kafkas://bridge:x@127.0.0.1:{guarded.sasl}",
        "no certificate": f"kafkas://127.0.0.1:{guarded.mutual}?{right}",
    }[case]
    async with bus_of(url) as bus:
        with pytest.raises(Unavailable) as why:
            async with asyncio.timeout(60):
                await bus.start([institution], [])
    reason = {"wrong password": "SaslAuthenticationFailed", "no certificate": "KafkaConnectionError"}
    assert kind_of(why.value) == reason.get(case, "SSLCertVerificationError")
