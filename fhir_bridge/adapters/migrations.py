"""Steps between a store's layouts, one after another, each named; a store's stamp says which layout it has.

A store of an older layout is brought up when it is opened to write; down again
only when an operator asks, for an older fhir-bridge that is to open it.

Invariants:
    * whatever number of steps, they and the stamp are one transaction: a store is of one layout or of the other;
    * a step is SQL that SQLite and PostgreSQL both take;
    * a step that changes rows of the vault would have to note them in its journal; none does so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fhir_bridge.errors import SetupWrong


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the layout below to layout ``to``; ``down`` is None where data does not allow the way back."""

    to: int
    name: str
    up: Sequence[str]
    down: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done: from which layout to which, by which steps."""

    before: int
    after: int
    steps: tuple[str, ...]


class Writing(Protocol):
    """A connection inside a transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Any:
        """Run one statement."""
        ...


def bring(connection: Writing, migrations: Sequence[Migration], to: int, *, what: str) -> None:
    """Bring a store whose stamp is known to be its own to layout ``to``.

    Args:
        connection: Inside a transaction, which the caller commits.
        migrations: All there are, by layout.

    Raises:
        SetupWrong: There is no such layout, or no way down to it; nothing is changed.
    """
    newest = migrations[-1].to if migrations else 1
    if not 1 <= to <= newest:
        raise SetupWrong(f"the {what} has no layout {to}: this fhir-bridge knows 1 to {newest}")
    found = int(connection.execute("SELECT version FROM stamp").fetchone()[0])
    for step in migrations:
        if found < step.to <= to:
            _run(connection, step.up)
    for step in reversed(migrations):
        if to < step.to <= found:
            if step.down is None:
                raise SetupWrong(f"the {what} cannot go below layout {step.to} ({step.name}): restore a backup")
            _run(connection, step.down)
    if found != to:
        connection.execute("UPDATE stamp SET version = ?", (to,))


def _run(connection: Writing, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)
