"""Hunt for leaks: worlds by seed, cases by channel, differences shrunk and shown.

Run as ``python -m tests.leak.hunt`` (``make leak-hunt``); docs/leak-hunt.md
says what the figures mean. The test suite runs a stretch of it, and runs it
against copies of the code that hold planted leaks.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.leak.channels import CHANNELS, MADE_FOR, begging, consents_asked, emergency_doors
from tests.leak.pairs import Difference, Pair, open_pair, writes
from tests.leak.scene import Case
from tests.support.worlds import Script, Send
from tests.support.worlds_scripts import make_script
from tests.support.worlds_service import Host

CASES_A_PAIR = 300
FEW_CASES_A_PAIR = 40
"""When one difference is enough: more worlds, fewer questions of each."""

SHRINKING_WORLDS = 24
_GC_THRESHOLDS = (50_000, 20, 50)

_SELDOM = {13: consents_asked, 21: begging}
"""Asked towards the end of each world, some times; more often when the hunt is for their channel."""


@dataclass(slots=True)
class Tally:
    """Cases tried, those among them that got an answer (2xx), and differences found, by channel."""

    cases: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    differences: Counter[int] = field(default_factory=Counter)
    found: list[tuple[int, Difference]] = field(default_factory=list)
    entries: int = 0
    worlds: int = 0
    first: tuple[int, int] | None = None
    """World of the first difference, and how many cases had been tried in it."""

    def json(self) -> str:
        """Return all figures for another program."""
        counts = {"cases": self.cases, "answered": self.answered, "differences": self.differences}
        first = None if self.first is None else dict(zip(("seed", "cases"), self.first, strict=True))
        return json.dumps(counts | {"entries": self.entries, "worlds": self.worlds, "first": first})

    def lines(self) -> list[str]:
        """Return the table that a run prints."""
        head = [f"{'channel':>7}  {'cases':>7}  {'answered':>8}  differences"]
        rows = [f"{n:>7}  {self.cases[n]:>7}  {self.answered[n]:>8}  {self.differences[n]}" for n in sorted(CHANNELS)]
        total = f"{'all':>7}  {self.cases.total():>7}  {self.answered.total():>8}  {self.differences.total()}"
        return [*head, *rows, total, f"{self.worlds} pairs of worlds, {self.entries} entries compared"]


def hunt_pair(
    host: Host, seed: int, count: int, tally: Tally, *, channel: int | None = None, first: bool = False
) -> None:
    """Make the worlds of a seed and ask up to ``count`` questions.

    Args:
        channel: Ask of this channel every second time, and pass over worlds that are not made for it if others are.
        first: Stop at the first difference.
    """
    script = make_script(seed)
    if channel in MADE_FOR | {11} and channel not in script.flavours:
        return
    tally.worlds += 1
    with _running(host, script, count, channel) as (pair, cases):
        for number, (case, status, difference) in enumerate(pair.compare_all(cases), 1):
            tally.cases[case.channel] += 1
            tally.answered[case.channel] += status < 300
            if difference is not None:
                tally.differences[case.channel] += 1
                tally.found.append((seed, difference))
                tally.first = tally.first or (seed, number)
                if first:
                    break
        tally.entries += pair.entries


def keeps_consents(seed: int) -> bool:
    """Tell whether the second world of a seed has the consents as they are: in half of the worlds of each kind."""
    return (seed // 10 if seed % 10 == 8 else seed) % 2 == 0


@contextmanager
def _running(host: Host, script: Script, count: int, channel: int | None) -> Iterator[tuple[Pair, list[Case]]]:
    with open_pair(host, script, keep_consents=keeps_consents(script.seed)) as (pair, start):
        cases = list(_cases(pair, count, channel))
        pair.warm([case for case in cases if case.twice], start.until)
        start.finish()
        yield pair, cases


def _cases(pair: Pair, count: int, channel: int | None) -> Iterator[Case]:
    scene = pair.scene
    open_to = [n for n in CHANNELS if n not in MADE_FOR or n in pair.script.flavours]
    weighted = open_to + [n for n in pair.script.flavours for _ in range(6)]
    if channel in open_to:
        weighted += [channel] * len(weighted)
    doors = 0 if pair.script.policies is None else count // 10
    begged = count // (4 if channel in _SELDOM else 20)
    made = 0
    while made < count - doors - begged:
        case = CHANNELS[scene.random.choice(weighted)](scene)
        # Where its own records are closed to it, an institution still knows what it sent itself.
        if pair.script.are_own_closed and writes(case):
            continue
        made += 1
        yield case
    for _ in range(begged):
        yield _SELDOM.get(channel or 0, scene.random.choice(list(_SELDOM.values())))(scene)
    for _ in range(doors):
        yield emergency_doors(scene)


# --- shrinking


def shrunk(host: Host, seed: int, difference: Difference) -> tuple[Script, Difference]:
    """Return a smaller world and a simpler question that still differ; the given ones if nothing smaller does."""
    script = make_script(seed)
    again = _try(host, script, difference.case)
    if again is None:
        where = f"(only after the questions before it in world {seed}) {difference.where}"
        return script, Difference(difference.case, where)
    left = SHRINKING_WORLDS
    changed = True
    while changed and left > 0:
        changed = False
        for smaller in _smaller(script):
            left -= 1
            found = _try(host, smaller, again.case)
            if found is not None:
                script, again, changed = smaller, found, True
                break
            if left == 0:
                break
    return script, again


def _try(host: Host, script: Script, case: Case) -> Difference | None:
    """Return the difference of the simplest form of a question that differs in fresh worlds."""
    try:
        with open_pair(host, script, keep_consents=keeps_consents(script.seed)) as (pair, start):
            pair.warm([case], start.until)
            start.finish()
            for simpler in _simpler(case):
                found = pair.compare(simpler)
                if found is not None:
                    return found
    except AssertionError:
        # A part was taken out that the rest needs.
        return None
    return None


def _simpler(case: Case) -> Iterator[Case]:
    """Yield forms of a case with fewer parameters, the case itself last."""
    if case.begun:
        yield case
        return
    path, _, criteria = case.question.path.partition("?")
    params = criteria.split("&") if criteria else []
    for keep in range(1, len(params)):
        yield replace(case, question=replace(case.question, path=f"{path}?{'&'.join(params[:keep])}"))
    for out in range(1, len(params)):
        rest = "&".join(params[:out] + params[out + 1 :])
        yield replace(case, question=replace(case.question, path=f"{path}?{rest}"))
    yield case


def _smaller(script: Script) -> Iterator[Script]:
    """Yield scripts with half of some message, or a whole step, left out."""
    for number, step in enumerate(script.steps):
        if isinstance(step, Send) and len(step.versions) > 2:
            half = len(step.versions) // 2
            for kept in (step.versions[:half], step.versions[:1] + step.versions[half:]):
                if len(kept) < len(step.versions):
                    yield _with(script, number, replace(step, versions=kept))


def _with(script: Script, number: int, step: Send) -> Script:
    steps = list(script.steps)
    steps[number] = step
    return replace(script, steps=tuple(steps))


def told(host: Host, seed: int, difference: Difference, *, shrink: bool = True) -> str:
    """Return a difference for whoever has to mend it."""
    script, smallest = shrunk(host, seed, difference) if shrink else (make_script(seed), difference)
    question = smallest.case.question
    records = sum(len(step.versions) for step in script.steps if isinstance(step, Send))
    return (
        f"channel {smallest.case.channel}, seed {seed}, {script.who}, {records} versions\n"
        f"  {question.method} {question.path} {question.headers} {question.body[:200]!r}\n  {smallest.where}"
    )


# --- command


def run(
    host: Host,
    *,
    seed: int,
    stride: int,
    limit: int | None,
    channel: int | None,
    first: bool,
    tell: Callable[[str], None],
) -> Tally:
    """Hunt by seed until ``limit`` cases are tried, or for ever."""
    tally, began, told_at = Tally(), time.monotonic(), 0.0
    while limit is None or tally.cases.total() < limit:
        most = FEW_CASES_A_PAIR if first else CASES_A_PAIR
        left = most if limit is None else min(most, limit - tally.cases.total())
        before = len(tally.found)
        hunt_pair(host, seed, left, tally, channel=channel, first=first)
        for each in tally.found[before : before + 3]:
            tell(told(host, *each, shrink=not first))
        if first and tally.found:
            break
        if time.monotonic() - told_at > 10:
            told_at = time.monotonic()
            rate = tally.cases.total() / (told_at - began)
            tell(f"seed {seed}: {tally.cases.total()} cases, {tally.differences.total()} differences, {rate:.0f}/s")
        seed += stride
    return tally


def main() -> int:
    """Hunt as the command line says; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Ask pairs of worlds the same questions and compare the answers.")
    parser.add_argument("--seed", type=int, default=0, help="first world")
    parser.add_argument("--stride", type=int, default=1, help="distance between worlds, for several processes")
    parser.add_argument("--cases", type=int, help="stop after so many cases; without it, go on and on")
    parser.add_argument("--channel", type=int, help="this channel above all")
    parser.add_argument("--first", action="store_true", help="stop at the first difference")
    parser.add_argument("--json", action="store_true", help="print the tally as JSON, as the last line")
    parser.add_argument("--template", type=Path, help="start from the directory that another host made")
    asked = parser.parse_args()

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # What is loaded stays, and the collector would walk through it again and again: a quarter of a short hunt.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    host = Host(asked.template)
    try:
        tally = run(
            host,
            seed=asked.seed,
            stride=asked.stride,
            limit=asked.cases,
            channel=asked.channel,
            first=asked.first,
            tell=tell,
        )
    finally:
        host.close()
    if asked.json:
        print(tally.json())
    else:
        print("\n".join(tally.lines()))
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
