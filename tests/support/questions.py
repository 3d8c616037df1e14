"""Asks many questions of the FHIR API and masks in the answers what is random or a clock, nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.service import FHIR_JSON, Service

# A time of now; times of the records themselves are dated before 2026 and carry an offset.
_INSTANT = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(?:Z|\+00:00)")
_HTTP_DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_BUNDLE_ID = re.compile(rb'"id":"[0-9a-f]{32}"')
_CURSOR = re.compile(rb"_cursor=[A-Za-z0-9_.%~-]+")
_PORT = re.compile(rb"127\.0\.0\.1(?::|%3A)\d+")
_OWN_ID = "x-request-id"
"""Header that is another for each answer, by docs/access.md; its length is compared."""


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request below ``/fhir``."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def put_for(self, old: str, new: str) -> Question:
        """Return the question with one text instead of another, wherever it stands."""
        body = self.body.replace(old.encode(), new.encode())
        headers = tuple((name, value.replace(old, new)) for name, value in self.headers)
        return Question(self.method, self.path.replace(old, new), body, headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers without ``Date`` and the answer's own id, and body, as far as two answers must agree."""

    status: int
    headers: tuple[tuple[str, bytes], ...]
    body: bytes


def ask(service: Service, headers: Mapping[str, str], question: Question, *masked: str) -> Answer:
    """Ask and return the masked answer; ``masked`` are ids and versions that the question itself names."""
    sent = {**headers, **dict(question.headers)}
    if question.body:
        sent.setdefault("Content-Type", FHIR_JSON)
    got = service.http.request(question.method, f"/fhir/{question.path}", headers=sent, content=question.body)
    kept = sorted(
        (name.lower(), b"(%d)" % len(value) if name.lower() == _OWN_ID else mask(value.encode(), *masked))
        for name, value in got.headers.items()
        if name.lower() != "date"
    )
    return Answer(got.status_code, tuple(kept), mask(got.content, *masked))


def mask(content: bytes, *masked: str) -> bytes:
    """Mask clocks, the random id of a Bundle, cursors, the port, and the given texts."""
    for pattern, shown in (
        (_INSTANT, b"(now)"),
        (_HTTP_DATE, b"(now)"),
        (_BUNDLE_ID, b'"id":"(bundle)"'),
        (_CURSOR, b"_cursor=(cursor)"),
        (_PORT, b"(host)"),
    ):
        content = pattern.sub(shown, content)
    for text in masked:
        content = content.replace(text.encode(), b"(asked)")
    return content


def difference(one: Answer, other: Answer) -> str:
    """Say where two answers part, for whoever reads a failed test."""
    if one.status != other.status:
        return f"status {one.status} against {other.status}"
    if one.body == other.body:
        return f"headers {set(one.headers) ^ set(other.headers)}"
    at = next((i for i, (a, b) in enumerate(zip(one.body, other.body, strict=False)) if a != b), 0)
    shown = slice(max(at - 150, 0), at + 150)
    return f"at {at} of {len(one.body)}, {len(other.body)}:\n  {one.body[shown]!r}\n  {other.body[shown]!r}"
