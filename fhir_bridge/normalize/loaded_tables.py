"""Load the tables that a pack declares, each once for each content.

For whoever loads packs: a service loads a pack again at each save, and nearly all of its tables, those of ``core``
among them, are as they were. Reading them costs more than everything else (2026-11).

Invariant:
    * what is returned is what reading the files now would give: a table is known by its declaration and the bytes of
      the files that it names, and one whose files change while it is read is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from fhir_bridge.normalize.map_files import load_map
from fhir_bridge.normalize.preferred_units import load_preferred
from fhir_bridge.normalize.table_files import inside
from fhir_bridge.normalize.tables import load_labels, load_units
from fhir_bridge.normalize.yaml_text import Fault, Mapping

TABLE_KINDS: AnyMapping[str, Callable[[str, Mapping, Path, str], Any]] = {
    "maps": load_map,
    "units": load_units,
    "labels": load_labels,
    "preferred_units": load_preferred,
}
"""Key of ``source.yaml`` and field of ``Tables`` → what reads one table of the kind."""

_FILES = ("file", "spellings")
"""Arguments of a declaration that name a file."""


def load_table(kind: str, name: str, declared: Mapping, folder: Path, pack: str) -> Any:
    """Read the table that ``source.yaml`` declares under ``name``; nobody may change it.

    Args:
        kind: One of ``TABLE_KINDS``.
        pack: What complaints call the folder.

    Raises:
        RulesetBroken: With file, line and column.
    """
    content = _content(declared, folder)
    try:
        return _loaded(_Table(kind, name, pack, content, declared, folder))
    except _Moved:
        return TABLE_KINDS[kind](name, declared, folder, pack)


@dataclass(frozen=True, slots=True)
class _Table:
    """What a table is known by, and where it is read from."""

    kind: str
    name: str
    pack: str
    content: bytes
    declared: Mapping = field(compare=False)
    folder: Path = field(compare=False)


class _Moved(Exception):
    """The files changed while they were read."""


@lru_cache(maxsize=256)
def _loaded(table: _Table) -> Any:
    made = TABLE_KINDS[table.kind](table.name, table.declared, table.folder, table.pack)
    if _content(table.declared, table.folder) != table.content:
        raise _Moved
    return made


def _content(declared: Mapping, folder: Path) -> bytes:
    """Return a digest of a declaration and of the files that it names; one that is missing counts as such."""
    hasher = blake3(json.dumps(declared.values, default=repr).encode())
    for key in _FILES:
        named = declared.get(key)
        try:
            held = b"" if named is None else inside(folder, named.text(key), named.spot).read_bytes()
            hasher.update(len(held).to_bytes(8, "big") + held)
        except (Fault, OSError, ValueError):
            # What reads the table has the words for it.
            hasher.update(b"missing")
    return hasher.digest()
