"""Witnesses behind real sockets: several asked at once, some down, slow, or answering nonsense."""

import contextlib
import functools
import hashlib
import http.client
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ledger_core.checkpoint import NoteKey, parse_vkey, verify_note
from ledger_core.errors import LedgerUnavailable, PolicyInvalid
from ledger_core.static import write_static
from ledger_core.witness.blocks import verify_evidence
from ledger_core.witness.cases import cases
from ledger_core.witness.client import MAX_ANSWER_BYTES, WitnessAddress, ask, gather, submit
from ledger_core.witness.core import MAX_BODY_BYTES
from ledger_core.witness.evidence import REWRITE
from ledger_core.witness.home import Home
from ledger_core.witness.server import MAX_CONNECTIONS, REQUEST_TIMEOUT_S, WitnessServer
from tests.unit.ledger_core.ledger_witness_samples import (
    KEYS,
    LOG_VKEY,
    ORIGIN,
    Bench,
    SampleLog,
    ledger_blocks,
    plain_entries,
)

TRUNK = SampleLog(plain_entries(12))
BRANCH = SampleLog(plain_entries(12, branch="b", shared=3))


@contextlib.contextmanager
def serving(bench: Bench, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> Iterator[WitnessAddress]:
    with WitnessServer(("127.0.0.1", 0), bench.witness, request_timeout_s=request_timeout_s) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield WitnessAddress(f"http://127.0.0.1:{server.server_address[1]}", keys_of(bench.home))
        finally:
            server.shutdown()
            thread.join(10)
            bench.records.close()


@contextlib.contextmanager
def answering(script: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does to each connection what ``script`` says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.recv(100_000)
                    script(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def keys_of(home: Home) -> tuple[NoteKey, ...]:
    return tuple(parse_vkey(vkey) for vkey in home.vkeys())


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def address(tmp_path: Path) -> Iterator[WitnessAddress]:
    with serving(Bench(tmp_path / "w")) as found:
        yield found


def talk(address: WitnessAddress, request: bytes) -> bytes:
    host, port = address.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        return answer


def is_recovered(address: WitnessAddress) -> bool:
    """Ask until the witness answers; tell whether it does as one that signs, or that signed when nobody heard it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(LedgerUnavailable):
            return ask(address.url, TRUNK.note(5), 0, ()).status in (200, 409)
        time.sleep(0.02)
    return False


# --- one witness --------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_cosigned_over_http(address: WitnessAddress) -> None:
    first = ask(address.url, TRUNK.note(5), 0, ())
    assert first.status == 200
    assert len(verify_note(TRUNK.note(5) + first.text, address.keys)[1]) == 2
    conflict = ask(address.url, TRUNK.note(9), 0, ())
    assert (conflict.status, conflict.known_size) == (409, 5)
    assert ask(address.url, TRUNK.note(9), 5, TRUNK.prove_consistency(5, 9)).status == 200


def test_answers_carry_the_types_of_the_specification_on_one_connection(address: WitnessAddress) -> None:
    connection = http.client.HTTPConnection(address.url.removeprefix("http://"), timeout=10)
    for body, status, content_type in (
        (TRUNK.body(5), 200, "text/plain; charset=utf-8"),
        (TRUNK.body(9), 409, "text/x.tlog.size"),
        (b"nonsense", 400, "text/plain; charset=utf-8"),
        (TRUNK.body(9, 5), 200, "text/plain; charset=utf-8"),
    ):
        connection.request("POST", "/add-checkpoint", body)
        response = connection.getresponse()
        response.read()
        assert (response.status, response.getheader("Content-Type")) == (status, content_type)
    connection.close()


def test_the_newest_checkpoint_and_the_keys_can_be_read(address: WitnessAddress) -> None:
    connection = http.client.HTTPConnection(address.url.removeprefix("http://"), timeout=10)
    place = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
    for path, status in ((place, 404), ("/nothing", 404), ("/", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == status
    assert [key.vkey() for key in address.keys] == text.splitlines()[1:]
    answer = ask(address.url, TRUNK.note(5), 0, ())
    connection.request("GET", place)
    assert connection.getresponse().read().decode() == TRUNK.note(5) + answer.text
    connection.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\n\r\n", b"411"),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 1e3\r\n\r\n", b"411"),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), b"413"),
        (b"POST /sign-subtree HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n", b"404"),
        (b"DELETE / HTTP/1.1\r\nHost: w\r\n\r\n", b"501"),
        (b"\x00\xff\r\n\r\n", b"400"),
    ],
)
def test_requests_out_of_bounds_are_refused(address: WitnessAddress, request_bytes: bytes, status: bytes) -> None:
    assert status in talk(address, request_bytes)
    assert ask(address.url, TRUNK.note(5), 0, ()).status == 200


def test_a_body_cut_short_changes_nothing(address: WitnessAddress) -> None:
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 5000\r\n\r\n"
    assert talk(address, head + TRUNK.body(5)) == b""
    assert ask(address.url, TRUNK.note(7), 0, ()).status == 200


def test_too_many_connections_are_hung_up_on_and_the_witness_recovers(address: WitnessAddress) -> None:
    host, port = address.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        refused = 0
        for _ in range(20):
            with contextlib.suppress(LedgerUnavailable):
                ask(address.url, TRUNK.note(5), 0, ())
                continue
            refused += 1
        assert refused
    assert is_recovered(address)


@pytest.mark.parametrize(
    "head",
    [b"POST /add-checkpoint HTTP/1.1\r\nX-Long: ", b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 60000\r\n\r\n"],
    ids=["headers", "body"],
)
def test_whoever_drips_is_hung_up_on_at_the_deadline(tmp_path: Path, head: bytes) -> None:
    with serving(Bench(tmp_path / "w"), request_timeout_s=0.5) as address, contextlib.ExitStack() as stack:
        host, port = address.url.removeprefix("http://").split(":")
        dripping = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(MAX_CONNECTIONS)
        ]
        for connection in dripping:
            connection.sendall(head)
            connection.setblocking(False)
        ended: set[socket.socket] = set()
        # Each byte comes well within the deadline; half a minute, if nobody hung up.
        for _ in range(300):
            for connection in set(dripping) - ended:
                with contextlib.suppress(BlockingIOError):
                    try:
                        connection.send(b"x")
                        is_over = connection.recv(1000) == b""
                    except ConnectionError:
                        is_over = True
                    ended |= {connection} if is_over else set()
            if len(ended) == MAX_CONNECTIONS:
                break
            time.sleep(0.1)
        assert len(ended) == MAX_CONNECTIONS
        assert is_recovered(address)


def test_whoever_keeps_a_connection_has_a_deadline_for_each_request(tmp_path: Path) -> None:
    with serving(Bench(tmp_path / "w"), request_timeout_s=4.0) as address:
        host, port = address.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        for _ in range(10):
            connection.request("GET", "/")
            assert connection.getresponse().read()
            first = connection.sock
            # Longer than one deadline in all, and each far shorter.
            time.sleep(0.5)
        assert connection.sock is first
        connection.close()


# --- several witnesses --------------------------------------------------------------------------------------------


def test_cosignatures_of_several_witnesses_are_gathered(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        benches = [Bench(tmp_path / f"w{number}", name=f"w.example/{number}") for number in range(3)]
        witnesses = [stack.enter_context(serving(bench)) for bench in benches]
        # One of them knows an older tree already: it says so, and is asked again from there.
        benches[1].add(TRUNK.body(5))
        gathered = gather(TRUNK, TRUNK.note(9), witnesses, quorum=3, timeout_s=10)
    assert (gathered.count, gathered.has_quorum) == (3, True)
    keys = [key for witness in witnesses for key in witness.keys]
    assert {item.key for item in verify_note(gathered.note, keys)[1]} == set(keys)


def test_the_ledger_goes_on_when_witnesses_are_down_slow_or_lying(tmp_path: Path) -> None:
    ended = threading.Event()

    def silent(connection: socket.socket) -> None:
        ended.wait(60)

    def forged(connection: socket.socket) -> None:
        line = other.add(TRUNK.body(5)).body.encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(line) + line)

    other = Bench(tmp_path / "other")
    good_bench = Bench(tmp_path / "w", name="w.example/good")
    with serving(good_bench) as good, answering(silent) as slow, answering(forged) as lying:
        dead = f"http://127.0.0.1:{closed_port()}"
        homes = [Home.create(tmp_path / name, f"w.example/{name}") for name in ("dead", "slow")]
        witnesses = [
            good,
            WitnessAddress(dead, keys_of(homes[0])),
            WitnessAddress(slow, keys_of(homes[1])),
            WitnessAddress(lying, keys_of(other.home)),
        ]
        gathered = gather(TRUNK, TRUNK.note(9), witnesses, quorum=2, timeout_s=2.5)
        assert not ended.is_set()
        ended.set()
    assert (gathered.count, gathered.has_quorum) == (1, False)
    assert verify_note(gathered.note, [*KEYS, *good.keys])[1]
    problems = {outcome.witness.url: outcome.problem for outcome in gathered.outcomes}
    assert problems[good.url] == ""
    assert "did not answer" in problems[dead]
    assert "false" in problems[lying]
    other.records.close()


def test_a_quorum_is_not_kept_waiting(tmp_path: Path) -> None:
    ended = threading.Event()
    with serving(Bench(tmp_path / "w")) as good, answering(lambda connection: (ended.wait(20), None)[1]) as slow:
        home = Home.create(tmp_path / "slow", "w.example/slow")
        witnesses = [good, WitnessAddress(slow, keys_of(home))]
        gathered = gather(TRUNK, TRUNK.note(9), witnesses, quorum=1, timeout_s=15)
        assert not ended.is_set()
        assert [outcome.problem for outcome in gathered.outcomes] == [""]
        ended.set()
    assert gathered.has_quorum


def test_one_witness_under_two_addresses_is_one(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "w", "w.example/1")
    twice = [WitnessAddress("http://one.example", keys_of(home)), WitnessAddress("http://two.example", keys_of(home))]
    with pytest.raises(PolicyInvalid, match="twice") as refusal:
        gather(TRUNK, TRUNK.note(9), twice, quorum=2)
    assert home.vkeys()[0] in str(refusal.value)


def drip(connection: socket.socket) -> None:
    # Hours, if nobody hung up.
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000:
        connection.sendall(bytes((byte,)))
        time.sleep(0.1)


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 9))


def hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def no_http(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example ESMTP\r\n")


def no_text(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe")


def elsewhere(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


def always_another_size(connection: socket.socket) -> None:
    size = b"%d\n" % next(SIZES)
    connection.sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(size) + size)


SIZES = iter(range(1, 9))


@pytest.mark.parametrize("script", [drip, flood, hang_up, no_http, no_text])
def test_answers_that_are_none_are_errors_in_time(script: Callable[[socket.socket], None]) -> None:
    with answering(script) as url, pytest.raises(LedgerUnavailable):
        ask(url, TRUNK.note(5), 0, (), timeout_s=1.0)


@pytest.mark.parametrize(
    ("script", "problem"), [(elsewhere, "refused with 302"), (always_another_size, "another size each time")]
)
def test_a_witness_that_leads_nowhere_is_given_up(
    tmp_path: Path, script: Callable[[socket.socket], None], problem: str
) -> None:
    keys = keys_of(Home.create(tmp_path / "w", "w.example/1"))
    with answering(script) as url:
        outcome = submit(TRUNK, TRUNK.note(9), WitnessAddress(url, keys), timeout_s=5)
    assert problem in outcome.problem


@pytest.mark.parametrize("url", ["", "ftp://w.example", "http://", "http://[", "http://w.example:x"])
def test_addresses_that_are_none_are_errors(url: str) -> None:
    with pytest.raises(LedgerUnavailable):
        ask(url, TRUNK.note(5), 0, ())


def test_a_witness_ahead_of_the_checkpoint_is_reported(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "w")
    bench.add(TRUNK.body(12))
    with serving(bench) as witness:
        assert "12 entries already" in submit(TRUNK, TRUNK.note(9), witness).problem


def test_of_two_histories_shown_to_two_witnesses_a_common_witness_signs_one(tmp_path: Path) -> None:
    """Two clients see different branches; neither branch can have both witnesses of a quorum of two."""
    with contextlib.ExitStack() as stack:
        benches = [Bench(tmp_path / f"w{number}", name=f"w.example/{number}") for number in range(3)]
        one, two, common = (stack.enter_context(serving(bench)) for bench in benches)
        first = gather(TRUNK, TRUNK.note(9), [one, common], quorum=2, timeout_s=10)
        second = gather(BRANCH, BRANCH.note(11), [two, common], quorum=2, timeout_s=10)
        (case,) = cases(benches[2].home.evidence)
        assert verify_evidence(case, KEYS).kind == REWRITE
    assert (first.has_quorum, second.has_quorum) == (True, False)


# --- the processes people run -------------------------------------------------------------------------------------


def witness_command(*arguments: str | Path) -> list[str]:
    program = "import sys; from ledger_core.witness.commands import main; sys.exit(main())"
    return [sys.executable, "-c", program, *map(str, arguments)]


@contextlib.contextmanager
def process(arguments: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A serving witness and the address it says it listens on."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if " listens on " in line:
                yield running, "http://" + line.strip().rpartition(" ")[2]
                break
        running.kill()
        running.stderr.read()


def test_a_witness_killed_at_any_moment_never_signs_two_histories(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "w", "w.example/1")
    home.trust(LOG_VKEY)
    witness = keys_of(home)
    signed: set[str] = set()
    for round_number in range(4):
        command = witness_command("serve", tmp_path / "w", "--listen", "127.0.0.1:0")
        with process(command) as (running, url):
            address = WitnessAddress(url, witness)
            logs = (TRUNK, BRANCH) if round_number % 2 else (BRANCH, TRUNK)
            outcomes = [submit(log, log.note(4 + round_number), address, timeout_s=10) for log in logs]
            signed |= {log.entries_list[3].decode() for log, done in zip(logs, outcomes, strict=True) if done.lines}
            os.kill(running.pid, signal.SIGKILL)
    assert signed == {"b3"}


def test_a_replaying_witness_follows_over_http_and_answers(tmp_path: Path) -> None:
    entries, _ = ledger_blocks(120)
    log = SampleLog(entries)
    write_static(log, tmp_path / "static")
    home = Home.create(tmp_path / "w", "w.example/replaying", role="replaying")
    home.trust(LOG_VKEY)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "static"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, args=(0.02,), daemon=True).start()
        static = f"http://127.0.0.1:{files.server_address[1]}"
        command = witness_command("serve", tmp_path / "w", "--listen", "127.0.0.1:0", "--replay", static)
        with process(command) as (_, url):
            address = WitnessAddress(url, keys_of(home))
            deadline = time.monotonic() + 60
            outcome = submit(log, log.note(), address, timeout_s=10)
            while not outcome.lines and time.monotonic() < deadline:
                time.sleep(0.1)
                outcome = submit(log, log.note(), address, timeout_s=10)
            assert outcome.problem == ""
        files.shutdown()
    assert len(verify_note(log.note() + outcome.lines, address.keys)[1]) == 2


def test_a_second_process_on_one_directory_is_refused(tmp_path: Path) -> None:
    Home.create(tmp_path / "w", "w.example/1").trust(LOG_VKEY)
    command = witness_command("serve", tmp_path / "w", "--listen", "127.0.0.1:0")
    with process(command):
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 1
    assert "ledger-locked" in second.stderr
