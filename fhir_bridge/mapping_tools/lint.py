"""Lint a pack: everything that the loader would refuse, and what it takes but nobody can have meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_bridge.errors import BridgeError
from fhir_bridge.mapping_tools.conditions import why_never
from fhir_bridge.mapping_tools.findings import CODES, Finding, found
from fhir_bridge.mapping_tools.literals import literal_findings
from fhir_bridge.mapping_tools.overlaps import overlaps
from fhir_bridge.mapping_tools.reading import PackText, core_of, read_pack
from fhir_bridge.mapping_tools.table_faults import empty_findings, table_findings
from fhir_bridge.mapping_tools.watching import watched
from fhir_bridge.normalize import load_ruleset, remaining_guesses, run_examples
from fhir_bridge.normalize.accepted import read_accepted
from fhir_bridge.normalize.guesses import COLUMN, COMMENT
from fhir_bridge.normalize.pack import SOURCE, declared, rule_files
from fhir_bridge.normalize.rules import ANY, releases_of
from fhir_bridge.normalize.table_files import GUESS
from fhir_bridge.normalize.yaml_text import Fault, Keys, Spot, did_you_mean

_CONSTANT = re.compile(r"%source\.(\w+)")
_TABLES = {"maps": "map", "units": "unit table", "labels": "label table"}
_CONFIRM = {
    f"{GUESS}: true": "take the line away; until then nothing of it is used",
    COMMENT: "take the comment away",
    COLUMN: "move what is right into the target's column and clear the rest",
}
"""Mark of a guess → what an engineer does about it."""


def lint(folder: Path, label: str = "") -> list[Finding]:
    """Return what is wrong or doubtful with the pack in ``folder``, in the order of its files.

    Args:
        label: What findings call the folder; the folder as given by default.
    """
    name = label or str(folder)
    read = read_pack(folder, name)
    core = core_of(read)
    if core is not None:
        read = read_pack(folder, name, core)
    faults = [found(fault.spot, "broken", fault.message) for fault in read.faults]
    doubts = [
        *_doubled_names(read, core),
        *_conditions(read),
        *(each for each in _overlaps(read, core) if each.file.startswith(f"{name}/")),
        *table_findings(read),
        *empty_findings(read),
        *literal_findings(read.rules),
        *_unused(read),
        *_left_out(read),
        *_guesses(read),
    ]
    if not faults and not any(each.severity == "error" for each in doubts):
        doubts += _beyond(read)
    refused = {(each.file, each.line, each.column) for each in faults}
    # A comparison of two types that are never equal is a mistake already.
    doubts = [
        each for each in doubts if each.code != "never-holds" or (each.file, each.line, each.column) not in refused
    ]
    mapped_twice = {(each.file, each.line) for each in doubts if each.code == "two-targets"}
    kept = [each for each in faults if (each.file, each.line) not in mapped_twice]
    return sorted(set(_not_accepted(read, {*kept, *doubts})))


def _not_accepted(read: PackText, findings: set[Finding]) -> Iterator[Finding]:
    """What ``source.yaml`` does not accept, and what it accepts for nothing."""
    try:
        accepted = [] if read.source is None else read_accepted(read.source)
    except Fault as fault:
        accepted = []
        yield found(fault.spot, "broken", fault.message)
    used = set()
    for each in findings:
        fitting = [a for a in accepted if a.finding == each.code and a.name in _words(each.message)]
        used.update(fitting)
        # A pack that does not work is not made to work by saying so.
        if not fitting or each.severity == "error":
            yield each
    for one in accepted:
        if one not in used:
            known = did_you_mean(one.finding, CODES) if one.finding not in CODES else ""
            yield found(one.spot, "unused-acceptance", f"lint finds no {one.finding} of {one.name}{known}")


def _words(message: str) -> set[str]:
    return {word.strip(".,:;'\"()") for word in message.split()}


def _doubled_names(read: PackText, core: PackText | None) -> Iterator[Finding]:
    seen: dict[str, Spot] = {rule.name: rule.spot for rule in (core.rules if core else ())}
    for rule in read.rules:
        first = seen.setdefault(rule.name, rule.spot)
        if first != rule.spot:
            yield found(rule.spot, "broken", f"rule {rule.name!r} already stands at {first.file}:{first.line}")


def _conditions(read: PackText) -> Iterator[Finding]:
    broken = {fault.spot for fault in read.faults}
    for rule in read.rules:
        if rule.when is None or rule.when_spot in broken:
            continue
        releases = releases_of(rule.release)
        reasons = [why_never(rule.when, "DomainResource" if t == ANY else t, releases) for t in rule.types]
        if reasons and all(reasons):
            yield found(rule.when_spot, "never-holds", f"{rule.name} never fires: {reasons[0]}")


def _overlaps(read: PackText, core: PackText | None) -> Iterator[Finding]:
    return overlaps([*(core.rules if core else ()), *read.rules], read.tables)


def _unused(read: PackText) -> Iterator[Finding]:
    """Constants and tables that no rule of the pack names."""
    if read.source is None:
        return
    texts = [path.read_text("utf-8", "replace") for path in rule_files(read.folder)]
    described = read.source.get("csv")
    named = set(_CONSTANT.findall("\n".join(texts) + ("" if described is None else str(described.value))))
    constants = read.source.get("constants")
    given = constants.mapping("constants") if constants is not None and isinstance(constants.value, Keys) else None
    for name in given.names() if given is not None else ():
        if given is not None and name not in named:
            yield found(given.key_spot(name), "unused-constant", f"no rule names %source.{name}")
    used = {text for rule in read.rules for step in rule.steps for text in step.texts.values()}
    for key, what in _TABLES.items():
        node = read.source.get(key)
        try:
            names = [] if node is None else [name for name, _ in declared(read.source, key)]
        except Fault:
            continue
        for name in names:
            if node is not None and name not in used:
                yield found(node.mapping(key).key_spot(name), "unused-table", f"no rule names the {what} {name}")


def _left_out(read: PackText) -> Iterator[Finding]:
    if read.source is not None and "time_zone" not in read.source.names() and "institution" in read.source.names():
        spot = Spot(f"{read.label}/{SOURCE}")
        yield found(spot, "no-time-zone", "time_zone is missing: in which zone do the institution's clocks run?")
    zone = None if read.source is None else read.source.get("time_zone")
    if zone is not None and isinstance(zone.value, str) and not _is_zone(zone.value):
        yield found(zone.spot, "unknown-zone", f"IANA has no time zone {zone.value!r}")
    for rule in read.rules:
        do = rule.node.mapping("a rule").get("do")
        if do is not None and do.value == []:
            yield found(do.spot, "empty-do", f"{rule.name} does nothing")
        if not rule.has_version:
            yield found(rule.spot, "no-version", f"{rule.name} has no version")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _guesses(read: PackText) -> Iterator[Finding]:
    """What ``map new`` has guessed and nobody has confirmed."""
    for guess in remaining_guesses(read.folder):
        message = f"{guess.mark} stands here still: check it, then {_CONFIRM[guess.mark]}"
        yield found(Spot(f"{read.label}/{guess.file}", guess.line), "guess", message)


def _beyond(read: PackText) -> Iterator[Finding]:
    """What shows only once the pack loads: profiles that do not, rules that no example exercises."""
    try:
        ruleset, tallies = watched(load_ruleset(read.folder))
        run_examples(read.folder, ruleset)
    except Fault as fault:
        yield found(Spot(f"{read.label}/{SOURCE}", fault.spot.line, fault.spot.column), "broken", fault.message)
        return
    except BridgeError as error:
        yield found(Spot(f"{read.label}/{SOURCE}"), "broken", str(error))
        return
    for rule in read.rules:
        # A pack's examples are of its own release: none can show a rule for another one.
        if rule.release not in (None, ruleset.fhir_version):
            continue
        if rule.types and rule.name in tallies and not tallies[rule.name].fired:
            yield found(rule.spot, "no-example", f"no example shows what {rule.name} does")
