"""Ask both servers one question and say how their answers differ, in a few words that a table can name.

Compared are: refused or not, the ids of all matches over all pages, their
order where the question asks for one, the ids of what is included, and totals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from tests.peers.hapi.questions import Question

Get = Callable[[str], httpx.Response]
_MOST_PAGES = 2_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a server answered: HTTP status and, of a success, ids in order, included ids, total."""

    status: int
    matches: tuple[str, ...] = ()
    included: frozenset[str] = frozenset()
    total: int | None = None

    @property
    def is_answered(self) -> bool:
        """True if it was no refusal."""
        return self.status == 200


def ask(get: Get, question: Question) -> Found:
    """Return what a server finds, all pages of it."""
    path: str | None = question.path if _names(question, "_count") else f"{question.path}&_count=1000"
    matches: list[str] = []
    included: set[str] = set()
    total = None
    for number in range(_MOST_PAGES):
        assert path is not None
        answer = get(path)
        if answer.status_code != 200:
            return Found(answer.status_code)
        bundle = json.loads(answer.content)
        total = bundle.get("total") if number == 0 else total
        for entry in bundle.get("entry", ()):
            name = f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
            mode = entry.get("search", {}).get("mode", "match")
            matches += [name] if mode == "match" else []
            included |= {name} if mode == "include" else set()
        path = next((link["url"] for link in bundle.get("link", ()) if link["relation"] == "next"), None)
        if path is None:
            break
        path = f"?{urlsplit(path).query}" if "/fhir?" in path else path
    return Found(200, tuple(matches), frozenset(included - set(matches)), total)


def difference(question: Question, ours: Found, theirs: Found) -> str | None:
    """Say how two answers differ; None if they do not. What is asked for, not how it was said, counts."""
    if not ours.is_answered and not theirs.is_answered:
        return None
    if not ours.is_answered:
        return f"ours refuses ({ours.status})"
    if not theirs.is_answered:
        return f"theirs refuses ({theirs.status})"
    if set(ours.matches) != set(theirs.matches):
        return _sets("matches", set(ours.matches), set(theirs.matches))
    if len(ours.matches) != len(set(ours.matches)) or len(theirs.matches) != len(set(theirs.matches)):
        return "a match comes twice"
    if question.is_ordered and ours.matches != theirs.matches:
        return "order"
    if ours.included != theirs.included:
        return _sets("included", set(ours.included), set(theirs.included))
    # A server need not tell a total that nobody asked for.
    if None not in (ours.total, theirs.total) and ours.total != theirs.total:
        return f"total: ours {ours.total}, theirs {theirs.total}"
    return None


def _names(question: Question, parameter: str) -> bool:
    return any(name == parameter for name, _ in question.pairs)


def _sets(what: str, ours: set[str], theirs: set[str]) -> str:
    more, fewer = len(ours - theirs), len(theirs - ours)
    if more and fewer:
        return f"{what}: both have others ({more}, {fewer} of {len(theirs)})"
    return f"{what}: ours has more ({more})" if more else f"{what}: ours has fewer ({fewer} of {len(theirs)})"
