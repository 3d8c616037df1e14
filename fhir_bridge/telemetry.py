"""Structured logs without personal data: one JSON object a line on standard error.

Callers pass codes, counts and durations; there is no argument for free text
about a record, so none can slip in. What libraries log is free text, and a
traceback's last line may quote a record: of theirs only the library's name and
the kind of error are written.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TypedDict, Unpack

_request: ContextVar[str] = ContextVar("request", default="")


class Fields(TypedDict, total=False):
    """Everything that a line may tell beside its event: names of ours and numbers."""

    code: str
    """An error's public code, or the name of its class."""
    institution: str
    """The name it is registered under."""
    task: str
    bus: str
    port: int
    batch: int
    charts: int
    messages: int
    offset: int
    partition: int
    partitions: int
    times: int
    versions: int


class Logger:
    """Writes events of one part of the service."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(f"fhir_bridge.{part}")

    def info(self, event: str, **fields: Unpack[Fields]) -> None:
        """Report something an operator may want to know."""
        self._log.info(event, extra={"fields": fields})

    def error(self, event: str, **fields: Unpack[Fields]) -> None:
        """Report something an operator has to look at."""
        self._log.error(event, extra={"fields": fields})


def logger(part: str) -> Logger:
    """Return the logger of a part, such as ``ingest``."""
    return Logger(part)


@contextmanager
def during(request: str) -> Iterator[None]:
    """Let every line that is written meanwhile, in this task and those it begins, name a request by its id."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def configure(level: str = "INFO") -> None:
    """Send the bridge's logs to standard error as JSON lines, and of libraries' warnings their kind alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger("fhir_bridge")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(_KindAlone())
    logging.getLogger().handlers = [others]
    logging.getLogger().setLevel(logging.WARNING)
    # Python's own warnings too, which would be lines that are no JSON.
    logging.captureWarnings(True)
    for noisy in ("aiokafka", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _head(record) | {"event": record.getMessage()} | getattr(record, "fields", {})
        return json.dumps(line)


class _KindAlone(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = record.exc_info[0] if record.exc_info else None
        line = _head(record) | {"event": "library", "code": record.levelname if kind is None else kind.__name__}
        return json.dumps(line)


def _head(record: logging.LogRecord) -> dict[str, str]:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    head = {"at": moment, "level": record.levelname.lower(), "part": record.name.removeprefix("fhir_bridge.")}
    request = _request.get()
    return head | {"request": request} if request else head
