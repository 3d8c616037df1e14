"""Structured logs without personal data: one JSON object a line on standard error.

Callers pass codes, counts and durations; there is no argument for free text
about a record, so none can slip in.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

Field = str | int | float | bool | None


class Logger:
    """Writes events of one part of the service."""

    def __init__(self, part: str) -> None:
        self._log = logging.getLogger(f"fhir_bridge.{part}")

    def info(self, event: str, **fields: Field) -> None:
        """Report something an operator may want to know."""
        self._log.info(event, extra={"fields": fields})

    def error(self, event: str, **fields: Field) -> None:
        """Report something an operator has to look at."""
        self._log.error(event, extra={"fields": fields})


def logger(part: str) -> Logger:
    """Return the logger of a part, such as ``ingest``."""
    return Logger(part)


def configure(level: str = "INFO") -> None:
    """Send the bridge's logs to standard error as JSON lines; quieten libraries that log addresses or bodies."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger("fhir_bridge")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
    for noisy in ("aiokafka", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": moment, "level": record.levelname.lower(), "part": record.name.removeprefix("fhir_bridge.")}
        return json.dumps(line | {"event": record.getMessage()} | getattr(record, "fields", {}))
