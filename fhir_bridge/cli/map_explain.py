"""``map explain``: where a value of a record comes from; asked of the service, tried on a file, or proved offline."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_bridge.cli import csv_files, messages, screen, service
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory

if TYPE_CHECKING:
    from fhir_bridge.normalize import Ruleset
    from fhir_bridge.ports.formats import SourceFormat
    from ledger_core import Outcome

PROVED, REFUSED, UNAUTHENTICATED, UNUSABLE = 0, 1, 2, 3
_PARTS = ("original", "record.json", "lineage.json")


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECORD|FILE] [PATH]", help="What to explain, and which element; all without one."),
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(
            "--pack",
            help="Try this rule pack on a FILE that is stored nowhere; - for stdin. With --receipt: what read a row.",
        ),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", help="Explain exported parts and prove them: receipt.json, the others beside it."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="With --receipt: whom to trust; without it, nobody vouches.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder to make for the parts that prove it. It will hold personal data."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say where a value comes from: the bytes that were sent, the rules in order, the value.

    RECORD is Type/id or Type/id/_history/version, PATH an element such as valueQuantity.value or code.coding[1].code.
    Exit code 1 if the lineage does not give the record. With --receipt: 0 proved, 1 refused, 2 not authenticated,
    3 unreadable.
    """
    words = words or []
    if receipt is not None:
        _prove(receipt, policy, pack, _path(words, 0), as_json)
        return
    if not words:
        raise Failure("which record? (Type/id, with --pack a file, or give --receipt)", exit_code=SETUP)
    subject, path = words[0], _path(words, 1)
    if pack is not None:
        told = _tried(pack, subject, path)
    else:
        told = service.get(data_directory(data), "/map/explain", record=subject, element=path)
    parts = told.pop("parts", {})
    if to is not None:
        _write(to, parts)
    _tell(told, as_json)
    if not told["accounts"]:
        raise typer.Exit(FAILED)


def _path(words: list[str], at: int) -> str:
    if len(words) > at + 1:
        raise Failure(f"{words[at + 1]!r} is one word too many", exit_code=SETUP)
    return words[at] if len(words) > at else ""


def _tried(pack: Path, file: str, path: str) -> dict[str, Any]:
    """Explain what a pack makes of a resource, which is stored nowhere: ids and references stay the sender's."""
    if not (pack / "source.yaml").is_file():
        raise Failure(f"{pack} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)
    from fhir_bridge.errors import RecordRefused
    from fhir_bridge.fhir.json import parse, render
    from fhir_bridge.normalize import described, load_ruleset, preview, rules_of
    from fhir_bridge.normalize import explain as explained

    rules = load_ruleset(pack)
    told = None
    try:
        for original, resource in _sent(pack, file, rules):
            made = preview(resource, rules.fhir_version, rules)
            # Through bytes, so that what is compared is what would be stored.
            told = explained(original, parse(render(made.body)), made.changes, path, rules.formats)
            if told.statements:
                break
    except RecordRefused as refusal:
        raise Failure("; ".join(f"{issue.code}: {issue.diagnostics}" for issue in refusal.issues)) from refusal
    except (KeyError, ValueError) as wrong:
        raise Failure(f"{file} is not one resource, or the path cannot be read ({wrong})", exit_code=SETUP) from wrong
    if told is None:
        raise Failure(f"{file}: no row gives a record", exit_code=SETUP)
    if not told.statements:
        raise Failure("the record has no such element, and none was sent: try a shorter path", exit_code=SETUP)
    return {"ruleset": rules.hash, **described(told, rules_of(rules))}


def _sent(pack: Path, file: str, rules: Ruleset) -> Iterator[tuple[bytes, Any]]:
    """The resource in a file, or the records of the first row that gives any, with what they were made of.

    Raises:
        RecordRefused: What is to be the first is none.
    """
    from fhir_bridge.errors import RecordRefused
    from fhir_bridge.fhir.json import parse

    if not csv_files.is_csv(file, csv_files.Format.AUTO):
        with messages.opened(file) as (found, _):
            original = next(found, b"")
        yield original, parse(original)
        return
    for piece, content_type in csv_files.cut(file, csv_files.format_in(pack), 1):
        parts = [each for form in rules.formats for each in form.read(piece, content_type, sys.maxsize)]
        for drawn in parts:
            if drawn.resource is None:
                raise RecordRefused(drawn.issues)
            yield drawn.original, drawn.resource
        if parts:
            return


def _prove(receipt: Path, policy: Path | None, pack: Path | None, path: str, as_json: bool) -> None:
    from fhir_bridge.errors import SetupWrong
    from fhir_bridge.lines.explaining import explained, prove
    from fhir_bridge.normalize import described
    from ledger_core import LedgerError, Policy

    try:
        text = receipt.read_text("utf-8")
        original, record, lineage = ((receipt.parent / name).read_bytes() for name in _PARTS)
        trusted = None if policy is None else Policy.decode(policy.read_text("utf-8"))
    except (OSError, ValueError, LedgerError) as cause:
        print(f"error: cannot read {getattr(cause, 'filename', None) or 'a file'}: {type(cause).__name__}")
        raise typer.Exit(UNUSABLE) from cause
    try:
        outcome = prove(text, original=original, record=record, lineage=lineage, policy=trusted)
        formats = () if pack is None else _formats_of(pack, str(outcome.facts.get("ruleset")))
        told = explained(original, record, lineage, path, formats)
    except (LedgerError, SetupWrong) as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}")
        raise typer.Exit(REFUSED) from refusal
    facts = {
        name: str(fact) for name, fact in outcome.facts.items() if name in ("id", "version", "ruleset", "origin")
    }
    shown = {"proof": _proof(outcome, accounts=told.accounts), **facts, **described(told, {})}
    _tell(shown, as_json)
    if not told.accounts:
        raise typer.Exit(REFUSED)
    raise typer.Exit(PROVED if trusted is not None else UNAUTHENTICATED)


def _formats_of(pack: Path, bound: str) -> tuple[SourceFormat, ...]:
    """What read a row, from the very pack that a record is bound to.

    Raises:
        SetupWrong: It is another pack.
    """
    from fhir_bridge.errors import SetupWrong
    from fhir_bridge.fhir.value_set_files import packaged_sets
    from fhir_bridge.normalize import load_ruleset, ruleset_under

    rules = load_ruleset(pack)
    if ruleset_under(rules.hash, packaged_sets().digest) != bound:
        raise SetupWrong(
            f"{pack} is not the pack that the record is bound to, or value sets of the network's own labelled it"
        )
    return rules.formats


def _proof(outcome: Outcome, *, accounts: bool) -> dict[str, Any]:
    """Say what the receipt proves and what it does not."""
    follows = "each span, value and step that is told follows from these bytes"
    names = sorted({name for each in outcome.vouchers.values() for name in each})
    return {
        "vouched": outcome.vouched,
        "by": names,
        "log": outcome.checkpoint.origin,
        "size": outcome.checkpoint.size,
        "proved": [
            "original, record and lineage are, byte for byte, the parts of one record on this log",
            "the record is bound to this ruleset's hash",
            *([follows] if accounts else []),
        ],
        "not_proved": [
            "that the sender sent this original: its own signature would, see 'signed export'",
            "that the rules are right: read them, or run the pack of this hash on the original",
            *([] if accounts else ["that the record follows from the original: the lineage leaves something out"]),
        ],
    }


def _write(to: Path, parts: Mapping[str, str]) -> None:
    if not parts:
        raise Failure("there is nothing to prove about what is stored nowhere (leave out --to)", exit_code=SETUP)
    try:
        to.mkdir(mode=0o700, parents=True)
        for name, content in parts.items():
            (to / name).write_bytes(base64.b64decode(content))
    except OSError as wrong:
        raise Failure(f"{to} cannot be written ({wrong.strerror})", exit_code=SETUP) from wrong
    screen.remark(f"parts in {to}; check them with: fhir-bridge map explain --receipt {to}/receipt.json PATH")


def _tell(told: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        screen.print_json(told)
        return
    for number, statement in enumerate(told["statements"]):
        if number:
            print()
        for line in _said(statement):
            print(line)
    for line in _about(told):
        screen.remark(line)


def _said(statement: Mapping[str, Any]) -> Iterator[str]:
    from fhir_bridge.normalize import MEANS, Kind

    kind, source = statement["kind"], statement["source"]
    yield f"{statement['element']} = {statement['value']}"
    yield f"  {kind}: {MEANS[Kind(kind)]}"
    if source is not None and "part" in source:
        yield f"  sent as {source['part']} of the row, read into {source['element']}"
    elif source is not None and "start" in source:
        yield f"  sent as {source['element']}, bytes {source['start']} to {source['end']}: {source['text']}"
    elif source is not None:
        yield f"  sent as {source['element']}"
    for step in statement["rules"]:
        where = ", ".join(
            [
                *([step["place"]] if step.get("place") else []),
                *([f"version {step['version']}"] if step.get("version") is not None else []),
            ]
        )
        yield f"  by {step['rule']}" + (f" ({where})" if where else "") + f": {step['reason']}"
        if step.get("table"):
            yield f"     table {step['table']}"


def _who(step: Mapping[str, Any]) -> str:
    approved = f", approved by {', '.join(step['approvers'])}" if step["approvers"] else ""
    height = "" if step["height"] is None else f", on the ledger at height {step['height']}"
    return f"{step['what']} {step['at']} by {step['author']}{approved}{height}"


def _about(told: Mapping[str, Any]) -> Iterator[str]:
    if "record" in told:
        yield f"{told['record']} of {told['institution']}, on the ledger at height {told['height']}"
    if told.get("ruleset"):
        yield f"ruleset {told['ruleset']}"
    if told.get("answering"):
        yield _who(told["answering"])
    proof = told.get("proof")
    if proof is not None:
        by = f" by {', '.join(proof['by'])}" if proof["by"] else ""
        yield f"{proof['vouched']}{by}; log {proof['log']}, size {proof['size']}"
        yield from (f"proved: {each}" for each in proof["proved"])
        yield from (f"not proved: {each}" for each in proof["not_proved"])
    if not told["accounts"]:
        yield "the lineage does not give this record: what is called untold has no account"
