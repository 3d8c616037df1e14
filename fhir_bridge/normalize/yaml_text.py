"""Read YAML 1.2 so that every complaint names file, line and column.

For the loader of rule packs, whose readers are integration engineers: an error that does not say where it is
costs them more than the mistake. Values come out as plain JSON values; numbers with a fraction as ``Decimal``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from fhir_bridge.errors import RulesetBroken


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a pack's file, lines and columns counted from 1."""

    file: str
    line: int = 1
    column: int = 1

    def broken(self, message: str) -> RulesetBroken:
        """Make the error that names this place."""
        return RulesetBroken(f"{self.file}:{self.line}:{self.column} {message}")


@dataclass(frozen=True, slots=True)
class Node:
    """A YAML value and where it stands."""

    value: Any
    spot: Spot

    def mapping(self, what: str) -> Mapping:
        """This value as a mapping, or complain that ``what`` must be one."""
        if not isinstance(self.value, CommentedMap):
            raise self.spot.broken(f"{what} must be a mapping of names to values")
        return Mapping(self.value, self.spot)

    def items(self, what: str) -> Iterator[Node]:
        """The members of this list, or complain that ``what`` must be one."""
        if not isinstance(self.value, CommentedSeq):
            raise self.spot.broken(f"{what} must be a list")
        for index, item in enumerate(self.value):
            line, column = self.value.lc.item(index)
            yield Node(item, Spot(self.spot.file, line + 1, column + 1))

    def text(self, what: str) -> str:
        """This value as a string that is not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.spot.broken(f"{what} must be a text")
        return str(self.value)

    def plain(self) -> Any:
        """This value as plain JSON values."""
        return _plain(self.value, self.spot)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A YAML mapping whose keys are checked against those that are known."""

    values: CommentedMap
    spot: Spot

    def get(self, key: str) -> Node | None:
        """The value under ``key``, or None."""
        if key not in self.values:
            return None
        line, column = self.values.lc.value(key)
        return Node(self.values[key], Spot(self.spot.file, line + 1, column + 1))

    def require(self, key: str) -> Node:
        """The value under ``key``, or complain that it is missing."""
        found = self.get(key)
        if found is None:
            raise self.spot.broken(f"{key!r} is missing")
        return found

    def key_spot(self, key: str) -> Spot:
        """Where the key itself stands."""
        line, column = self.values.lc.key(key)
        return Spot(self.spot.file, line + 1, column + 1)

    def names(self) -> list[str]:
        """The keys, in order."""
        return [str(key) for key in self.values]

    def only(self, known: Iterable[str], what: str) -> None:
        """Complain about the first key that is not ``known``."""
        names = list(known)
        for key in self.values:
            if key not in names:
                raise self.key_spot(key).broken(f"unknown {what} {str(key)!r}{did_you_mean(str(key), names)}")


def load(path: Path, name: str) -> Node:
    """Read one YAML document.

    Args:
        path: The file.
        name: What errors call it.

    Raises:
        RulesetBroken: Not UTF-8, not YAML, or a key stands twice.
    """
    try:
        value = _parsed(path.read_text("utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spot = Spot(name, mark.line + 1, mark.column + 1) if mark else Spot(name)
        raise spot.broken(error.problem or "not YAML") from error
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise Spot(name).broken(f"cannot be read: {type(error).__name__}") from error
    return Node(value, Spot(name))


# Parsing is two thirds of loading a pack (2026-11), and of a pack that is loaded again nearly all is as it was.
# Whoever is given a value here must not change it.
@lru_cache(maxsize=512)
def _parsed(text: str) -> Any:
    return YAML(typ="rt").load(text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plain(value: Any, spot: Spot) -> Any:
    if isinstance(value, CommentedMap):
        return {str(k): _plain(v, spot) for k, v in value.items()}
    if isinstance(value, CommentedSeq):
        return [_plain(v, spot) for v in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return Decimal(str(value))
    raise spot.broken(f"a {type(value).__name__} has no JSON form; put it in quotes")
