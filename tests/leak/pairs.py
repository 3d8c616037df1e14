"""A pair of worlds that is asked the same questions: one holds what the requester may not see, one never did.

answer(q, D, who) == answer(q, visible(D, who), who)
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from tests.leak.scene import JSON, Case, Question, Scene
from tests.support.worlds import ASKING, Script, Version, Warm, Who, instant_of
from tests.support.worlds_oracle import visible
from tests.support.worlds_scripts import Numbered, without_hidden
from tests.support.worlds_service import BASE, Host, Names, Twin, written_policies

MAX_PAGES = 80
_TICK = timedelta(milliseconds=1)
AT_ONCE = 8
"""Cases that are compared side by side; the services then write their access logs in groups."""

_CURSOR = re.compile(rb"_cursor=([A-Za-z0-9_.~%-]+)")
_REQUEST_ID = re.compile(rb'("identifier":\{"value":")[0-9a-f]{32}"')
_DECISION = re.compile(rb'("name":"request","valueString":")[0-9a-f]{32}"')
_EVENT_ID = re.compile(rb'("id":"|AuditEvent/)[0-9a-f]{32}"')
_HEIGHT = re.compile(rb'("type":"height","valueString":)"\d+"')
_QUERY = re.compile(rb'"query":"([A-Za-z0-9+/=]+)"')
# As tests/support/worlds_records.py writes the display of a reference to a clinical record: it is in both worlds,
# so that comparing would not show it, and must be in no answer.
_CANARY = re.compile(rb"about [a-z]{3}-[a-z]{2}\d{3}|Disp[a-z]{2}\d{3}")
_OPENING = b'{\n  "format": "fhir-bridge/decision-opening/1"'
_RECEIPT = b'"format": "ledger-core/receipt/v1"'


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, masked: status, headers without ``Date``, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """A case whose answers differ, and where."""

    case: Case
    where: str


@dataclass(frozen=True, slots=True)
class _Page:
    answer: Answer
    following: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class _Whole:
    """All pages together: entries in order, as text, and every total that was stated."""

    entries: tuple[str, ...]
    totals: frozenset[int | None]


@dataclass(frozen=True, slots=True)
class _Begun:
    """What was shown of a question before the world changed.

    Attributes:
        shown: Entries of the first page.
        following: The link that was to go on.
        until: When the last thing was stored before the change.
    """

    shown: frozenset[str]
    following: str
    until: datetime


class Pair:
    """Two worlds, made and running."""

    def __init__(self, host: Host, script: Script, full: Twin, less: Twin, scene: Scene) -> None:
        self._host = host
        self.script = script
        self.full = full
        self.less = less
        self.scene = scene
        self._begun: dict[Case, _Begun] = {}
        self.entries = 0
        """Entries seen in answers, so that a run that compared nothing with nothing shows."""

    def compare_all(self, cases: Sequence[Case]) -> Iterator[tuple[Case, int, Difference | None]]:
        """Compare cases, several at a time where nothing is written; yield each with the status of its answer.

        In order for a patient, whose access log tells in which order its records were read.
        """
        waiting: list[Case] = []
        for case in [*cases, None]:
            is_alone = case is None or writes(case) or self.script.who.person is not None
            if waiting and (is_alone or len(waiting) == AT_ONCE):
                yield from self._host.run(self._together(waiting))
                waiting = []
            if case is not None:
                waiting.append(case)
                if is_alone:
                    yield from self._host.run(self._together(waiting))
                    waiting = []

    async def _together(self, cases: Sequence[Case]) -> list[tuple[Case, int, Difference | None]]:
        found = await asyncio.gather(*(self._compare(case) for case in cases))
        return [(case, *each) for case, each in zip(cases, found, strict=True)]

    def compare(self, case: Case) -> Difference | None:
        """Ask both worlds; return where their answers part."""
        return self._host.run(self._compare(case))[1]

    async def _compare(self, case: Case) -> tuple[int, Difference | None]:
        for question in self._before(case):
            await self._ask_both(question)
        for who in self._others(case):
            for twin in (self.full, self.less):
                await self._ask(twin, replace(case.question, token=(await twin.token(who))["Authorization"]))
        if case.begs:
            return await self._compare_begging(case)
        if case in self._begun:
            return await self._compare_rest(case, self._begun[case])
        asked = case.question, case.question
        one, other = await self._ask_both(case.question)
        status = one.answer.status
        plain = Question("GET", "", token=case.question.token)
        for page in range(MAX_PAGES):
            if _CANARY.search(one.answer.body):
                shown = _CANARY.search(one.answer.body)
                return status, Difference(case, f"page {page}: a display towards a clinical record, {shown}")
            if one.answer != other.answer:
                return status, Difference(case, f"page {page}: {_parting(one.answer, other.answer)}")
            self.entries += one.answer.body.count(b'"fullUrl"')
            if case.again and await self._parts_from_itself(case, asked, (one, other)):
                return status, Difference(case, f"page {page}: another answer when asked again")
            if not case.follows or one.following is None or other.following is None:
                break
            # Each world has its own cursors, equal in all but their bytes.
            asked = replace(plain, path=one.following), replace(plain, path=other.following)
            one, other = await self._ask(self.full, asked[0]), await self._ask(self.less, asked[1])
        return status, await self._compare_receipts(case, one, other) if case.proves else None

    async def _compare_receipts(self, case: Case, one: _Page, other: _Page) -> Difference | None:
        """Compare the receipts of the decisions behind two answers."""
        shown = []
        for twin, page in ((self.full, one), (self.less, other)):
            await twin.close_epoch()
            path = f"AuditEvent/$decision-receipt?request={page.request_id}"
            shown.append((await self._ask(twin, Question("GET", path, token=case.question.token))).answer)
        if shown[0] == shown[1]:
            return None
        return Difference(case, f"receipt of the decision: {_parting(*shown)}")

    async def _compare_begging(self, case: Case) -> tuple[int, Difference | None]:
        """Let others ask, then ask for what is kept of their decisions; nobody gets another's."""
        own, told = self.scene.own_patient(), []
        for twin in (self.full, self.less):
            ids = []
            for who in self._strangers():
                asked = replace(case.question, token=(await twin.token(who))["Authorization"])
                ids.append((await self._ask(twin, asked)).request_id)
            await twin.close_epoch()
            paths = [f"AuditEvent/$decision-receipt?request={each}" for each in ids]
            paths += [f"Patient/{own}/$decision-opening?request={each}" for each in ids]
            paths.append(f"Patient/{own}/$decisions?_count=1000")
            told.append([(await self._ask(twin, Question("GET", path))).answer for path in paths])
        for one, other in zip(*told, strict=True):
            if one != other:
                return one.status, Difference(case, f"what others were told: {_parting(one, other)}")
        return told[0][-1].status, None

    def _strangers(self) -> list[Who]:
        """Return whose receipts are none of the requester's, as far as both worlds have them."""
        asks = self.script.who
        others = [Who("harbor"), Who(ASKING, "dr-b" if asks.practitioner == "dr-a" else "dr-a")]
        others += [Who(None, person=person) for person in ("P", "Q")]
        return [who for who in others if who != asks and self._has(who)]

    async def _parts_from_itself(
        self, case: Case, asked: tuple[Question, Question], told: tuple[_Page, _Page]
    ) -> bool:
        once_more = await self._ask(self.full, asked[0]), await self._ask(self.less, asked[1])
        return any(new.answer != old.answer for new, old in zip(once_more, told, strict=True))

    async def _compare_rest(self, case: Case, begun: _Begun) -> tuple[int, Difference | None]:
        """Go on by a cursor from before a change; the world that never held what is hidden begins anew.

        What follows must be what that one shows, without what was shown before the change.
        """
        first = await self._ask(self.less, case.question)
        other = await self._to_the_end(self.less, first)
        onward = await self._ask(self.full, Question("GET", begun.following, token=case.question.token))
        one = await self._to_the_end(self.full, onward)
        status = onward.answer.status
        if status != first.answer.status or (status != 200 and onward.answer.body != first.answer.body):
            return status, Difference(case, f"after the change: {_parting(onward.answer, first.answer)}")
        self.entries += len(one.entries)
        # A cursor goes on in the state that its first page was answered from.
        known = [entry for entry in other.entries if _stored_at(entry) <= begun.until]
        expected = tuple(entry for entry in known if entry not in begun.shown)
        if one.entries != expected:
            told, due = (sorted(set(a) - set(b)) for a, b in ((one.entries, expected), (expected, one.entries)))
            return status, Difference(case, f"after the change: {told[:2]} and not {due[:2]}, or another order")
        if one.totals - {None, len(known)}:
            return status, Difference(case, f"after the change: totals {one.totals} against {len(known)}")
        return status, None

    async def _to_the_end(self, twin: Twin, page: _Page) -> _Whole:
        entries: list[str] = []
        totals: set[int | None] = set()
        for _ in range(MAX_PAGES):
            if page.answer.status == 200:
                bundle = json.loads(page.answer.body)
                entries += [json.dumps(entry) for entry in bundle.get("entry", ())]
                totals.add(bundle.get("total"))
            if page.following is None:
                break
            page = await self._ask(twin, Question("GET", page.following))
        return _Whole(tuple(entries), frozenset(totals))

    def warm(self, cases: Sequence[Case], until: datetime) -> None:
        """Ask what only reads, and throw the answers away but for the cursors that are to outlive a change.

        Args:
            until: No step that was played is younger.
        """
        for case in cases:
            if not writes(case):
                page, _ = self._host.run(self._ask_both(case.question))
                # Not for a patient, whose access log tells how often each world was asked for the next page.
                if case.begun and page.following is not None and self.script.who.person is None:
                    shown = [json.dumps(entry) for entry in json.loads(page.answer.body).get("entry", ())]
                    self._begun[case] = _Begun(frozenset(shown), page.following, until)
                    # Asked once before the change too, so that an answer that is kept would be seen again.
                    self._host.run(self._ask(self.full, Question("GET", page.following)))

    def _before(self, case: Case) -> Iterator[Question]:
        if case.twice:
            yield case.question

    def _others(self, case: Case) -> Iterator[Who]:
        if case.others_first and self.script.who.guardian is None:
            others = [Who("harbor"), Who(ASKING, "dr-a", "HRESCH"), Who(None, person="P"), Who(None, person="Q")]
            yield from (who for who in others if who != self.script.who and self._has(who))

    def _has(self, who: Who) -> bool:
        return who.person is None or all(twin.has_agent(who.person) for twin in (self.full, self.less))

    async def _ask_both(self, question: Question) -> tuple[_Page, _Page]:
        return await self._ask(self.full, question), await self._ask(self.less, question)

    async def _ask(self, twin: Twin, question: Question) -> _Page:
        headers = dict(question.headers)
        if question.token == "":
            headers |= await twin.token(self.script.who)
        elif question.token is not None:
            headers["Authorization"] = question.token
        if question.body:
            headers.setdefault(*JSON)
        if self.script.who.person is not None:
            # The access log is in order of time, and by random ids where there is none between two accesses.
            twin.clock.instant += _TICK
        told = await twin.ask(question.method, f"/fhir/{question.path}", headers, question.body)
        masked = {"date"} if question.method == "HEAD" else {"date", "content-length"}
        kept = sorted(_without_id(*each) for each in told.headers if each[0] not in masked)
        request_id = dict(told.headers).get("x-request-id", "")
        return _Page(Answer(told.status, tuple(kept), _masked(told.body, twin)), _next(told.body), request_id)


def writes(case: Case) -> bool:
    """Tell whether a question changes something."""
    question = case.question
    return question.method not in ("GET", "HEAD") and not question.path.endswith("/_search")


def _masked(body: bytes, twin: Twin) -> bytes:
    """Mask what is random or tells of the ledger's size.

    That is cursors but for their length, receipts but for their facts, heights, and ids of events and of agents.
    """
    if _RECEIPT in body[:200]:
        return _receipt(body, twin)
    if body.startswith(_OPENING):
        opened = json.loads(body)
        charts = [[each["records"], each["related"]] for each in opened["charts"]]
        facts = _receipt(opened["receipt"].encode(), twin).decode()
        grounds = json.loads(opened["receipt"])["record"]["parts"]["grounds"].get("content", "")
        return json.dumps([facts.replace(grounds, "(grounds)"), charts]).encode()
    body = _DECISION.sub(rb'\1(request)"', body)
    body = _CURSOR.sub(lambda found: b"_cursor=(%d characters)" % len(found[1]), body)
    if b"AuditEvent" in body:
        body = _REQUEST_ID.sub(rb'\1(request)"', body)
        body = _HEIGHT.sub(rb'\1"(height)"', _EVENT_ID.sub(rb'\1(event)"', body))
        body = _QUERY.sub(lambda found: b'"query":"%b"' % _CURSOR.sub(b"(cursor)", b64decode(found[1])), body)
    for text, shown in twin.private.items():
        body = body.replace(text.encode(), shown.encode())
    return _in_one_order(body) if b'"resourceType":"AuditEvent"' in body else body


def _in_one_order(body: bytes) -> bytes:
    """Order AuditEvents by what they say: those of one access, one a chart, share a time and have random ids."""
    bundle = json.loads(body)
    if bundle["resourceType"] == "Bundle":
        bundle["entry"] = sorted(json.dumps(entry) for entry in bundle.get("entry", ()))
    return json.dumps(bundle).encode()


def _receipt(body: bytes, twin: Twin) -> bytes:
    """Keep the facts of a receipt and the form of all the rest; paths, salts and checkpoint are the ledger's.

    Of a decision's parts what is opened counts too: request and names of what was shown.
    """
    for text, shown in twin.private.items():
        body = body.replace(text.encode(), shown.encode())
    parsed = json.loads(body)
    record = parsed["record"]
    facts = record["facts"]
    form = {name: sorted(part) for name, part in record["parts"].items()}
    opened: dict[str, str | None] = {}
    if facts.get("kind") == "decision":
        facts = facts | {"id": len(facts["id"]), "height": "(height)"}
        opened = {name: part.get("content") for name, part in record["parts"].items()}
    return json.dumps([sorted(parsed), parsed["claim"], sorted(record), facts, form, opened]).encode()


def _without_id(name: str, value: str) -> tuple[str, str]:
    """Mask the id of a request but for its length."""
    return (name, f"({len(value)} characters)") if name == "x-request-id" else (name, value)


def _stored_at(entry: str) -> datetime:
    parsed = json.loads(entry)
    stored = parsed["resource"]["meta"]["lastUpdated"] if "resource" in parsed else parsed["response"]["lastModified"]
    return datetime.fromisoformat(stored)


def _next(body: bytes) -> str | None:
    if b'"relation":"next"' not in body:
        return None
    links = json.loads(body).get("link", ())
    found = [link["url"] for link in links if link["relation"] == "next"]
    return found[0].removeprefix(f"{BASE}/fhir/") if found else None


def _parting(one: Answer, other: Answer) -> str:
    if one.status != other.status:
        return f"status {one.status} against {other.status}: {one.body[:300]!r} against {other.body[:300]!r}"
    if one.body == other.body:
        return f"headers {sorted(set(one.headers) ^ set(other.headers))}"
    at = next((i for i, (a, b) in enumerate(zip(one.body, other.body, strict=False)) if a != b), 0)
    shown = slice(max(at - 120, 0), at + 160)
    return f"at {at} of {len(one.body)}, {len(other.body)}:\n    {one.body[shown]!r}\n    {other.body[shown]!r}"


@contextmanager
def open_pair(
    host: Host, script: Script, *, keep_consents: bool, warm: Sequence[Case] = (), random: Random | None = None
) -> Iterator[tuple[Pair, PairStart]]:
    """Make both worlds of a script up to its :class:`Warm` step; ``PairStart.finish`` plays the rest.

    Args:
        keep_consents: See :func:`without_hidden`.
    """
    seen = visible(script)
    steps = list(enumerate(script.steps))
    less_steps = without_hidden(script, seen, keep_consents=keep_consents)
    cut = next((number for number, step in steps if isinstance(step, Warm)), len(steps))
    with ExitStack() as stack:
        names = host.learn(script)
        policies = written_policies(script, names)
        full = stack.enter_context(host.twin(f"{script.seed}-full", policies))
        less = stack.enter_context(host.twin(f"{script.seed}-less", policies))
        host.run(full.play(script, [each for each in steps if each[0] <= cut], names))
        host.run(less.play(script, [each for each in less_steps if each[0] <= cut], names))
        scene = _scene(script, names, full, seen, random or Random(script.seed))
        pair = Pair(host, script, full, less, scene)
        later = [
            (full, [each for each in steps if each[0] > cut]),
            (less, [each for each in less_steps if each[0] > cut]),
        ]
        yield pair, PairStart(host, script, names, later, instant_of(cut))


@dataclass(frozen=True, slots=True)
class PairStart:
    """What is left to be played once the warming questions have been asked."""

    host: Host
    script: Script
    names: Names
    later: list[tuple[Twin, list[Numbered]]]

    until: datetime

    def finish(self) -> None:
        """Play the rest of the script in both worlds."""
        for twin, steps in self.later:
            self.host.run(twin.play(self.script, steps, self.names))


def _scene(
    script: Script, names: Names, full: Twin, seen: set[tuple[int, tuple[str, str, str]]], random: Random
) -> Scene:
    hidden: list[tuple[Version, str]] = []
    shown: list[tuple[Version, str]] = []
    for number, version in script.versions():
        told = full.versions.get((number, version.name), "aaaabbbbccccddddeeee")
        (shown if (number, version.name) in seen else hidden).append((version, told))
    return Scene(script, names, random, hidden, shown, names.organizations)
