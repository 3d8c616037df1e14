"""``rules``: bring changed rules into use, try them on live messages first, go back, and tell who changed what."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, data_directory

app = typer.Typer(help="Bring rules into use, try them live, go back, tell who changed what.", rich_markup_mode=None)

Institution = Annotated[str, typer.Argument(help="Name of the institution.")]
Candidate = Annotated[
    str,
    typer.Argument(
        metavar="RULESET", help="Digits of a ruleset that was proposed; or a pack's folder, proposed now."
    ),
]
Author = Annotated[
    str | None, typer.Option("--author", metavar="NAME", help="Who answers for a folder that is proposed now.")
]
By = Annotated[str | None, typer.Option("--author", metavar="NAME", help="Who answers for it; else the institution.")]
Share = Annotated[str, typer.Option("--share", metavar="PERCENT", help="On how much of what comes, such as 5%.")]
_SHORT = 12


@app.command()
def propose(
    institution: Institution,
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack.")],
    author: Annotated[str, typer.Option("--author", metavar="NAME", help="Who answers for it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Compile a pack, run its examples and keep a copy; the rules in use stay as they are.

    Prints the ruleset's hash on standard output and what changes on standard error.
    """
    made = _propose(data_directory(data), institution, pack, author)
    if as_json:
        screen.print_json(made)
        return
    print(made["ruleset"])
    _tell_changes(made)


@app.command()
def approve(
    institution: Institution,
    ruleset: Annotated[str, typer.Argument(metavar="RULESET", help="Digits of a ruleset that was proposed.")],
    approver: Annotated[str, typer.Option("--approver", metavar="NAME", help="Who stands beside the author.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Say that somebody else than the author has looked at a proposal."""
    body = {"ruleset": ruleset, "approver": approver}
    made = service.post(data_directory(data), _address(institution, "approve"), body)
    _tell(
        made, as_json, f"{made['ruleset'][:_SHORT]} by {made['author']}, approved by {', '.join(made['approvers'])}"
    )


@app.command()
def activate(
    institution: Institution, ruleset: Candidate, author: Author = None, data: Data = None, as_json: AsJson = False
) -> None:
    """Put a ruleset in force: every message from now on is done by it, none by a mixture."""
    made = _order("activate", institution, ruleset, author, data, {})
    where = "was in force already" if made["height"] is None else f"in force, height {made['height']}"
    _tell(made, as_json, f"{made['ruleset'][:_SHORT]} {where}")


@app.command()
def rollback(
    institution: Institution,
    author: Annotated[str, typer.Option("--author", metavar="NAME", help="Who answers for going back.")],
    ruleset: Annotated[
        str | None, typer.Argument(metavar="[RULESET]", help="Which of the earlier ones; else the one before.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Go back to a ruleset that was in force before."""
    body = {"author": author} | ({} if ruleset is None else {"ruleset": ruleset})
    made = service.post(data_directory(data), _address(institution, "rollback"), body)
    _tell(made, as_json, f"{made['ruleset'][:_SHORT]} in force again, height {made['height']}")


@app.command()
def shadow(
    institution: Institution,
    ruleset: Candidate,
    share: Share = "10%",
    author: Author = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Have a ruleset do a share of the messages too, compare, and store nothing of it. See 'rules status'."""
    made = _order("shadow", institution, ruleset, author, data, {"share": _parts(share)})
    _tell(made, as_json, f"{made['ruleset'][:_SHORT]} runs beside the rules in force on {share} of the messages")


@app.command()
def canary(
    institution: Institution,
    ruleset: Candidate,
    share: Share = "5%",
    author: Author = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Have a ruleset do a share of the patients for real. One that does worse is withdrawn by itself."""
    made = _order("canary", institution, ruleset, author, data, {"share": _parts(share)})
    _tell(made, as_json, f"{made['ruleset'][:_SHORT]} does {share} of the patients, height {made['height']}")


@app.command()
def withdraw(institution: Institution, author: By = None, data: Data = None, as_json: AsJson = False) -> None:
    """End a shadow or a canary. To promote it instead: 'rules activate'."""
    made = service.post(data_directory(data), _address(institution, "withdraw"), {"author": author} if author else {})
    _tell(made, as_json, f"{made['ruleset'][:_SHORT]} withdrawn")


@app.command()
def status(
    institution: Annotated[str | None, typer.Argument(help="Name of the institution; else all.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show which rules are in use, who answers for them, what waits, and what a trial has found."""
    rows = service.get(data_directory(data), "/rules", institution=institution)
    if as_json:
        screen.print_json(rows)
        return
    for row in rows:
        _print_status(row)


@app.command()
def history(
    institution: Institution,
    touching: Annotated[
        str | None, typer.Option("--touching", metavar="RULE", help="Only changes of this rule, or file of the pack.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List every change of the rules in use: who, when, what it changed, and how many records each ruleset made.

    With --touching also the changed lines, and the records whose lineage names the rule.
    """
    told = service.get(data_directory(data), _address(institution, "history"), touching=touching)
    if as_json:
        screen.print_json(told)
        return
    columns = ["at", "what", "ruleset", "author", "approvers", "height", "records", "changed"]
    rows = [_history_row(row) for row in told["changes"]]
    screen.print_rows(rows, columns, as_json=False, empty="nothing has changed it")
    if touching is None:
        return
    for row in told["changes"]:
        print(f"\n{row['ruleset'][:_SHORT]} {row['at']} by {row['author']}: {row['touched']} records name {touching}")
        print("\n".join(row["lines"]), end="\n" if row["lines"] else "")


def _order(
    what: str, institution: str, ruleset: str, author: str | None, data: Path | None, more: Mapping[str, Any]
) -> Any:
    """Give an order about a ruleset; a pack's folder is proposed first."""
    directory = data_directory(data)
    if Path(ruleset).is_dir():
        if author is None:
            raise Failure(f"{ruleset} is a folder: say who answers for it (--author NAME)", exit_code=SETUP)
        made = _propose(directory, institution, Path(ruleset), author)
        _tell_changes(made)
        ruleset = made["ruleset"]
    elif author is not None:
        raise Failure("who proposed it answers for it: --author goes with a folder", exit_code=SETUP)
    return service.post(directory, _address(institution, what), {"ruleset": ruleset, **more})


def _propose(directory: Path, institution: str, pack: Path, author: str) -> Any:
    if not pack.is_dir():
        raise Failure(f"{pack} is not a folder (give the folder that holds source.yaml)", exit_code=SETUP)
    body = {"ruleset_dir": str(pack.absolute()), "author": author}
    return service.post(directory, _address(institution, "propose"), body)


def _address(institution: str, what: str) -> str:
    return f"/rules/{quote(institution, safe='')}/{what}"


def _parts(share: str) -> int:
    """Return ten-thousandths of a share in percent."""
    try:
        parts = Decimal(share.strip().removesuffix("%")) * 100
    except ArithmeticError:
        parts = Decimal(0)
    if not parts.is_finite() or not 1 <= parts <= 10_000 or parts != int(parts):
        raise Failure(f"{share!r} is no share: give 0.01% to 100%", exit_code=SETUP)
    return int(parts)


def _tell(made: Any, as_json: bool, words: str) -> None:
    screen.print_json(made) if as_json else print(words)


def _tell_changes(made: Mapping[str, Any]) -> None:
    passed = f"{made['examples']} examples pass" if made["examples"] else "it has no examples: nothing was tried"
    screen.remark(f"{made['ruleset'][:_SHORT]}: {passed}")
    for what in ("files", "rules"):
        if made["changed"][what]:
            screen.remark(f"changed {what}: {', '.join(made['changed'][what])}")
    for doubt in made.get("doubts", ()):
        screen.remark(f"the pack: {doubt}")
    for note in made["not_judged"]:
        screen.remark(f"profiles: {note}")


def _history_row(row: Mapping[str, Any]) -> dict[str, Any]:
    changed = [*row["changed"]["rules"], *row["changed"]["files"]]
    share = f" {row['share_percent']:g}%" if row["what"] == "canary" else ""
    return {
        **row,
        "ruleset": row["ruleset"][:_SHORT],
        "what": row["what"] + share,
        "approvers": ", ".join(row["approvers"]) or None,
        "height": str(row["height"]),
        "records": str(row["records"]),
        "changed": ", ".join(changed) or None,
    }


def _print_status(row: Mapping[str, Any]) -> None:
    approved = f", approved by {', '.join(row['approvers'])}" if row["approvers"] else ""
    print(f"{row['institution']}: {row['ruleset'][:_SHORT]} since {row['since']} by {row['author']}{approved}")
    for each in row["proposed"]:
        by = f", approved by {', '.join(each['approvers'])}" if each["approvers"] else ""
        print(f"  proposed {each['ruleset'][:_SHORT]} by {each['author']}{by}")
    if row["last"] is not None and row["last"]["reason"]:
        print(f"  {row['last']['what']} {row['last']['ruleset'][:_SHORT]}: {row['last']['reason']}")
    if row["watch_failure"]:
        print(f"  last save not in force: {row['watch_failure']}")
    trial = row["trial"]
    if trial is None:
        return
    share, failed = f"{trial['share_percent']:g}%", sum(trial["failed"].values())
    print(f"  {trial['kind']} {trial['ruleset'][:_SHORT]} on {share}: {trial['messages']} messages", end=", ")
    print(f"{trial['entries']} entries, {trial['worse']} taken by the rules in force alone, {failed} failed")
    columns = ("count", "what", "rule", "path", "code")
    rows = [{**each, "count": str(each["count"])} for each in trial["differences"]]
    screen.print_rows(rows, columns, as_json=False, empty="  no difference so far")
