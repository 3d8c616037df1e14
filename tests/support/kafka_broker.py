"""A real Apache Kafka broker for tests: one KRaft node on loopback, in a temporary directory.

Its jars are in ``.build/kafka/lib`` (``make kafka``). Anything missing is a
failure with the command that mends it, here and in continuous integration;
no test is skipped for it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.ports import free_ports

CLUSTER_ID = "ZmhpcmJyaWRnZXRlc3QwMA"
START_LIMIT_S = 180.0
JARS = Path(__file__).resolve().parents[2] / ".build" / "kafka" / "lib"
# The quick compiler alone, for a life of minutes: the other one takes a third of a broker's processor time (2026-11).
JAVA = ("-Xmx512m", "-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class KafkaMissing(RuntimeError):
    """Java or Kafka's jars are not there; the message says how to get them."""


class KafkaBroker:
    """One broker that can be stopped, killed and started again on the same port with the same data."""

    def __init__(
        self,
        directory: Path,
        number: int = 1,
        voters: Mapping[int, int] | None = None,
        users: Mapping[str, str] | None = None,
        /,
        **properties: str,
    ) -> None:
        """Format a node; of a cluster, ``voters`` are the ports of all controllers by number of the node.

        ``users`` are names and passwords for SCRAM-SHA-512. Properties have their dots, by ``**{...}``, and may name
        ``{port}`` and ``{controller}``.
        """
        self.directory = directory
        self._java = _find_java()
        self._port, controller = free_ports(2)
        self._number, self._voters = number, voters or {number: controller}
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._properties = directory / "server.properties"
        ports = {"port": self._port, "controller": self._voters[self._number]}
        lines = self._configuration() | {name: value.format(**ports) for name, value in properties.items()}
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        scram = [f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in (users or {}).items()]
        added = [word for each in scram for word in ("--add-scram", each)]
        self._run_tool("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties), *added)

    @property
    def bootstrap(self) -> str:
        """Address for clients."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the broker and wait until it answers."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the broker and wait for nothing: a cluster's nodes wait for each other."""
        log = (self.directory / "broker.log").open("ab")
        try:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties)), stdout=log, stderr=subprocess.STDOUT
            )
        finally:
            log.close()

    def kill(self) -> None:
        """End the broker as a power failure would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the broker in order; a second call does nothing."""
        self._end(signal.SIGTERM)

    def permit(self, who: str, what: str, topic: str) -> None:
        """Let a principal do one thing with one topic, on a broker that has an authorizer."""
        rule = ("--add", "--allow-principal", who, "--operation", what, "--topic", topic)
        self._run_tool("org.apache.kafka.tools.AclCommand", "--bootstrap-server", self.bootstrap, *rule)

    def pause(self) -> None:
        """Freeze the broker: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _configuration(self) -> dict[str, str]:
        controller = self._voters[self._number]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in self._voters.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(self._number),
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.retention.check.interval.ms": "1000",
        }

    def _command(self, main: str, *arguments: str) -> list[str]:
        return [self._java, *JAVA, "-cp", f"{JARS}/*", main, *arguments]

    def _run_tool(self, main: str, *arguments: str) -> None:
        done = subprocess.run(self._command(main, *arguments), capture_output=True, text=True, timeout=START_LIMIT_S)
        if done.returncode:
            raise RuntimeError(f"{main} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def wait_ready(self) -> None:
        """Wait until the broker answers."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the broker ended at once: {self._log_tail()}")
            if self._is_ready():
                return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the broker was not ready within {START_LIMIT_S:.0f} s: {self._log_tail()}")

    def _is_ready(self) -> bool:
        """Ask for ApiVersions (key 18, version 0): a broker answers it once it serves."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as probe:
                body = b"\0\x12\0\0\0\0\0\x01\xff\xff"
                probe.sendall(len(body).to_bytes(4, "big") + body)
                return len(probe.recv(10)) > 0
        except OSError:
            return False

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sign)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)

    def _log_tail(self) -> str:
        return (self.directory / "broker.log").read_text(errors="replace")[-2000:]


def _find_java() -> str:
    java = shutil.which("java") or _java_of_home()
    if java is None:
        raise KafkaMissing("Java not found. Debian: apt-get install default-jre-headless maven; then: make kafka")
    if not list(JARS.glob("kafka_2.13-*.jar")):
        raise KafkaMissing("Kafka's jars are missing. Run: make kafka (needs Maven; Debian: apt-get install maven)")
    return java


def _java_of_home() -> str | None:
    home = os.environ.get("JAVA_HOME", "")
    return shutil.which("java", path=f"{home}/bin") if home else None
