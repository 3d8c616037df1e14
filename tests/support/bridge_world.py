"""A whole bridge in one process on real files: for tests of the lines, the entrance and what an operator does.

A data directory with two institutions is made once and copied for each test,
because loading rule packs costs more than everything else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import httpx

from fhir_bridge.adapters.access import request_token_async
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.adapters.sqlite_support import Connect, connect_file
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.wiring import Bridge, open_bridge

ROOT = Path(__file__).resolve().parents[2]
BASE = "http://127.0.0.1:8080"
NAMES = ("northgate", "harbor")
_SCOPE = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]}
_CATEGORY = [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}]
_ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """A running bridge with a client for each of its two entrances."""

    bridge: Bridge
    data: Path
    control: httpx.AsyncClient
    http: httpx.AsyncClient

    async def send(self, resource: Json | bytes, institution: str = "northgate") -> Json:
        """Put a message on the bus; return the summary."""
        body = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
        answer = await self.control.post("/ingest", params={"institution": institution}, content=body)
        assert answer.status_code == 200, answer.text
        summary: Json = answer.json()
        return summary

    async def token(self, institution: str = "northgate", **extras: str) -> dict[str, str]:
        """Return the headers of an institution's requester."""
        return await self._headers(self.data / "credentials" / f"{institution}.json", **extras)

    async def enrol(self, local_patient: str, institution: str = "northgate") -> dict[str, str]:
        """Enrol a patient's agent; return its headers."""
        answer = await self.control.post("/patients", json={"institution": institution, "patient": local_patient})
        assert answer.status_code == 200, answer.text
        return await self._headers(Path(answer.json()["credentials"]))

    async def link(self, person: str, *charts: tuple[str, str]) -> None:
        """Say that charts ``(institution, local patient id)`` are one person."""
        rows = [{"person": person, "institution": name, "patient": patient} for name, patient in charts]
        answer = await self.control.post("/links", json={"rows": rows})
        assert answer.status_code == 200, answer.text

    async def patient_id(self, local_patient: str, institution: str = "northgate") -> str:
        """Return a canonical Patient id."""
        asked = {"patient": local_patient, "institution": institution}
        answer = await self.control.get("/patients/resolve", params=asked)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["patient"])

    async def organization(self, institution: str) -> str:
        """Return an institution's public id."""
        listed = (await self.control.get("/institutions")).json()
        return next(str(each["id"]) for each in listed if each["name"] == institution)

    async def timeline(self, headers: Mapping[str, str], patient: str) -> list[str]:
        """Return ``Type/local text`` of a person's records as ``$everything`` shows them; empty if refused."""
        answer = await self.http.get(f"/fhir/Patient/{patient}/$everything", headers=headers)
        if answer.status_code == 404:
            return []
        assert answer.status_code == 200, answer.text
        return sorted(name_of(each["resource"]) for each in answer.json().get("entry", []))

    async def findings(self, *, deep: bool = True) -> list[Json]:
        """Return what a check of everything finds."""
        answer = await self.control.post("/fsck", json={"deep": deep})
        lines = [json.loads(line) for line in answer.text.splitlines()]
        return [line["finding"] for line in lines if "finding" in line]

    async def _headers(self, credentials: Path, **extras: str) -> dict[str, str]:
        given = json.loads(credentials.read_text())
        token = await request_token_async(self.http, given, datetime.now(UTC), SystemRandomness(), **extras)
        return {"Authorization": f"Bearer {token}"}


def name_of(resource: Json) -> str:
    """Return type and the first identifier's value, by which tests know a record whatever its id."""
    named = resource.get("identifier") or [{"value": ""}]
    first = named[0] if isinstance(named, list) else named
    return f"{resource['resourceType']}/{first['value']}"


@asynccontextmanager
async def running(
    data: Path,
    *,
    workers: int = 0,
    connect: Connect = connect_file,
    clock: Clock | None = None,
    kafka: str | None = None,
) -> AsyncIterator[World]:
    """Open a data directory as ``serve`` would, without sockets."""
    async with (
        open_bridge(data, workers=workers, connect=connect, clock=clock, kafka=kafka) as bridge,
        httpx.AsyncClient(transport=httpx.ASGITransport(bridge.control), base_url="http://control") as control,
        httpx.AsyncClient(transport=httpx.ASGITransport(bridge.http), base_url=BASE) as http,
    ):
        yield World(bridge, data, control, http)


def fresh(folder: Path) -> Path:
    """Return a new data directory with northgate and harbor (both R4) in it."""
    data = folder / "data"
    shutil.copytree(_template(), data)
    return data


@cache
def _template() -> Path:
    import threading

    data = Path(tempfile.mkdtemp(prefix="fhir-bridge-test-")) / "data"
    made = threading.Thread(target=lambda: anyio.run(_make, data))
    made.start()
    made.join()
    return data


async def _make(data: Path) -> None:
    async with running(data) as world:
        for name in NAMES:
            given = {"name": name, "fhir_version": FhirVersion.R4.value}
            answer = await world.control.post(
                "/institutions", json=given | {"ruleset_dir": str(ROOT / "mappings" / "northgate")}
            )
            assert answer.status_code == 200, answer.text


# --- resources, small and made by hand


def patient(local_id: str, **more: Any) -> Json:
    """Return a Patient with a record number that equals its id."""
    number = {"system": "https://northgate.example.org/mrn", "value": local_id}
    return {"resourceType": "Patient", "id": local_id, "identifier": [number], **more}


def observation(local_id: str, of: str, **more: Any) -> Json:
    """Return a heart rate whose identifier equals its id."""
    return {
        "resourceType": "Observation",
        "id": local_id,
        "identifier": [{"system": "urn:test", "value": local_id}],
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": f"Patient/{of}"},
        "effectiveDateTime": "2026-03-01T10:00:00Z",
        **more,
    }


def consent(patient_reference: str, *, permit: str | None = None, deny: str | None = None, **more: Any) -> Json:
    """Return a privacy Consent: OPTOUT (or OPTIN to deny one) with a provision about one institution.

    The institution is its name where the sender is one (its own references become its own ids), its
    ``Organization/id`` where a patient's agent writes.
    """
    provision: Json = {"type": "permit" if permit else "deny"}
    named = permit or deny
    if named is not None:
        role = {"coding": [{"system": _PARTICIPATION, "code": "IRCP"}]}
        meant: Json = {"identifier": {"system": "urn:fhir-bridge:institution", "value": named}}
        if named.startswith("Organization/"):
            meant = {"reference": named}
        provision["actor"] = [{"role": role, "reference": meant}]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": _SCOPE,
        "category": _CATEGORY,
        "patient": {"reference": patient_reference},
        "dateTime": "2026-01-01",
        "policyRule": {"coding": [{"system": _ACT, "code": "OPTOUT" if permit else "OPTIN"}]},
        "provision": provision,
        **more,
    }


def bundle(*entries: tuple[str, str, Json | None], kind: str = "transaction", **more: Any) -> Json:
    """Return a bundle of ``(method, url, resource)``."""
    made = []
    for method, url, resource in entries:
        entry: Json = {"request": {"method": method, "url": url}}
        if resource is not None:
            entry["resource"] = resource
            entry["fullUrl"] = f"https://northgate.example.org/fhir/{url}"
        made.append(entry)
    return {"resourceType": "Bundle", "type": kind, "entry": made, **more}
