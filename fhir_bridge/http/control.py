"""The operator's entrance: plain JSON over a socket that only the owner of the data directory can open.

There is no token here; the file system says who may come in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from fhir_bridge import __version__
from fhir_bridge.errors import SetupWrong
from fhir_bridge.http import control_maps, control_messages, control_persons, control_rules, errors
from fhir_bridge.http.bare import bare_app
from fhir_bridge.http.given import object_of, text_of, texts_of
from fhir_bridge.http.measuring import Page, add_page
from fhir_bridge.lines.backfilling import BackfillLine
from fhir_bridge.lines.bus_reader import SIGNATURE_HEADER
from fhir_bridge.lines.checking import Finding, Progress
from fhir_bridge.lines.explaining import Explaining
from fhir_bridge.lines.letters import QUARANTINED
from fhir_bridge.lines.matching import Matching
from fhir_bridge.lines.message_keys import MessageKeys
from fhir_bridge.lines.operations import Operations
from fhir_bridge.lines.relabelling import RelabelLine
from fhir_bridge.lines.rule_story import RuleStory
from fhir_bridge.lines.rule_watch import RuleWatch
from fhir_bridge.lines.rules import Rules
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.ingest import Processed
from fhir_bridge.ports.vault import LettersWanted

Check = Callable[[bool, str | None], Iterator[Finding | Progress]]
Export = Callable[[], Iterable[str]]
Backup = Callable[[Path], Any]


def create_control(
    operations: Operations,
    relabelling: RelabelLine,
    messages: MessageKeys,
    matching: Matching,
    rules: tuple[Rules, RuleStory, RuleWatch],
    mapping: tuple[Explaining, BackfillLine],
    *,
    check: Check,
    export: Export,
    backup: Backup,
    policy: Callable[[], str],
    checkpoint: Callable[[], str],
    metrics: Page,
) -> FastAPI:
    """Return the application behind ``control.sock``."""
    app = bare_app("fhir-bridge control")
    errors.install(app)
    add_page(app, metrics)
    control_messages.install(app, messages)
    control_persons.install(app, matching)
    control_rules.install(app, *rules)
    control_maps.install(app, *mapping)

    @app.get("/status")
    async def status() -> JSONResponse:
        return JSONResponse({"version": __version__} | await operations.status())

    @app.post("/institutions")
    async def add_institution(request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(
            await operations.add_institution(
                text_of(given, "name"),
                text_of(given, "fhir_version") if "fhir_version" in given else None,
                text_of(given, "ruleset_dir"),
                author=text_of(given, "author") if "author" in given else "",
                approver=text_of(given, "approver") if "approver" in given else "",
            )
        )

    @app.get("/institutions")
    async def institutions() -> JSONResponse:
        return JSONResponse(operations.institutions())

    @app.post("/patients")
    async def enrol(request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(await operations.enrol(text_of(given, "institution"), text_of(given, "patient")))

    @app.get("/patients/resolve")
    async def resolve(patient: str, institution: str | None = None) -> JSONResponse:
        return JSONResponse(operations.resolve_patient(patient, institution))

    @app.post("/links")
    async def links(request: Request) -> JSONResponse:
        rows = (await object_of(request)).get("rows")
        if not isinstance(rows, list):
            raise SetupWrong("rows must be a list of links")
        return JSONResponse(await operations.link(rows))

    @app.post("/ingest")
    async def ingest(request: Request, institution: str) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        signature = request.headers.get(SIGNATURE_HEADER, "")
        return JSONResponse(await operations.feed(institution, await request.body(), content_type, signature))

    @app.post("/map/preview")
    async def preview(request: Request, institution: str) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        return JSONResponse(_preview(await operations.preview(institution, await request.body(), content_type)))

    @app.get("/letters")
    async def letters(request: Request) -> JSONResponse:
        return JSONResponse(await operations.letters(_letters_wanted(request.query_params)))

    @app.post("/letters/replay")
    async def replay(request: Request) -> JSONResponse:
        given = await object_of(request)
        ids = given.get("ids") or []
        return JSONResponse(await operations.replay(ids, _letters_wanted(given)))

    @app.get("/letters/{letter_id}")
    async def letter(letter_id: str) -> JSONResponse:
        return JSONResponse(await operations.letter(letter_id))

    @app.get("/bus/halted")
    async def halted() -> JSONResponse:
        return JSONResponse(operations.halted())

    @app.post("/bus/go-on")
    async def go_on(request: Request) -> JSONResponse:
        given = await object_of(request)
        partition = given.get("partition")
        if type(partition) is not int:
            raise SetupWrong("partition must be a whole number")
        return JSONResponse(await operations.go_on(text_of(given, "stream"), partition))

    @app.get("/labels")
    async def labels() -> JSONResponse:
        return JSONResponse(relabelling.described())

    @app.post("/labels")
    async def load_labels(request: Request) -> JSONResponse:
        given = await object_of(request)
        sets = await asyncio.to_thread(
            relabelling.read,
            texts_of(given, "topics"),
            list(texts_of(given, "also")),
            texts_of(given, "files"),
            packaged=given.get("packaged") is True,
        )
        if given.get("check_only") is not True:
            await relabelling.activate(sets)
        return JSONResponse({"digest": sets.digest.hex(), "value_sets": list(sets.names)})

    @app.post("/labels/relabel")
    async def relabel() -> StreamingResponse:
        return StreamingResponse(_relabelled(relabelling), media_type="application/x-ndjson")

    @app.get("/ledger/policy")
    async def ledger_policy() -> PlainTextResponse:
        return PlainTextResponse(policy(), media_type="application/json")

    @app.get("/ledger/checkpoint")
    async def ledger_checkpoint() -> PlainTextResponse:
        return PlainTextResponse(checkpoint())

    @app.get("/ledger/export")
    async def ledger_export() -> StreamingResponse:
        return StreamingResponse(export(), media_type="application/octet-stream")

    @app.post("/fsck")
    async def fsck(request: Request) -> StreamingResponse:
        given = await object_of(request)
        note = given.get("checkpoint")
        found = check(bool(given.get("deep", False)), note if isinstance(note, str) else None)
        return StreamingResponse(lines_of(found), media_type="application/x-ndjson")

    @app.post("/reindex")
    async def reindex() -> StreamingResponse:
        lines = (_line(each) async for each in operations.reindex())
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.post("/keys/rotate")
    async def rotate(request: Request) -> JSONResponse:
        given = await object_of(request)
        return JSONResponse(
            await operations.rotate(text_of(given, "institution") if "institution" in given else None)
        )

    @app.post("/backup")
    async def make_backup(request: Request) -> JSONResponse:
        return JSONResponse(await backup(Path(text_of(await object_of(request), "to"))))

    return app


def lines_of(found: Iterator[Finding | Progress]) -> Iterator[bytes]:
    """Return a check as NDJSON: ``progress`` and ``finding`` as they come, ``done`` with the count at the end."""
    findings = 0
    for item in found:
        if isinstance(item, Finding):
            findings += 1
            yield _line({"finding": {"place": item.place, "what": item.what}})
        else:
            yield _line({"progress": item.text})
    yield _line({"done": {"findings": findings}})


async def _relabelled(relabelling: RelabelLine) -> AsyncIterator[bytes]:
    """Return a run as NDJSON: ``progress`` after each chart, ``done`` at the end, ``refused`` if it cannot begin."""
    last: dict[str, Any] = {}
    try:
        async for progress in relabelling.run():
            last = asdict(progress)
            yield _line({"progress": last})
    except SetupWrong as refused:
        yield _line({"refused": str(refused)})
        return
    yield _line({"done": last})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _letters_wanted(given: Mapping[str, Any]) -> LettersWanted:
    since, until = _instant(given, "since"), _instant(given, "until")
    if since is not None and until is not None and since >= until:
        raise SetupWrong("since must be before until: nothing was received in between")
    return LettersWanted(given.get("institution"), given.get("reason"), since, until)


def _instant(given: Mapping[str, Any], name: str) -> int | None:
    """Read an ISO 8601 time with its zone, as µs since 1970; None where there is none."""
    text = given.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise SetupWrong(f"{name} must be a time with its zone, such as 2026-11-29T08:00:00Z")
    return microseconds(moment)


def _preview(processed: Processed) -> dict[str, Any]:
    return {
        "entries": [
            {
                "index": record.index,
                "type": record.type,
                "id": record.id,
                "changes": json.loads(record.lineage),
                "body": record.content.decode(),
            }
            for record in (each.whole for each in processed.records)
        ],
        QUARANTINED: [{"index": q.index, "issues": [asdict(i) for i in q.issues]} for q in processed.quarantined],
        "refused": [asdict(i) for i in processed.refused]
        + [asdict(i) | {"index": r.index} for r in processed.refusals for i in r.issues],
    }
