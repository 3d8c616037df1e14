"""``map schema``: the JSON Schemas with which editors complete and check rule files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from fhir_bridge.cli import screen


class Kind(StrEnum):
    """Files of a pack that have a schema."""

    RULES = "rules"
    SOURCE = "source"


def schema(
    kind: Annotated[Kind, typer.Argument(help="rules, or source for source.yaml.")] = Kind.RULES,
) -> None:
    """Print the JSON Schemas for editors.

    Put `# yaml-language-server: $schema=PATH` in a file's first line, or bind it to mappings/**/*.yaml in the editor.
    """
    from fhir_bridge.mapping_tools.schema import rules_schema, source_schema

    screen.print_json(rules_schema() if kind is Kind.RULES else source_schema())
