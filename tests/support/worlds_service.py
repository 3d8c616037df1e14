"""Play a script into a real bridge and serve it over HTTP: two of them are a pair of worlds.

Bridges live on one event loop in a thread of its own and are asked over TCP.
All of them start from one data directory, so they share institutions, keys of
ids and the directory; the clock stands still at each step's instant, so what
is sent in both worlds is stored with the same ids, versions and times.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from joserfc.jwk import ECKey

from fhir_bridge.adapters.access import request_token_async
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.wiring import Bridge, open_bridge
from tests.support.worlds import (
    ASKED_AT,
    BEGIN,
    INSTITUTIONS,
    STEP,
    Attested,
    Delegate,
    EndGuardian,
    Enrol,
    Guardian,
    GuardianSign,
    Json,
    Link,
    Name,
    Open,
    Paper,
    Script,
    Send,
    Sign,
    Version,
    Warm,
    Who,
    instant_of,
)
from tests.support.worlds_records import DOCTORS, directory_of
from tests.support.worlds_scripts import Numbered

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8080"
"""What every bridge believes to be its address, so that links are the same in both worlds."""

_QUIET = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 2,
    "timeout_keep_alive": 3_600,
}
_LIMIT_S = 60.0
_POLICIES = "FHIR_BRIDGE_CONSENT_POLICIES_FILE"
T = TypeVar("T")


class StillClock:
    """Stands still until it is set."""

    def __init__(self, instant: datetime = BEGIN) -> None:
        self.instant = instant

    def now(self) -> datetime:
        return self.instant


@dataclass(slots=True)
class Names:
    """What the records of a script are called by everybody but their senders."""

    canonical: dict[Name, str] = field(default_factory=dict)
    organizations: dict[str, str] = field(default_factory=dict)

    def reference(self, name: Name) -> str:
        """Return ``Type/canonical id``."""
        return f"{name[1]}/{self.canonical[name]}"


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as it came; names of headers in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Twin:
    """One running bridge and the means to fill and to ask it."""

    def __init__(
        self,
        data: Path,
        clock: StillClock,
        port: int,
        http: httpx.AsyncClient,
        control: httpx.AsyncClient,
        close_epoch: Callable[[], Awaitable[None]],
    ):
        self.data = data
        self.clock = clock
        self.port = port
        self.homes: Mapping[str, tuple[tuple[str, str], ...]] = {}
        self._http = http
        self._control = control
        self.close_epoch = close_epoch
        self._agents: dict[str, tuple[Path, str]] = {}
        self._delegates: dict[str, Json] = {}
        self._guardians: dict[tuple[str, str], Json] = {}
        self._tokens: dict[tuple[datetime, str], dict[str, str]] = {}
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.versions: dict[tuple[int, Name], str] = {}

    # --- filling

    async def learn(self, script: Script) -> Names:
        """Return the canonical ids of everything in a script, without storing anything."""
        names = Names()
        listed = (await self._control.get("/institutions")).json()
        names.organizations = {each["name"]: each["id"] for each in listed}
        for institution in INSTITUTIONS:
            bodies = {v.name: v.body for _, v in script.versions() if v.institution == institution and v.body}
            bodies |= {(institution, b["resourceType"], b["id"]): b for b in directory_of(institution)}
            plain = [body for name, body in bodies.items() if name[1] != "Consent"]
            entries = [_put(body) for body in plain]
            message = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
            answer = await self._control.post("/map/preview", params={"institution": institution}, json=message)
            assert _good(answer).json()["refused"] == [], answer.text
            for body, made in zip(plain, answer.json()["entries"], strict=True):
                names.canonical[institution, body["resourceType"], body["id"]] = made["id"]
        return names

    async def play(self, script: Script, steps: Iterable[Numbered], names: Names) -> None:
        """Play steps, each at its instant; then let it be the time of asking."""
        self.homes = script.homes
        for number, step in steps:
            self.clock.instant = instant_of(number)
            match step:
                case Send():
                    await self._send(number, step)
                case Link():
                    rows = [{"person": step.person, "institution": i, "patient": p} for i, p in step.charts]
                    _good(await self._control.post("/links", json={"rows": rows}))
                case Enrol():
                    local = dict(script.homes[step.person])[step.institution]
                    asked = {"institution": step.institution, "patient": local}
                    done = _good(await self._control.post("/patients", json=asked)).json()
                    self._agents[step.person] = (Path(done["credentials"]), done["patient"])
                case Sign():
                    await self._sign(step, names)
                case Open():
                    await self._open(step, names)
                case Delegate():
                    await self._delegate(step)
                case Paper() | Guardian() | GuardianSign() | EndGuardian():
                    await self._attested(step, names)
                case Warm():
                    pass
        self.clock.instant = ASKED_AT

    async def _send(self, number: int, step: Send) -> None:
        entries = [_entry(version) for version in step.versions]
        message = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        headers = await self.token(Who(step.institution))
        answer = _good(await self._http.post("/fhir", headers=headers, json=message)).json()
        for version, entry in zip(step.versions, answer["entry"], strict=True):
            assert entry["response"]["status"][0] == "2", entry
            if "etag" in entry["response"]:
                self.versions[number, version.name] = entry["response"]["etag"][3:-1]

    async def _sign(self, step: Sign, names: Names) -> None:
        headers = await self.token(Who(None, person=step.person))
        where = f"/fhir/Consent/{step.id}"
        if step.body is None:
            _good(await self._http.delete(where, headers=headers))
            return
        patient = self._agents[step.person][1]
        body = written(step.body, names) | {"id": step.id, "patient": {"reference": f"Patient/{patient}"}}
        _good(await self._http.put(where, headers=headers, json=body))

    async def _open(self, step: Open, names: Names) -> None:
        self.clock.instant = ASKED_AT - timedelta(minutes=step.earlier_min)
        patient = names.canonical[step.institution, "Patient", _patient_at(self.homes, step.person, step.institution)]
        body = _parameters(
            valueString={"reason": "unconscious after a fall"}, valuePositiveInt={"minutes": step.minutes}
        )
        where = f"/fhir/Patient/{patient}/$emergency-access"
        # Not asserted: whether it is answered alike for everybody is what the questions ask.
        await self._http.post(where, headers=await self.token(step.who), json=body)

    async def _delegate(self, step: Delegate) -> None:
        patient, credentials = self._agents[step.person][1], json.loads(self._agents[step.person][0].read_text())
        key = ECKey.generate_key("P-384")
        key.ensure_kid()
        scope = " ".join(f"patient/{name}.rs" for name in step.types)
        told = {"name": "Ada Lovelace", "key": json.dumps(key.as_dict(private=False)), "scope": scope}
        body = _parameters(valueString=told | {"until": "2027-06-30"})
        headers = await self.token(Who(None, person=step.person))
        made = _good(await self._http.post(f"/fhir/Patient/{patient}/$delegate", headers=headers, json=body)).json()
        given = {each["name"]: each["valueString"] for each in made["parameter"]}
        self._delegates[step.person] = credentials | given | {"private_jwk": key.as_dict(private=True)}

    async def _attested(self, step: Attested, names: Names) -> None:
        """Play what rests on an institution's word (docs/access.md, "Guardians" and "Signed papers")."""
        local = _patient_at(self.homes, step.person, step.institution)
        patient = names.canonical[step.institution, "Patient", local]
        place, clerk = f"/fhir/Patient/{patient}", await self.token(Who(step.institution, "dr-a"))
        guardian = Who(None, person=step.person, guardian=step.institution)
        match step:
            case Guardian():
                await self._guardian(step, place, clerk)
            case EndGuardian():
                known = self._guardians[step.person, step.institution]["guardian"]
                body = _parameters(valueString={"guardian": known})
                _good(await self._http.post(f"{place}/$end-guardianship", headers=clerk, json=body))
            case Paper(body=None):
                _good(await self._http.delete(f"/fhir/Consent/{step.id}", headers=clerk))
            case GuardianSign(body=None):
                _good(await self._http.delete(f"/fhir/Consent/{step.id}", headers=await self.token(guardian)))
            case Paper() | GuardianSign():
                said = {"id": step.id, "patient": {"reference": f"Patient/{patient}"}}
                body = written(step.body, names) | said
                if isinstance(step, Paper):
                    body |= {"sourceAttachment": {"title": "a form, folder 7"}}
                    _good(await self._http.post(f"{place}/$attest-consent", headers=clerk, json=body))
                else:
                    where, headers = f"/fhir/Consent/{step.id}", await self.token(guardian)
                    _good(await self._http.put(where, headers=headers, json=body))

    async def _guardian(self, step: Guardian, place: str, clerk: dict[str, str]) -> None:
        key = ECKey.generate_key("P-384")
        key.ensure_kid()
        told = {
            "name": "Ada Lovelace",
            "relationship": "MTH",
            "basis": "birth certificate, copy in folder 7",
            "key": json.dumps(key.as_dict(private=False)),
            "scope": "patient/*.rs patient/Consent.cu",
            "until": step.until,
        }
        body = _parameters(valueString=told)
        made = _good(await self._http.post(f"{place}/$attest-guardian", headers=clerk, json=body)).json()
        given = {each["name"]: each["valueString"] for each in made["parameter"]}
        given |= {"token_url": f"{BASE}/token", "private_jwk": key.as_dict(private=True)}
        self._guardians[step.person, step.institution] = given

    # --- asking

    async def token(self, who: Who) -> dict[str, str]:
        """Return the headers of a requester, good at the clock's instant."""
        key = self.clock.now().replace(second=0, microsecond=0), repr(who)
        held = self._tokens.get(key)
        if held is None:
            extras: dict[str, str] = {}
            if who.guardian is not None:
                credentials = self._guardians[str(who.person), who.guardian]
            elif who.types is not None:
                credentials = self._delegates[str(who.person)]
            elif who.person is not None:
                credentials = json.loads(self._agents[who.person][0].read_text())
            else:
                credentials = json.loads((self.data / "credentials" / f"{who.institution}.json").read_text())
                extras = who.statement
            made = await request_token_async(self._http, credentials, self.clock.now(), SystemRandomness(), **extras)
            held = self._tokens[key] = {"Authorization": f"Bearer {made}"}
        return held

    def has_agent(self, person: str) -> bool:
        """Tell whether a person has an agent in this world."""
        return person in self._agents

    @property
    def private(self) -> dict[str, str]:
        """What is random in each world: client ids of agents, by the name to show instead."""
        agents = {json.loads(f.read_text())["client_id"]: f"(agent of {p})" for p, (f, _) in self._agents.items()}
        named = {
            made[name]: f"({name} of {p})"
            for p, made in self._delegates.items()
            for name in ("client_id", "delegate")
        }
        named |= {
            made[name]: f"({name} of {p} at {at})"
            for (p, at), made in self._guardians.items()
            for name in ("client_id", "guardian")
        }
        return agents | named

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Told:
        """Ask over TCP; connections are kept, and as many are open as questions under way."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:8080"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT", "PATCH") else []
        message = "\r\n".join([*lines, "", ""]).encode() + body
        while True:
            is_kept = bool(self._idle)
            streams = self._idle.pop() if is_kept else await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = streams
            writer.write(message)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                # The server ends a connection after an error of its own; a new one says whether it still serves.
                writer.close()
                if not is_kept:
                    raise
        status = int(head[0].split(" ")[1])
        given = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in head[1:] if line)]
        length = int(dict(given).get("content-length", "0"))
        has_body = method != "HEAD" and status not in (204, 304)
        content = await reader.readexactly(length) if has_body else b""
        if dict(given).get("connection", "") == "close":
            writer.close()
        else:
            self._idle.append(streams)
        return Told(status, tuple(given), content)

    def hang_up(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def written(value: Any, names: Names) -> Any:
    """Return a Consent with symbolic names replaced by references."""
    if isinstance(value, list):
        return [written(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    if "record" in value:
        return {"reference": names.reference(tuple(value["record"]))}
    if "identifier" in value and "institution" in value:
        return {"identifier": value["identifier"]}
    if isinstance(value.get("institution"), str):
        return {"reference": f"Organization/{names.organizations[value['institution']]}"}
    if isinstance(value.get("practitioner"), str):
        return {"reference": f"Practitioner/{value['practitioner']}"}
    return {key: written(each, names) for key, each in value.items()}


def written_policies(script: Script, names: Names) -> bytes | None:
    """Return the policies file of a script."""
    if script.policies is None:
        return None
    policies = []
    for each in script.policies["policies"]:
        rules = written({name: each[name] for name in ("policyRule", "provision") if name in each}, names)
        made = {name: each[name] for name in ("id", "kind", "citation", "institution") if name in each} | rules
        if "patient" in each:
            institution, person = each["patient"]["patient"]
            local = _patient_at(script.homes, person, institution)
            made["patient"] = names.canonical[institution, "Patient", local]
        policies.append(made)
    return json.dumps(script.policies | {"policies": policies}).encode()


def _patient_at(homes: Mapping[str, tuple[tuple[str, str], ...]], person: str, institution: str) -> str:
    return dict(homes[person])[institution]


def _parameters(**values: Mapping[str, object]) -> Json:
    listed = [{"name": name, form: value} for form, given in values.items() for name, value in given.items()]
    return {"resourceType": "Parameters", "parameter": listed}


def _entry(version: Version) -> Json:
    if version.body is None:
        return {"request": {"method": "DELETE", "url": f"{version.type}/{version.id}"}}
    return _put(written(version.body, Names()) if version.type == "Consent" else version.body)


def _put(body: Json) -> Json:
    place = f"{body['resourceType']}/{body['id']}"
    return {"resource": body, "request": {"method": "PUT", "url": place}}


def _good(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    return answer


# --- hosting


class Host:
    """An event loop in a thread, where bridges live; and the data directory that they all start from.

    Args:
        template: Such a directory that another host made, instead of a new one.
    """

    def __init__(self, template: Path | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worlds", daemon=True)
        self._thread.start()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="worlds-", dir=memory if os.access(memory, os.W_OK) else None))
        self.template = template or self.folder / "template"
        if template is None:
            self.run(_template(self.template))
        self._open = ExitStack()
        self._learner = self._open.enter_context(self.twin("learner"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT_S)

    def close(self) -> None:
        """End the loop and remove everything."""
        self._open.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT_S)
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def learn(self, script: Script) -> Names:
        """Return the canonical ids of everything in a script; every twin calls them so."""
        return self.run(self._learner.learn(script))

    @contextmanager
    def twin(self, name: str, policies: bytes | None = None) -> Iterator[Twin]:
        """Serve a fresh copy of the common beginning, under the policies of a file if there is one."""
        data = self.folder / name
        shutil.copytree(self.template, data)
        file = None if policies is None else data / "policies.json"
        if file is not None and policies is not None:
            file.write_bytes(policies)
        ready: asyncio.Future[Twin] = self.run(_future())
        end: asyncio.Event = self.run(_event())
        living = asyncio.run_coroutine_threadsafe(_live(data, ready, end, file), self._loop)
        try:
            yield self.run(_first(ready, asyncio.wrap_future(living, loop=self._loop)))
        finally:
            self._loop.call_soon_threadsafe(end.set)
            living.result(_LIMIT_S)
            shutil.rmtree(data, ignore_errors=True)


async def _future() -> asyncio.Future[Twin]:
    return asyncio.get_running_loop().create_future()


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _first(ready: asyncio.Future[Twin], living: asyncio.Future[None]) -> Twin:
    both: set[asyncio.Future[Any]] = {ready, living}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        living.result()
    return ready.result()


async def _live(data: Path, ready: asyncio.Future[Twin], end: asyncio.Event, policies: Path | None) -> None:
    async with _opened(data, StillClock(), policies) as twin:
        ready.set_result(twin)
        await end.wait()
        twin.hang_up()


@asynccontextmanager
async def _opened(data: Path, clock: StillClock, policies: Path | None = None) -> AsyncIterator[Twin]:
    async with AsyncExitStack() as stack:
        with _settings(policies):
            bridge = await stack.enter_async_context(open_bridge(data, workers=0, clock=clock))
        yield await stack.enter_async_context(_served(data, clock, bridge))


@contextmanager
def _settings(policies: Path | None) -> Iterator[None]:
    """Name the policies file as an operator does; twins are opened one after the other."""
    if policies is not None:
        os.environ[_POLICIES] = str(policies)
    try:
        yield
    finally:
        os.environ.pop(_POLICIES, None)


@asynccontextmanager
async def _served(data: Path, clock: StillClock, bridge: Bridge) -> AsyncIterator[Twin]:
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(bridge.control), base_url="http://control") as control,
        httpx.AsyncClient(transport=httpx.ASGITransport(bridge.http), base_url=BASE) as http,
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
            listening.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(bridge.http, **_QUIET))  # type: ignore[arg-type]  # settings by name
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.005)
            try:
                closing = bridge.services.audit.close_epoch
                yield Twin(data, clock, listening.getsockname()[1], http, control, closing)
            finally:
                server.should_exit = True
                await serving


async def _template(data: Path) -> None:
    """Admit the institutions and take their directories."""
    async with _opened(data, StillClock(BEGIN - STEP)) as twin:
        for name in INSTITUTIONS:
            given = {"name": name, "fhir_version": "R4", "ruleset_dir": str(ROOT / "mappings" / "northgate")}
            _good(await twin._control.post("/institutions", json=given))
            message = {"resourceType": "Bundle", "type": "batch", "entry": [_put(b) for b in directory_of(name)]}
            _good(await twin._http.post("/fhir", headers=await twin.token(Who(name)), json=message))
    with contextlib.suppress(FileNotFoundError):
        (data / "control.sock").unlink()


__all__ = ["DOCTORS", "Host", "Names", "StillClock", "Twin", "written", "written_policies"]
