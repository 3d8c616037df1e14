"""A ledger on PostgreSQL: servers that die, one writer alone, copies of either kind, the command line."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger_core import (
    Accepted,
    Anchor,
    Ledger,
    LedgerAway,
    LedgerClosed,
    LedgerError,
    LedgerLocked,
    LedgerUnavailable,
    OpeningRefused,
    envelope_digest,
    holds_ledger,
    open_ledger,
    run_copy,
    run_export,
    run_fsck,
    run_import,
    run_restore,
    run_snapshot,
)
from ledger_core.cli.main import main
from ledger_core.engines.embedded import EmbeddedEngine
from ledger_core.fsck import check
from ledger_core.opening import load
from ledger_core.stores.postgres import PostgresStore
from ledger_core.stores.rows import Answer
from ledger_core.stores.server import PostgresConnection, connect_server
from tests.support.postgres import PostgresServer
from tests.unit.ledger_core.ledger_samples import GENESIS, LOG_KEY, NORTH, filler, join

ROOT = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("POSTGRES_KILLS", "5"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 20 * KILLS)]


def opened(url: str) -> Ledger:
    return open_ledger(url, log_identity=LOG_KEY, genesis=GENESIS)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with opened(url) as made:
        join(made)
        yield made


def anchor(ledger: Ledger, number: int = 1) -> Accepted:
    return ledger.send(Anchor(filler(number % 256), 1), NORTH).result(30)


def anchor_at_last(ledger: Ledger, envelope: bytes, patience_s: float = 60) -> Accepted:
    """Submit the same envelope until it is taken."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ledger.submit(envelope).result(30)
        except LedgerAway:
            assert time.monotonic() < deadline, "the ledger does not come back"
            time.sleep(0.05)


def end_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# --- servers that die


def test_what_was_acknowledged_survives_kills_of_the_server(own_server: PostgresServer) -> None:
    """SIGKILL to the server amid commits, again and again; the one opened ledger goes on by itself afterwards."""
    url = own_server.make("ledger")
    acknowledged: list[Accepted] = []
    failures: list[BaseException] = []
    over = threading.Event()
    with opened(url) as ledger:
        join(ledger)

        def write() -> None:
            try:
                for number in range(1_000_000):
                    if over.is_set():
                        return
                    envelope = ledger.sign(Anchor(number.to_bytes(32, "big"), 1), NORTH)
                    acknowledged.append(anchor_at_last(ledger, envelope))
            except BaseException as failure:
                failures.append(failure)

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(KILLS):
            seen = len(acknowledged)
            while len(acknowledged) < seen + 20 and not failures:
                time.sleep(0.005)
            own_server.kill()
            own_server.start_at_last()
        over.set()
        writer.join()
        assert failures == []
        outside = ledger.checkpoint()
        check_kept(ledger, acknowledged)
    with opened(url) as again:
        check_kept(again, acknowledged)
    assert list(run_fsck(url, checkpoint=outside)) == []


def check_kept(ledger: Ledger, acknowledged: Sequence[Accepted]) -> None:
    assert len({each.index for each in acknowledged}) == len(acknowledged)
    digests = [envelope_digest(row.entry) for row in ledger.entries()]
    assert [each for each in acknowledged if digests[each.index] != each.digest] == []
    # Nothing twice, and nothing that nobody was told of: each envelope was submitted until it was acknowledged.
    kept = {each.digest for each in acknowledged}
    assert sum(digest in kept for digest in digests) == len(acknowledged)


def test_a_server_that_goes_away_is_told_and_waited_for(own_server: PostgresServer) -> None:
    url = own_server.make("ledger")
    with opened(url) as ledger:
        join(ledger)
        first = anchor(ledger)
        own_server.stop()
        waiting = ledger.sign(Anchor(filler(2), 1), NORTH)
        for _ in range(3):
            with pytest.raises(LedgerAway):
                ledger.submit(waiting).result(30)
        with pytest.raises(LedgerAway):
            ledger.entry(first.index)
        with pytest.raises(LedgerAway):
            list(ledger.entries())
        with pytest.raises(LedgerAway):
            ledger.prune(1)
        # What is held in memory goes on.
        assert ledger.checkpoint()
        assert ledger.member(NORTH.public) is not None
        with pytest.raises(LedgerAway):
            list(run_fsck(url))
        with pytest.raises(LedgerAway):
            opened(url)
        own_server.start()
        assert ledger.submit(waiting).result(30).index > first.index
        assert envelope_digest(ledger.entry(first.index)) == first.digest
    assert list(run_fsck(url)) == []


def test_a_session_that_ends_costs_a_retry_of_writes_and_nothing_of_reads(ledger: Ledger, url: str) -> None:
    first = anchor(ledger)
    assert ledger.entry(first.index)
    end_sessions(url)
    assert envelope_digest(ledger.entry(first.index)) == first.digest
    envelope = ledger.sign(Anchor(filler(2), 1), NORTH)
    assert anchor_at_last(ledger, envelope).index > first.index
    assert list(run_fsck(url)) == []


@dataclass
class Losing:
    """Loses the connection in a COMMIT, before or after the server has done it."""

    was_written: bool
    is_armed: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def connect(self, url: str) -> PostgresConnection:
        losing = self

        class Connection(PostgresConnection):
            def execute(self, query: str, values: Sequence[object] = (), /) -> Answer:
                if query != "COMMIT" or not losing.is_armed:
                    return super().execute(query, values)
                losing.is_armed = False
                losing.reached.set()
                assert losing.gate.wait(30)
                if losing.was_written:
                    super().execute(query)
                self.raw.close()
                raise psycopg.OperationalError("lost")

        return Connection(connect_server(url).raw)


@contextmanager
def engine_over(url: str, losing: Losing) -> Iterator[EmbeddedEngine]:
    losing.gate.set()
    store = PostgresStore.open(url, connect=losing.connect)
    state, log = load(store, GENESIS)
    with closing(store):
        engine = EmbeddedEngine(
            store=store,
            state=state,
            log=log,
            origin=GENESIS.name,
            log_identity=LOG_KEY,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        with closing(engine):
            yield engine


@pytest.mark.parametrize("was_written", [True, False])
def test_a_connection_lost_in_a_commit_is_found_out_about(url: str, was_written: bool) -> None:
    """The answer to COMMIT never comes; submitted again, the envelope is where it was or comes in now."""
    with opened(url) as made:
        join(made)
        envelope, later = (made.sign(Anchor(filler(number), 1), NORTH) for number in (1, 2))
        size = made.size
    losing = Losing(was_written)
    with engine_over(url, losing) as engine:
        losing.is_armed = True
        with pytest.raises(LedgerAway):
            engine.submit(envelope).result(30)
        again = engine.submit(envelope).result(30)
        assert (again.index, again.is_repeat) == (size, was_written)
        assert engine.submit(later).result(30).index == size + 2
    assert list(run_fsck(url)) == []


def test_nothing_overtakes_what_a_lost_server_turned_away(url: str) -> None:
    """Nonces rise: were a later envelope taken, the one that failed could never come in again."""
    with opened(url) as made:
        join(made)
        envelopes = [made.sign(Anchor(number.to_bytes(32, "big"), 1), NORTH) for number in range(720)]
    losing = Losing(was_written=False)
    with engine_over(url, losing) as engine:
        losing.is_armed = True
        losing.gate.clear()
        together = engine.submit_many(envelopes[:700])
        assert losing.reached.wait(30)
        alone = [engine.submit(each) for each in envelopes[700:]]
        losing.gate.set()
        futures: list[Future[Any]] = [together, *alone]
        for each in futures:
            with pytest.raises(LedgerAway):
                each.result(30)
        outcomes = engine.submit_many(envelopes).result(60)
        assert all(isinstance(each, Accepted) for each in outcomes)
    assert list(run_fsck(url)) == []


def test_a_check_that_loses_its_server_finds_nothing_and_says_so(ledger: Ledger, url: str) -> None:
    anchor(ledger)
    with closing(PostgresStore.open_to_read(url)) as store:
        end_sessions(url)
        with pytest.raises(LedgerAway):
            list(check(store))


_WRITER = """
import sys
from ledger_core import Anchor, open_ledger
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH
ledger = open_ledger(sys.argv[1], log_identity=LOG_KEY)
for number in range(1_000_000):
    done = ledger.send(Anchor(number.to_bytes(32, "big"), 1), NORTH).result(30)
    print(done.index, done.digest.hex(), flush=True)
"""


def test_a_writer_that_is_killed_leaves_the_ledger_to_the_next_at_once(ledger: Ledger, url: str) -> None:
    ledger.close()
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert writer.stdout is not None
        told = [writer.stdout.readline().split() for _ in range(15)]
        with pytest.raises(LedgerLocked):
            opened(url)
        writer.kill()
        told += [line.split() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
        with opened(url) as again:
            lost = [index for index, digest in told if envelope_digest(again.entry(int(index))).hex() != digest]
        assert lost == []
    assert list(run_fsck(url)) == []


# --- one writer


def test_the_second_opener_is_refused(ledger: Ledger, url: str) -> None:
    with pytest.raises(LedgerLocked, match="another process"):
        opened(url)
    anchor(ledger)
    ledger.close()
    with opened(url) as again:
        anchor(again, 2)


def test_whoever_lost_the_lock_to_another_writer_cannot_commit_and_stops(ledger: Ledger, url: str) -> None:
    """Split brain: the server ends our session, another process takes over, then we are back."""
    anchor(ledger)
    end_sessions(url)
    other = opened(url)
    theirs = anchor(other, 2)
    envelope = ledger.sign(Anchor(filler(3), 1), NORTH)
    for _ in range(2):
        with pytest.raises(LedgerAway):
            ledger.submit(envelope).result(30)
    other.close()
    with pytest.raises(LedgerUnavailable, match="another process wrote it") as refused:
        ledger.submit(envelope).result(30)
    assert not isinstance(refused.value, LedgerAway)
    with pytest.raises(LedgerClosed):
        ledger.submit(envelope)
    assert list(run_fsck(url)) == []
    with opened(url) as again:
        assert envelope_digest(again.entry(theirs.index)) == theirs.digest
        assert again.position_of(envelope) is None


# --- what is at the address


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("CREATE TABLE meta (id BIGINT)", "something else"),
        ("CREATE TABLE meta (name TEXT, value TEXT)", "something else"),
        (
            "CREATE TABLE meta AS SELECT 'format' AS name, 'ledger-core/postgres/v2' AS value",
            "postgres/v2",
        ),
    ],
)
def test_tables_of_somebody_else_or_of_another_format_are_refused(url: str, tables: str, said: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(tables)
    ways: list[Callable[[], object]] = [
        lambda: opened(url),
        lambda: list(run_fsck(url)),
        lambda: holds_ledger(url),
    ]
    for way in ways:
        with pytest.raises(OpeningRefused, match=said):
            way()


def test_a_ledger_and_other_tables_share_a_database_by_schemas(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE entries (something TEXT); CREATE SCHEMA one; CREATE SCHEMA two")
    first, second = (f"{url}?options=-csearch_path%3D{schema}" for schema in ("one", "two"))
    with opened(first) as one, opened(second) as two:
        join(one)
        assert (one.size, two.size) == (4, 2)
    assert [list(run_fsck(each)) for each in (first, second)] == [[], []]


def test_no_password_shows_in_an_error(server: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("postgresql://u:secret@:x/%", "postgresql://u:secret@127.0.0.1:1/x", "postgresql://u:secret@[/x"):
        ways: list[Callable[[], object]] = [
            lambda url=url: opened(url),  # type: ignore[misc]  # mypy infers no lambda with a default
            lambda url=url: list(run_fsck(url)),  # type: ignore[misc]  # mypy infers no lambda with a default
            lambda url=url: holds_ledger(url),  # type: ignore[misc]  # mypy infers no lambda with a default
        ]
        for way in ways:
            with pytest.raises(LedgerError) as refused:
                way()
            assert "secret" not in "".join(map(str, _causes(refused.value)))
        assert main(["fsck", url]) == 1
    said = capsys.readouterr()
    assert "secret" not in said.out + said.err


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    """Yield what a traceback would show."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("UPDATE entries SET entry = entry || '\\x00' WHERE idx = 2", "entries/2"),
        ("DELETE FROM blocks WHERE height = 1", "blocks/1"),
        ("UPDATE tiles SET hashes = substr(hashes, 1, 32)", "tiles/0/0"),
        ("DELETE FROM submissions", "submissions/"),
        ("UPDATE state SET value = '\\x00' WHERE height = 1", "state/"),
        ("DELETE FROM checkpoints WHERE size = 4", "checkpoints/4"),
    ],
)
def test_a_changed_row_is_found_and_located(ledger: Ledger, url: str, change: str, where: str) -> None:
    anchor(ledger)
    assert list(run_fsck(url)) == []
    with psycopg.connect(url) as connection:
        assert connection.execute(change).rowcount
    found = [finding.where for finding in run_fsck(url)]
    assert any(each.startswith(where) for each in found), found


# --- copies


def test_a_ledger_moves_from_either_kind_to_either(
    ledger: Ledger, url: str, server: PostgresServer, tmp_path: Path
) -> None:
    for number in range(300):
        anchor(ledger, number)
    ledger.prune(10)
    outside, lines = ledger.checkpoint(), list(run_export(url))
    spare = iter([server.make(f"{url.rpartition('/')[2]}_{number}") for number in range(4)])
    file, copied, imported, restored = tmp_path / "file.db", next(spare), next(spare), next(spare)
    run_snapshot(url, file)
    run_copy(file, copied)
    run_import(lines, imported)
    assert list(run_restore(file, restored, checkpoint=outside)) == []
    run_copy(restored, tmp_path / "back.db")
    run_copy(url, next(spare))
    places: list[str | Path] = [file, copied, imported, restored, tmp_path / "back.db"]
    for place in places:
        assert list(run_fsck(place, checkpoint=outside)) == []
        assert list(run_export(place)) == lines
    for taken in (copied, imported, restored):
        for way in (lambda to: run_copy(file, to), lambda to: run_import(lines, to)):
            with pytest.raises(OpeningRefused, match="already"):
                way(taken)
    ledger.close()
    with opened(restored) as moved:
        assert anchor(moved).index == ledger.size


def test_an_unsound_import_or_snapshot_leaves_nothing_in_the_database(
    ledger: Ledger, url: str, server: PostgresServer, tmp_path: Path
) -> None:
    anchor(ledger)
    lines, target = list(run_export(url)), server.make(f"{url.rpartition('/')[2]}_target")
    with pytest.raises(LedgerError):
        run_import(lines[:-1], target)
    assert not holds_ledger(target)
    run_snapshot(url, tmp_path / "bad.db")
    with closing(sqlite3.connect(tmp_path / "bad.db", isolation_level=None)) as spoiled:
        spoiled.execute("UPDATE entries SET entry = x'00' WHERE idx = 2")
    assert list(run_restore(tmp_path / "bad.db", target)) != []
    assert not holds_ledger(target)
    run_import(lines, target)
    assert holds_ledger(target)


# --- the command line


def test_the_command_line_takes_a_database_wherever_it_takes_a_ledger(
    url: str, server: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        assert main([str(each) for each in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    home, paper = tmp_path / "home", tmp_path / "paper"
    paper.write_text("signed")
    run("init", home, "--name", "cli.example/ledger", "--database", url)
    assert {each.name for each in home.iterdir()} == {"keys", "policy.json", "ledger.url"}
    assert (home / "ledger.url").stat().st_mode & 0o777 == 0o600
    run("append", home, paper)
    run("verify", f"{paper}.receipt.json", "--record", paper, "--policy", home / "policy.json")
    assert "size      4" in run("show", home)
    run("prove", home, "--entry", 2)
    run("prune", home, 1)
    note = tmp_path / "note"
    note.write_text(run("checkpoint", home))
    for place in (home, url):
        assert "sound" in run("fsck", place, "--checkpoint", note)
    (tmp_path / "stream").write_text(run("export", url))
    run("replay", tmp_path / "stream")
    run("snapshot", url, tmp_path / "snapshot.db")
    run("tiles", url, tmp_path / "tiles")
    assert (tmp_path / "tiles" / "checkpoint").exists()
    name = url.rpartition("/")[2]
    run("import", tmp_path / "stream", server.make(f"{name}_imported"))
    restored = server.make(f"{name}_restored")
    assert restored not in run("restore", tmp_path / "snapshot.db", restored, "--checkpoint", note)
    assert "sound" in run("fsck", restored)
    assert main(["import", str(tmp_path / "stream"), restored]) == 1
    assert main(["init", str(tmp_path / "other"), "--name", "x.example/y", "--database", restored]) == 1
    assert not (tmp_path / "other").exists()
    assert main(["init", str(home), "--name", "x.example/y"]) == 1
