"""Verbs that judge, tell the time or leave the language: reject, quarantine, timezone, call."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.local_times import LOCAL_TIME, NoSuchTime, offset_of
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.functions import FUNCTIONS
from fhir_bridge.normalize.verb_args import MAP, SIBLING, TARGET, TEXT, Act, Arg, Args, Verb, one_of

ISSUE_CODES = (
    "invalid",
    "structure",
    "required",
    "value",
    "invariant",
    "business-rule",
    "code-invalid",
    "not-supported",
    "incomplete",
)


def _reject(args: Args) -> Act:
    return _verdict(args, "fatal")


def _quarantine(args: Args) -> Act:
    return _verdict(args, "error")


def _verdict(args: Args, severity: str) -> Act:
    issue = Issue(severity, args.choice("code", ISSUE_CODES, "business-rule"), args.text("text"))

    def act(draft: Draft) -> None:
        raise Unconvertible(issue)

    return act


def _timezone(args: Args) -> Act:
    """Give times without an offset that of another zone than the source's; the text stays else."""
    place, by = args.place("path"), args.bench.by
    try:
        zone = ZoneInfo(args.text("zone"))
    except (ZoneInfoNotFoundError, ValueError):
        raise args.values.require("zone").spot.broken("not an IANA time zone") from None

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            before = found.value
            if type(before) is str and LOCAL_TIME.fullmatch(before):
                try:
                    found.parent[found.key] = after = before + offset_of(before, zone)
                except NoSuchTime as wrong:
                    raise Unconvertible(Issue("error", "value", str(wrong), found.place)) from None
                draft.changed(by, found.place, before, after)

    return act


def _call(args: Args) -> Act:
    make: Callable[[Args], Act] = args.named("function", FUNCTIONS, "function")
    return make(args)


_VERDICT = {"code": one_of(*ISSUE_CODES).maybe(), "text": TEXT}
VERBS = {
    "reject": Verb(_VERDICT, _reject, "stops the record: it is kept sealed, counted, and not served"),
    "quarantine": Verb(_VERDICT, _quarantine, "stops the record: it is kept sealed, counted, and not served"),
    "timezone": Verb(
        {"path": TARGET, "zone": TEXT},
        _timezone,
        "gives times that have no offset that of another zone than the source's time_zone",
    ),
    "call": Verb(
        {
            "function": Arg("function", tuple(FUNCTIONS)),
            "map": MAP.maybe(),
            "path": TARGET.maybe(),
            "child": TEXT.maybe(),
            "type": TEXT.maybe(),
            "codes": MAP.maybe(),
            "wider": MAP.maybe(),
            "concept": TEXT.maybe(),
            "reference": TEXT.maybe(),
            "part": SIBLING.maybe(),
            "yes": TEXT.maybe(),
            "no": TEXT.maybe(),
        },
        _call,
        "hands the record to a registered function",
    ),
}
