"""``token``: sign in as an institution's system or a patient's agent and print the access token."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import Data, data_directory
from fhir_bridge.cli.waiting import wait_for

if TYPE_CHECKING:
    import httpx

    from fhir_bridge.cli.control import Control


def token(
    institution: Annotated[str | None, typer.Option("--institution", help="Sign in as its system.")] = None,
    patient: Annotated[
        str | None,
        typer.Option("--patient", help="Sign in as this patient's agent; with --institution, its local patient id."),
    ] = None,
    practitioner: Annotated[str | None, typer.Option(help="Practitioner id on whose behalf it asks.")] = None,
    purpose: Annotated[str | None, typer.Option(help="Purpose of use, such as TREAT.")] = None,
    role: Annotated[str | None, typer.Option(help="Role of the practitioner, code or system|code.")] = None,
    data: Data = None,
) -> None:
    """Print an access token, and nothing else, on standard output."""
    directory = data_directory(data)
    if institution is None and patient is None:
        raise Failure("who signs in? (give --institution NAME or --patient ID)", exit_code=SETUP)
    stated = {"practitioner": practitioner, "purpose": purpose, "role": role}
    extras = {name: value for name, value in stated.items() if value is not None}
    if patient is not None and extras:
        raise Failure(f"--{next(iter(extras))} is for an institution's staff, not for a patient", exit_code=SETUP)
    print(wait_for(_sign_in(directory, institution, patient, extras)))


async def _sign_in(data: Path, institution: str | None, patient: str | None, extras: Mapping[str, str]) -> str:
    from fhir_bridge.cli.control import open_control

    async with open_control(data, port=_served_port(data)) as control:
        path = await _credentials_file(control, data, institution, patient)
        return await _request(control, _read(path), extras)


@asynccontextmanager
async def as_agent(data: Path, patient: str, institution: str | None) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """Give a client of the public API that is signed in as a patient's agent, and the canonical Patient id."""
    from fhir_bridge.cli.control import open_control

    async with open_control(data, port=_served_port(data)) as control:
        path = await _credentials_file(control, data, institution, patient)
        async with _signed_in(control, _read(path), {}) as client:
            yield client, path.stem


@asynccontextmanager
async def as_institution(data: Path, institution: str, **stated: str) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """Give a client of the public API that is signed in as an institution's system, and its token endpoint."""
    from fhir_bridge.cli.control import open_control

    async with open_control(data, port=_served_port(data)) as control:
        credentials = _read(await _credentials_file(control, data, institution, None))
        async with _signed_in(control, credentials, stated) as client:
            yield client, credentials["token_url"]


@asynccontextmanager
async def _signed_in(
    control: Control, credentials: Mapping[str, Any], stated: Mapping[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    import httpx

    headers = {"Authorization": f"Bearer {await _request(control, credentials, stated)}"}
    if control.public is not None:
        control.public.headers.update(headers)
        yield control.public
        return
    base = credentials["token_url"].removesuffix("/token")
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=not _is_near(base)) as client:
        yield client


def _served_port(data: Path) -> int | None:
    """Return the port that credentials name: an assertion is good for one token endpoint only."""
    for path in sorted((data / "credentials").glob("*.json")):
        url: str = _read(path)["token_url"]
        return urlsplit(url).port
    return None


async def _credentials_file(control: Control, data: Path, institution: str | None, patient: str | None) -> Path:
    if patient is not None:
        found = await control.get("/patients/resolve", patient=patient, institution=institution)
        path = data / "credentials" / "patients" / f"{found['patient']}.json"
        hint = "that patient has no agent yet (see 'fhir-bridge patient enrol')"
    else:
        path = data / "credentials" / f"{institution}.json"
        hint = "no credentials for that institution (see 'fhir-bridge institution list')"
    if not path.is_file():
        raise Failure(hint, exit_code=SETUP)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("token_url"), str):
        raise Failure(f"{path} is not a credentials file (write it anew by enrolling again)", exit_code=SETUP)
    return found


async def _request(control: Control, credentials: Mapping[str, Any], extras: Mapping[str, str]) -> str:
    import httpx

    from fhir_bridge.adapters.access import request_token_async
    from fhir_bridge.adapters.ambient import SystemClock, SystemRandomness

    now = SystemClock().now()
    if control.public is not None:
        return await request_token_async(control.public, credentials, now, SystemRandomness(), **extras)
    async with httpx.AsyncClient(trust_env=not _is_near(credentials["token_url"])) as client:
        return await request_token_async(client, credentials, now, SystemRandomness(), **extras)


def _is_near(url: str) -> bool:
    """Tell whether an address is this machine, to which no proxy of the environment leads."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
