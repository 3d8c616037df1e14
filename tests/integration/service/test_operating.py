"""What an operator counts on while clients go on: drain, rotation, restore, readiness, no secret on any disk."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.bridge_world import observation, patient
from tests.support.hospitals import ROOT
from tests.support.jose import Signer, encrypted
from tests.support.service import START_LIMIT_S, Service, running

CANARY = "Kanarienvogel"
PASSPHRASE = "passphrase-Distelfink"
TOKEN_CANARY = "token-Zeisig"
LIMIT_S = START_LIMIT_S


class Writer:
    """A client that writes one record after another and remembers which were answered."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self.answered: list[str] = []
        self.refused: list[int] = []
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            name = f"{CANARY}-{number}"
            body = observation(name, "p1", note=[{"text": CANARY}])
            try:
                who = self._service.lasting_token("northgate")
                answer = self._service.http.put(f"/fhir/Observation/{name}", json=body, headers=who)
                read = self._service.get("Patient/p1", who)
            except httpx.TransportError:
                # The service has gone; what it answered before counts.
                if self._stop.wait(0.01):
                    return
                continue
            if answer.status_code == 201:
                self.answered.append(name)
            if read.status_code != 200 or answer.status_code != 201:
                self.refused.append(max(read.status_code, answer.status_code))

    def has_answered(self, at_least: int) -> bool:
        return len(self.answered) >= at_least

    @contextmanager
    def writing(self, at_least: int = 5) -> Iterator[None]:
        """Write during the block, which begins when some records are answered."""
        self._thread.start()
        try:
            wait_until(lambda: len(self.answered) >= at_least)
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def lost(self, service: Service) -> list[str]:
        """Return what was answered and cannot be read."""
        who = service.token("northgate")
        return [n for n in self.answered if service.get(f"Observation/{n}", who).status_code != 200]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def stands_by(service: Service) -> bool:
    return "standing by" in service.log_tail()


def findings(data: Path) -> list[Finding]:
    return [each for each in check(data, deep=True) if isinstance(each, Finding)]


def spellings(secret: str) -> set[bytes]:
    """Return the forms in which a secret might lie in a file: as text, as UTF-16, inside Base64 at any offset."""
    raw = secret.encode()
    inside = {base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)}
    return {raw, raw.lower(), secret.encode("utf-16-le"), secret.encode("utf-16-be"), raw.hex().encode(), *inside}


def places_of(secrets: tuple[str, ...], *roots: Path) -> list[tuple[str, str]]:
    """Return where a secret lies in the raw bytes of files."""
    found = []
    for root in roots:
        for file in [root] if root.is_file() else [each for each in root.rglob("*") if each.is_file()]:
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                continue
            found += [(file.name, s) for s in secrets if any(form in content for form in spellings(s))]
    return found


def admitted(service: Service) -> Service:
    service.add_institutions(["northgate"])
    service.ingest("northgate", json.dumps(patient("p1", name=[{"family": CANARY}])).encode())
    return service


def test_sigterm_under_load_loses_nothing_and_says_first_that_it_goes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, FHIR_BRIDGE_DRAIN_NOTICE_S="2") as service:
        writer = Writer(admitted(service))
        with writer.writing():
            leaving = threading.Thread(target=service.stop)  # insists on exit code 0
            leaving.start()
            said: list[int] = []
            while leaving.is_alive():
                try:
                    # By the service's own client: a new one takes long to make, and the notice is short.
                    said.append(service.http.get("/health/ready").status_code)
                except httpx.TransportError:
                    break
                time.sleep(0.01)
            leaving.join()
    assert 503 in said, "readiness says no while requests are still taken"
    assert said == sorted(said), "and never yes again"
    assert writer.refused == []
    assert findings(data) == []
    with running(data) as service:
        assert writer.lost(service) == []


def test_it_ends_when_it_has_drained_and_takes_nothing_apart(tmp_path: Path) -> None:
    # Taking a million opened index rows apart keeps a process for a minute that has said "drained".
    torn = tmp_path / "torn down"
    hook = tmp_path / "hook" / "sitecustomize.py"
    hook.parent.mkdir()
    hook.write_text(
        "import atexit, sys, pathlib\n"
        f"if 'serve' in sys.orig_argv: atexit.register(pathlib.Path({str(torn)!r}).touch)\n"
    )
    with running(tmp_path / "data", PYTHONPATH=str(hook.parent)) as service:
        log = service.log
        service.stop()
    assert '"event": "drained"' in log.read_text()
    assert not torn.exists()


def test_one_that_stands_by_takes_over_however_the_other_ends_and_nothing_is_lost(tmp_path: Path) -> None:
    """As an operator upgrades: the newer process is started before the older one is stopped."""
    data = tmp_path / "data"
    serving = admitted(Service(data).start())
    started = [serving]
    try:
        idle = serving.successor()
        idle.launch()
        wait_until(partial(stands_by, idle))
        idle.stop()  # insists on exit code 0
        assert serving.get("Patient/p1", serving.token("northgate")).status_code == 200
        writer = Writer(serving)
        with writer.writing():
            for end in (Service.stop, Service.kill, Service.stop):
                following = serving.successor()
                started.append(following)
                following.launch()
                wait_until(partial(stands_by, following))
                assert serving.is_running
                end(serving)
                following.wait_ready()
                serving = following
                wait_until(partial(writer.has_answered, len(writer.answered) + 5))
        assert writer.refused == []
        assert writer.lost(serving) == []
        serving.stop()
    finally:
        for each in started:
            each.close()
    assert findings(data) == []


def test_keys_are_rotated_while_clients_go_on_and_a_kill_in_between_leaves_everything_openable(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    service = Service(data, FHIR_BRIDGE_PASSPHRASE=PASSPHRASE)
    os.environ["FHIR_BRIDGE_PASSPHRASE"] = PASSPHRASE
    try:
        writer = Writer(admitted(service.start()))
        service.http.get("/fhir/Patient/p1", headers={"Authorization": f"Bearer {TOKEN_CANARY}"})
        service.http.get("/fhir/Patient", params={"identifier": CANARY, "x": TOKEN_CANARY}, headers={})
        service.ingest("northgate", f'{{"resourceType": "{CANARY}", "id": "{CANARY}"'.encode())
        secrets = (CANARY, PASSPHRASE, TOKEN_CANARY)
        with writer.writing():
            first = service.order("/keys/rotate", {})
            assert {each["institution"]: each["new_epoch"] for each in first} == {"northgate": 2, "operator": 2}
            assert places_of(secrets, data, service.log) == []
            assert not any(s.encode() in service.control.get("/metrics").good() for s in secrets)
            rotating = threading.Thread(target=_rotate_until_it_ends, args=(service,))
            rotating.start()
            wait_until(lambda: (data / "keys" / "keyring" / "kek-northgate-5").exists())
            service.kill()
            rotating.join()
        assert len(writer.answered) > 5
        assert writer.refused == []
        assert places_of(secrets, data, service.log) == []
        assert findings(data) == []
        service.start()
        assert writer.lost(service) == []
        assert service.order("/keys/rotate", {"institution": "northgate"})[0]["new_epoch"] > 4
        assert writer.lost(service) == []
        service.stop()
    finally:
        del os.environ["FHIR_BRIDGE_PASSPHRASE"]
        service.close()


def test_nothing_of_a_record_lies_in_the_clear_whichever_way_it_came(tmp_path: Path) -> None:
    """Bus, encrypted and signed, letter, waiting claim, import under way: killed, then all raw files are read."""
    data, scratch = tmp_path / "data", tmp_path / "scratch"
    scratch.mkdir()
    signer = Signer()
    service = Service(data, TMPDIR=str(scratch), FHIR_BRIDGE_LOG_LEVEL="DEBUG")
    try:
        admitted(service.start())
        to = service.order("/institutions/northgate/encryption-key", {})
        service.order("/institutions/northgate/signing-keys", {"add": signer.jwk})
        sent = json.dumps(observation("o1", "p1", note=[{"text": CANARY}])).encode()
        headers = {"content-type": "application/jose", "jws-signature": signer.sign(sent)}
        asked = {"institution": "northgate"}
        place = httpx.HTTPTransport(uds=str(data / "control.sock"))
        with httpx.Client(transport=place, base_url="http://control") as control:
            taken = control.post("/ingest", params=asked, content=encrypted(sent, to), headers=headers).json()
            assert taken["outcomes"] == {"201": 1}
            assert control.post("/ingest", params=asked, content=sent).json()["dead_letters"] != []
        who = service.token("northgate")
        claim = service.http.put(f"/fhir/$claim/{hashlib.sha256(sent).hexdigest()}", content=sent, headers=who)
        assert claim.status_code == 201
        lines = [observation(f"i{number}", "p1", note=[{"text": CANARY}]) for number in range(20_000)]
        begun = service.http.post(
            "/fhir/$import",
            content="\n".join(json.dumps(line) for line in lines),
            headers={**who, "Content-Type": "application/fhir+ndjson", "Prefer": "respond-async"},
        )
        assert begun.status_code == 202, begun.text
        assert service.http.get(begun.headers["content-location"], headers=who).status_code == 202
        service.kill()
        assert len(list((data / "imports").iterdir())) > 0, "some of it waits still"
        assert places_of((CANARY,), data, service.log, scratch) == []
        assert findings(data) == []
    finally:
        service.close()


def _rotate_until_it_ends(service: Service) -> None:
    while service.is_running:
        try:
            service.order("/keys/rotate", {"institution": "northgate"})
        except Exception:
            return


def test_restore_says_restored_only_of_what_agrees_with_its_ledger(tmp_path: Path) -> None:
    data, kept = tmp_path / "data", tmp_path / "kept"
    with running(data) as service:
        writer = Writer(admitted(service))
        with writer.writing():
            service.order("/backup", {"to": str(kept)})
    good = _restore(kept, tmp_path / "good")
    assert (good.returncode, good.stderr) == (0, ""), good.stderr
    assert "checked against its ledger" in good.stdout
    # One byte of one ciphertext: SQLite opens the file as before.
    vault = kept / "vault" / "vault.db"
    content = bytearray(vault.read_bytes())
    content[_place_of_a_record(vault)] ^= 1
    vault.write_bytes(content)
    bad = _restore(kept, tmp_path / "bad")
    assert bad.returncode == 1
    assert "disagrees with its ledger" in bad.stderr
    assert "restored into" not in bad.stdout


def _restore(kept: Path, to: Path) -> subprocess.CompletedProcess[str]:
    folders = ["--from", str(kept / "vault"), "--keys", str(kept / "keys"), "--data", str(to)]
    command = [sys.executable, "-m", "fhir_bridge.cli.main", "restore", *folders]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _place_of_a_record(vault: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(vault)) as connection:
        (sealed,) = connection.execute("SELECT normalised FROM records ORDER BY seq LIMIT 1").fetchone()
    return vault.read_bytes().index(sealed[-24:]) + 12


@pytest.mark.parametrize("broken", ["disk", "keys", "lock"])
def test_readiness_notices_what_is_really_broken_and_that_it_is_mended(tmp_path: Path, broken: str) -> None:
    data = tmp_path / "data"
    with running(data) as service:
        admitted(service)
        assert service.http.get("/health/ready").status_code == 200
        undo = {"disk": _fill, "keys": _lose_keys, "lock": _lose_lock}[broken](service)
        part = {"lock": "disk"}.get(broken, broken)
        wait_until(lambda: service.http.get("/health/ready").json()["parts"][part] is False)
        assert service.http.get("/health/ready").status_code == 503
        assert service.http.get("/health/live").status_code == 200
        undo()
        wait_until(lambda: service.http.get("/health/ready").status_code == 200)


def _fill(service: Service) -> Callable[[], object]:
    """Let the service's files grow no further (RLIMIT_FSIZE), as on a disk that is full."""
    process = service._process
    assert process is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
    return lambda: resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)


def _lose_keys(service: Service) -> Callable[[], object]:
    keys = service.data / "keys" / "keyring"
    (moved := keys.with_name("gone")).mkdir()
    moved.rmdir()
    keys.rename(moved)
    return lambda: moved.rename(keys)


def _lose_lock(service: Service) -> Callable[[], object]:
    lock = service.data / "lock"
    kept = lock.rename(lock.with_name("lock.kept"))
    lock.touch()
    return lambda: kept.rename(lock)


def test_the_metrics_port_answers_on_loopback_alone(tmp_path: Path) -> None:
    probe = Service(tmp_path / "unused")
    port = probe.port
    probe.close()
    with running(tmp_path / "data", FHIR_BRIDGE_METRICS_PORT=str(port)) as service:
        metrics = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False)
        page = metrics.get("/metrics")
        assert page.status_code == 200
        assert "process_resident_memory_bytes" in page.text
        assert service.http.get("/metrics").status_code == 404
        assert metrics.get("/fhir/Patient").status_code == 404
        metrics.close()
