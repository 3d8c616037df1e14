"""``map ask``: what a FHIRPath expression selects, before a rule's ``when`` depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fhir_bridge.cli import messages, screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson

_COLUMNS = ("file", "record", "type", "value")


def ask(
    expression: Annotated[str, typer.Argument(help="FHIRPath, as in a rule's 'when'.")],
    files: Annotated[list[str], typer.Argument(help="Resources or bundles, one a file or one a line; - for stdin.")],
    on: Annotated[str, typer.Option("--on", help="Ask records of this type only, as a rule's 'on' does.")] = "",
    release: Annotated[str, typer.Option("--release", help="R4, R4B, R5 or STU3: whose elements it names.")] = "R4",
    as_json: AsJson = False,
) -> None:
    """Show what an expression selects in records; of a bundle its entries. Nothing is stored.

    Without --on every record is asked whose type has what the expression names. Exit code 1 if a record cannot answer
    (it holds several items where one is wanted), 2 if the expression is none, or fits no record.
    """
    from fhir_bridge.fhir.fhirpath import PathFailed

    asking = _Asking(expression, on, release)
    rows: list[dict[str, Any]] = []
    failed = 0
    for name in files:
        for resource in _records(name):
            record = f"{resource['resourceType']}/{resource.get('id', '')}"
            try:
                rows += [{"file": name, "record": record, **row} for row in asking.rows(resource)]
            except PathFailed as problem:
                failed += 1
                screen.remark(f"{record}: {problem}")
    if not asking.asked:
        raise Failure(asking.problem or "no record of that type", exit_code=SETUP)
    screen.print_rows(rows, _COLUMNS, as_json=as_json, empty="nothing is selected")
    screen.remark(f"{asking.asked} records asked, {failed} could not answer, {len(rows)} items")
    if failed:
        raise typer.Exit(FAILED)


class _Asking:
    """One expression, compiled for each type of record that comes."""

    def __init__(self, expression: str, only: str, release: str) -> None:
        from fhir_bridge.fhir.tables import definitions_of
        from fhir_bridge.model.ingest import FhirVersion

        if release not in FhirVersion.__members__:
            raise Failure("--release is R4, R4B, R5 or STU3", exit_code=SETUP)
        self._expression, self._only = expression, only
        self._definitions = definitions_of(release)
        self._compiled: dict[str, Any] = {}
        self.asked = 0
        self.problem = ""

    def rows(self, resource: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Type and value of each item that the expression selects in a record that it fits."""
        type_name = resource["resourceType"]
        if self._only not in ("", type_name):
            return
        if type_name not in self._compiled:
            self._compiled[type_name] = self._compile(type_name)
        expression = self._compiled[type_name]
        if expression is not None:
            self.asked += 1
            for item in expression.select(resource):
                yield _row(item)

    def _compile(self, type_name: str) -> Any:
        from fhir_bridge.fhir.fhirpath import PathNotUnderstood, compile_expression

        if type_name not in self._definitions.resource_types():
            self.problem = self.problem or "a record is of no type of that release"
            return None
        try:
            return compile_expression(self._expression, type_name, self._definitions)
        except PathNotUnderstood as problem:
            self.problem = self.problem or str(problem)
            return None


def _row(item: Any) -> dict[str, Any]:
    from fhir_bridge.fhir.fhirpath import Node, type_of
    from fhir_bridge.fhir.fhirpath.values import text_of
    from fhir_bridge.fhir.json import render

    if isinstance(item, Node):
        value = item.value if item.value is not None else item.beside
        shown = value if type(value) is str else render(value).decode()
    else:
        shown = text_of(item) or str(item)
    return {"type": type_of(item), "value": shown}


def _records(name: str) -> Iterator[dict[str, Any]]:
    from fhir_bridge.errors import RecordRefused
    from fhir_bridge.fhir.json import parse

    with messages.opened(name) as (found, _):
        for number, message in enumerate(found, 1):
            try:
                body = parse(message)
            except RecordRefused as refusal:
                raise Failure(f"{name}:{number}: {refusal.issues[0].diagnostics}") from refusal
            if body.get("resourceType") == "Bundle":
                held = body.get("entry")
                entries = [each for each in held if type(each) is dict] if type(held) is list else []
                yield from filter(_is_resource, (each.get("resource") for each in entries))
            elif _is_resource(body):
                yield body


def _is_resource(value: Any) -> bool:
    return type(value) is dict and type(value.get("resourceType")) is str
