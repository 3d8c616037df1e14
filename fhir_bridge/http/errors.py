"""Every error as an OperationOutcome, so that a sender knows what to change and a stranger learns nothing."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Send

from fhir_bridge.errors import (
    AccessRefused,
    AnswerCutOff,
    BridgeError,
    Busy,
    CodingUnsupported,
    FormatUnacceptable,
    IntegrityBroken,
    Issue,
    MediaUnsupported,
    MessageLate,
    MessageTooLong,
    NotAuthenticated,
    NotFound,
    NotYet,
    PreconditionFailed,
    RecordRefused,
    RulesetBroken,
    SetupWrong,
    TypeUnknown,
    Unavailable,
    VersionConflict,
)
from fhir_bridge.http.bodies import CODINGS
from fhir_bridge.lines.reply import Reply, outcome_reply
from fhir_bridge.telemetry import logger

_log = logger("http")


def reply_to(error: BridgeError) -> Reply:
    """Return the answer that an error of ours becomes."""
    match error:
        case VersionConflict() | PreconditionFailed():
            return outcome_reply(412, error.issues)
        case FormatUnacceptable():
            return outcome_reply(406, error.issues)
        case CodingUnsupported():
            return outcome_reply(415, error.issues, (("Accept-Encoding", ", ".join(CODINGS)),))
        case MediaUnsupported():
            return outcome_reply(415, error.issues)
        case TypeUnknown():
            return outcome_reply(404, error.issues)
        case MessageLate():
            # The rest of the body may still come: it is no request (RFC 9110 section 15.5.9).
            return outcome_reply(408, error.issues, (("Connection", "close"),))
        case MessageTooLong():
            return outcome_reply(413, error.issues)
        case RecordRefused():
            return outcome_reply(400, error.issues)
        case NotAuthenticated():
            challenge = (("WWW-Authenticate", 'Bearer realm="fhir-bridge"'),)
            return outcome_reply(401, [Issue("error", "login", "a valid access token is needed")], challenge)
        case NotFound():
            return outcome_reply(404, [Issue("error", "not-found", "no such resource")])
        case AccessRefused():
            return outcome_reply(403, [Issue("error", "forbidden", str(error))])
        case Busy():
            retry = (("Retry-After", str(error.retry_after_s)),)
            return outcome_reply(429, [Issue("error", "throttled", str(error))], retry)
        case NotYet():
            later = (("Retry-After", str(error.retry_after_s)),)
            return outcome_reply(503, [Issue("error", "transient", str(error))], later)
        case Unavailable():
            return outcome_reply(503, [Issue("error", "transient", str(error))], (("Retry-After", "1"),))
        case SetupWrong() | RulesetBroken():
            return outcome_reply(400, [Issue("error", "invalid", str(error))])
        case IntegrityBroken():
            _log.error("integrity broken", code=error.code)
            return outcome_reply(500, [Issue("fatal", "exception", "stored data failed its check; nothing is shown")])
        case _:
            _log.error("unexpected error", code=error.code)
            return outcome_reply(500, [Issue("fatal", "exception", f"internal error ({error.code})")])


class _Blocks(StreamingResponse):
    """A chunked body that, when it is cut off, lacks its last chunk, which RFC 9112 section 8 calls incomplete."""

    async def stream_response(self, send: Send) -> None:
        """Send the blocks; the server closes the connection of an answer that it did not see the end of."""
        with contextlib.suppress(AnswerCutOff):
            await super().stream_response(send)


def as_response(reply: Reply) -> Response:
    """Turn a reply into bytes on the wire; the server leaves out the body where HEAD asked."""
    if reply.stream is not None:
        response: Response = _Blocks(reply.stream, status_code=reply.status, media_type=None)
    else:
        response = Response(content=reply.body, status_code=reply.status, media_type=None)
    if reply.body or reply.stream is not None:
        response.headers["Content-Type"] = reply.content_type
    for name, value in reply.headers:
        response.headers.append(name, value)
    return response


def _methods(request: Request, first: str) -> str:
    """Return all methods an address takes (RFC 9110 section 10.2.1); ``first`` names those of one of its routes."""
    routes = [each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE]
    others = (method for each in routes for method in getattr(each, "methods", None) or ())
    return ", ".join(sorted({*first.split(", "), *others}))


def install(app: FastAPI) -> None:
    """Answer every failure of ``app`` with an OperationOutcome."""

    async def ours(request: Request, error: Exception) -> Response:
        return as_response(reply_to(error if isinstance(error, BridgeError) else BridgeError(str(error))))

    async def routing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        code = {404: "not-found", 405: "not-supported"}.get(status, "processing")
        reply = outcome_reply(status, [Issue("error", code, "no such interaction at this address")])
        first = (getattr(error, "headers", None) or {}).get("Allow")
        return as_response(reply if first is None else replace(reply, headers=(("Allow", _methods(request, first)),)))

    async def misread(request: Request, error: Exception) -> Response:
        # What FastAPI would tell repeats the value that it could not read.
        return as_response(
            outcome_reply(400, [Issue("error", "invalid", "a parameter is missing or has a bad value")])
        )

    async def unforeseen(request: Request, error: Exception) -> Response:
        _log.error("unforeseen error", code=type(error).__name__)
        return as_response(outcome_reply(500, [Issue("fatal", "exception", "internal error")]))

    app.add_exception_handler(BridgeError, ours)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(Exception, unforeseen)
