"""``decision``: get the receipt or the opening of a decision, list a patient's, and decide again offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory
from fhir_bridge.cli.waiting import wait_for

app = typer.Typer(help="Receipts of decisions: proofs of what was asked and answered.", rich_markup_mode=None)

Patient = Annotated[str, typer.Option("--patient", help="Patient whose agent asks, by canonical or local id.")]
At = Annotated[str | None, typer.Option("--institution", help="With a local patient id: the institution it is of.")]
Request = Annotated[str, typer.Argument(help="X-Request-Id of the answer.")]
Out = Annotated[Path | None, typer.Option("--out", help="File to write; standard output without it.")]

SAME, REFUSED, UNAUTHENTICATED, UNUSABLE = 0, 1, 2, 3


@app.callback()
def _decision() -> None:
    """Receipts of decisions: proofs of what was asked and answered."""


@app.command()
def receipt(
    request: Request,
    institution: Annotated[str, typer.Option("--institution", help="Institution whose system asked.")],
    practitioner: Annotated[str | None, typer.Option(help="Practitioner on whose behalf it asked, if any.")] = None,
    out: Out = None,
    data: Data = None,
) -> None:
    """Write the receipt of the decision behind an answer, to the practitioner or the system that got it."""
    path = f"/fhir/AuditEvent/$decision-receipt?request={_id(request)}"
    _write(wait_for(_as_institution(data_directory(data), institution, practitioner, path)), out)


@app.command("list")
def list_decisions(
    patient: Patient,
    institution: At = None,
    count: Annotated[int, typer.Option(help="How many, the newest first.")] = 50,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List who asked about a patient and what came of it, denials included."""
    path = f"$decisions?_count={count}"
    answer = json.loads(wait_for(_as_patient(data_directory(data), patient, institution, path)))
    columns = ("request", "instant", "outcome", "institution", "practitioner", "purpose", "asked")
    rows = [_row(each["part"]) for each in answer.get("parameter", [])]
    screen.print_rows(rows, columns, as_json=as_json, empty="no decisions yet")


@app.command()
def opening(request: Request, patient: Patient, institution: At = None, out: Out = None, data: Data = None) -> None:
    """Write what a decision about a patient rested on, for the patient to keep or to hand to an auditor."""
    path = f"$decision-opening?request={_id(request)}"
    _write(wait_for(_as_patient(data_directory(data), patient, institution, path)), out)


@app.command()
def check(
    opening: Annotated[Path, typer.Argument(help="The opening.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Whom to trust; without it, nobody vouches.")
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="The requester's receipt; must be of the same decision.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check an opening offline and decide again.

    Exit code: 0 same outcome, 1 refused or another outcome, 2 not authenticated, 3 unreadable.
    """
    from fhir_bridge.errors import BridgeError
    from fhir_bridge.lines.deciding_again import decide_again
    from ledger_core import LedgerError, Policy

    try:
        text = opening.read_bytes()
        trusted = None if policy is None else Policy.decode(policy.read_text("utf-8"))
        other = None if receipt is None else receipt.read_text("utf-8")
    except (OSError, ValueError, LedgerError) as cause:
        print(f"error: cannot read a file: {type(cause).__name__}")
        raise typer.Exit(UNUSABLE) from cause
    try:
        report = decide_again(text, policy=trusted, receipt=other)
    except (BridgeError, LedgerError) as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}")
        raise typer.Exit(REFUSED) from refusal
    told = _report(report)
    if as_json:
        screen.print_json(told)
    else:
        print("\n".join(_said(told)))
    if not report.is_same:
        raise typer.Exit(REFUSED)
    raise typer.Exit(SAME if policy is not None else UNAUTHENTICATED)


def _report(report: Any) -> dict[str, Any]:
    names = ("id", "instant", "institution", "practitioner", "purpose", "height", "evaluator", "outcome", "shown")
    return {
        "outcome": report.outcome.vouched,
        "same": report.is_same,
        "decision": {name: report.facts[name] for name in names},
        "asked": report.charts[0].grounds.request.decode("utf-8", "replace"),
        "charts": [
            {
                "patient": f"Patient/{each.grounds.patient}",
                "institution": each.grounds.home,
                "basis": each.basis,
                "consents": [f"Consent/{name}/_history/{version}" for name, version in each.consents],
                "shown": [f"{kind}/{name}/_history/{version}" for kind, name, version in each.grounds.shown],
                "withheld": [f"{kind}/{name}" for kind, name in each.grounds.withheld],
                "vouched": list(each.vouched),
                "differences": list(each.differences),
            }
            for each in report.charts
        ],
    }


def _said(told: dict[str, Any]) -> list[str]:
    word = "SAME OUTCOME" if told["same"] else "ANOTHER OUTCOME"
    decision = told["decision"]
    lines = [f"{word}: decided again by {decision['evaluator']}; {told['outcome']}", f"  asked: {told['asked']}"]
    lines.append(f"  by: {decision['institution']} {decision['practitioner']} for {decision['purpose']}")
    lines.append(f"  at: {decision['instant']}, ledger height {decision['height']}")
    for each in told["charts"]:
        outcome = "permit" if each["shown"] else "deny"
        lines.append(f"  {each['patient']} at {each['institution']}: {outcome}, basis {each['basis']}")
        lines += [f"    had a say: {name}" for name in each["consents"]]
        lines += [f"    shown: {name}" for name in each["shown"]]
        lines += [f"    withheld: {name}" for name in each["withheld"]]
        proved = ", ".join(each["vouched"]) or "nothing"
        lines.append(f"    the ledger's state then proves: {proved}")
        lines += [f"    DIFFERS: {text}" for text in each["differences"]]
    return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) for line in lines]


def _row(parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        value = next(value for name, value in part.items() if name.startswith("value"))
        text = value["reference"] if isinstance(value, dict) else value
        if part["name"] in ("shown", "withheld"):
            found.setdefault(part["name"], []).append(text)
        else:
            found[part["name"]] = text
    return found


def _id(text: str) -> str:
    if len(text) != 32 or any(each not in "0123456789abcdef" for each in text):
        raise Failure("a decision is named by 32 hex digits, the X-Request-Id of its answer", exit_code=SETUP)
    return text


async def _as_patient(data: Path, patient: str, institution: str | None, path: str) -> bytes:
    from fhir_bridge.cli.tokens import as_agent

    async with as_agent(data, patient, institution) as (client, canonical):
        answer = await client.get(f"/fhir/Patient/{canonical}/{path}")
    return _good(answer)


async def _as_institution(data: Path, institution: str, practitioner: str | None, path: str) -> bytes:
    from fhir_bridge.cli.tokens import as_institution

    stated = {} if practitioner is None else {"practitioner": practitioner}
    async with as_institution(data, institution, **stated) as (client, _):
        answer = await client.get(path)
    return _good(answer)


def _good(answer: Any) -> bytes:
    if answer.status_code != 200:
        issues = json.loads(answer.content).get("issue", [])
        words = "; ".join(map(screen.issue_words, issues)) or f"answered {answer.status_code}"
        raise Failure(words, exit_code=FAILED)
    content: bytes = answer.content
    return content


def _write(content: bytes, out: Path | None) -> None:
    if out is None:
        print(content.decode(), end="")
    else:
        out.write_bytes(content)
