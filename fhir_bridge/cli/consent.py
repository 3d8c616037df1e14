"""``consent``: why somebody sees a record and what a change would do, for agents; signed papers, for clerks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory
from fhir_bridge.cli.waiting import wait_for

app = typer.Typer(help="Why consent decides as it does; consents signed on paper.", rich_markup_mode=None)

Patient = Annotated[str, typer.Option("--patient", help="Patient whose agent asks, by canonical or local id.")]
At = Annotated[str | None, typer.Option("--institution", help="With a local patient id: the institution it is of.")]
For = Annotated[str | None, typer.Option("--for", help="Institution the question is about; every one by default.")]
Practitioner = Annotated[str | None, typer.Option(help="Practitioner id that the requester states.")]
Purpose = Annotated[str | None, typer.Option(help="Purpose of use that the requester states; TREAT by default.")]
Role = Annotated[list[str] | None, typer.Option(help="Role that the requester states, system|code; may be repeated.")]


@app.callback()
def _consent() -> None:
    """Why consent decides as it does, for a patient's agent; consents signed on paper, for an institution's clerk."""


@app.command()
def explain(
    patient: Patient,
    record: Annotated[str | None, typer.Argument(help="Type/id; without it all records, counted by reason.")] = None,
    institution: At = None,
    about: For = None,
    practitioner: Practitioner = None,
    purpose: Purpose = None,
    role: Role = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say which rule of which consent opens or closes a record, or all records, to a requester."""
    params = _params(about, practitioner, purpose, role)
    path = None if record is None else f"{_record(record)}/$explain"
    answer = wait_for(_ask(data_directory(data), patient, institution, path, "$explain", params))
    _show(answer, as_json, _explained if record is not None else _counted)


@app.command()
def simulate(
    patient: Patient,
    draft: Annotated[Path | None, typer.Option(help="File with a draft Consent (R4 JSON); it is not stored.")] = None,
    revoke: Annotated[list[str] | None, typer.Option(help="Consent/id as if withdrawn; may be repeated.")] = None,
    institution: At = None,
    about: For = None,
    practitioner: Practitioner = None,
    purpose: Purpose = None,
    role: Role = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say what a requester sees and what a draft or a withdrawal would change. Nothing is stored or signed."""
    params = [*_params(about, practitioner, purpose, role), *(("revoke", name) for name in revoke or ())]
    body = None if draft is None else draft.read_bytes()
    answer = wait_for(_ask(data_directory(data), patient, institution, None, "$simulate", params, body))
    _show(answer, as_json, _compared)


@app.command()
def attest(
    paper: Annotated[Path, typer.Argument(help="File with the Consent (R4 JSON) that the paper says.")],
    institution: InstitutionName,
    patient: Annotated[
        str, typer.Option("--patient", help="Patient, by the institution's own id or the canonical one.")
    ],
    practitioner: Annotated[str, typer.Option(help="Practitioner id of who enters it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Enter a Consent that a patient signed on paper; it counts for this institution's own chart, on its word."""
    from fhir_bridge.cli.guardians import ask_as_clerk

    path = f"Patient/{patient}/$attest-consent"
    answer, _ = wait_for(ask_as_clerk(data_directory(data), institution, practitioner, path, paper.read_bytes()))
    if as_json:
        screen.print_json(answer)
        return
    print(f"Consent/{answer['id']}")
    screen.remark(f"in force, version {answer['meta']['versionId']}, attested by institution {institution}")


def _params(
    about: str | None, practitioner: str | None, purpose: str | None, role: Sequence[str] | None
) -> list[tuple[str, str]]:
    stated = {"institution": about, "practitioner": practitioner, "purpose": purpose}
    found = [(name, value) for name, value in stated.items() if value is not None]
    return [*found, *(("role", each) for each in role or ())]


def _record(text: str) -> str:
    type_name, _, record_id = text.partition("/")
    if not (type_name.isalpha() and record_id and "/" not in record_id):
        raise Failure("a record is named as Type/id", exit_code=SETUP)
    return text


async def _ask(
    data: Path,
    patient: str,
    institution: str | None,
    path: str | None,
    operation: str,
    params: Sequence[tuple[str, str]],
    body: bytes | None = None,
) -> dict[str, Any]:
    """Sign in as the patient's agent and ask the public API, as the agent itself would."""
    from fhir_bridge.cli.tokens import as_agent

    async with as_agent(data, patient, institution) as (client, canonical):
        target = f"/fhir/{path or f'Patient/{canonical}/{operation}'}"
        method = "GET" if body is None else "POST"
        answer = await client.request(method, target, params=list(params), content=body)
    found: dict[str, Any] = json.loads(answer.content)
    if answer.status_code != 200:
        issues = found.get("issue", [])
        raise Failure(
            "; ".join(map(screen.issue_words, issues)) or f"answered {answer.status_code}", exit_code=FAILED
        )
    return found


def _show(answer: Mapping[str, Any], as_json: bool, words: Any) -> None:
    if as_json:
        screen.print_json(answer)
        return
    for part in answer["parameter"]:
        if part["name"] == "requester":
            said = part["part"]
            stated = [
                _value(each) for each in said if each["name"] in ("institution", "practitioner", "purpose", "role")
            ]
            print(", ".join(stated))
            for line in words(said):
                print(f"  {line}")


def _explained(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one requester's answer about one record as lines."""
    lines = [f"{_only(said, 'outcome')}: {_only(said, 'rule')}"]
    for each in said:
        if each["name"] in ("decided-by", "overruled"):
            parts = each["part"]
            where = f"{_only(parts, 'consent')} at {_only(parts, 'path')}"
            lines.append(f"{each['name']} {where} (by the {_only(parts, 'recorded-by')}): {_only(parts, 'words')}")
        elif each["name"] == "no-part":
            lines.append(f"no part: {_only(each['part'], 'consent')} {_only(each['part'], 'why')}")
    return lines


def _counted(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one requester's answer about all records as lines, a group of records after another."""
    lines = []
    for each in said:
        if each["name"] == "group":
            kinds = [_kind(part) for part in each["part"] if part["name"] == "type"]
            head, *causes = _explained(each["part"])
            lines += [f"{head}: {', '.join(kinds)}", *(f"  {cause}" for cause in causes)]
    return lines


def _compared(said: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what one requester sees, gains and loses as lines."""
    lines = []
    for each in said:
        if each["name"] in ("sees", "gains", "loses"):
            kinds = [_kind(part) for part in each["part"] if part["name"] == "type"]
            lines.append(
                f"{each['name']} {_only(each['part'], 'total')}" + (f": {', '.join(kinds)}" if kinds else "")
            )
    return lines


def _kind(part: Mapping[str, Any]) -> str:
    return f"{_only(part['part'], 'count')} {_only(part['part'], 'type')}"


def _only(parts: Sequence[Mapping[str, Any]], name: str) -> str:
    return next(_value(each) for each in parts if each["name"] == name)


def _value(part: Mapping[str, Any]) -> str:
    value = next(value for name, value in part.items() if name.startswith("value"))
    return str(value["reference"] if isinstance(value, dict) else value)
