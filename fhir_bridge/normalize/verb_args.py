"""What a verb is, and how it reads its arguments with a complaint for every mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, replace
from typing import Any

from fhir_bridge.fhir.releases import type_in_r4
from fhir_bridge.fhir.tables import Definitions
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.places import Place, compile_place
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.yaml_text import Mapping, Node, did_you_mean

Act = Callable[[Draft], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a rule is compiled against.

    Attributes:
        type_name: Resource type the rule works on.
        releases: Definitions in which its paths may stand.
        constants: What ``%source.name`` means.
    """

    by: By
    type_name: str
    releases: tuple[Definitions, ...]
    tables: Tables
    constants: AnyMapping[str, str]


@dataclass(frozen=True, slots=True)
class Args:
    """The arguments of one verb in one rule."""

    values: Mapping
    bench: Bench

    def place(self, key: str) -> Place:
        """A required path."""
        node = self.values.require(key)
        return compile_place(node.text(key), self.bench.type_name, self.bench.releases, node.spot)

    def sibling(self, key: str) -> str:
        """A required element name, to stand where another one stood."""
        node = self.values.require(key)
        name = node.text(key)
        known = _element_names(self.bench.type_name, self.bench.releases)
        if name not in known:
            raise node.spot.broken(f"{self.bench.type_name} has no {name!r}{did_you_mean(name, known)}")
        return name

    def text(self, key: str) -> str:
        """A required text; ``%source.name`` is replaced."""
        node = self.values.require(key)
        return replaced(node.text(key), self.bench.constants, node)

    def optional_text(self, key: str) -> str | None:
        """A text, or None."""
        return self.text(key) if self.values.get(key) is not None else None

    def choice(self, key: str, options: tuple[str, ...], default: str | None = None) -> str:
        """One of ``options``."""
        node = self.values.get(key)
        if node is None and default is not None:
            return default
        node = node or self.values.require(key)
        if node.value not in options:
            meant = did_you_mean(str(node.value), options)
            raise node.spot.broken(f"{key!r} must be one of {', '.join(options)}{meant}")
        return str(node.value)

    def choices(self, key: str, options: tuple[str, ...]) -> frozenset[str]:
        """Some of ``options``, in a list; none where the argument is left out."""
        node = self.values.get(key)
        given = list(node.items(f"{key!r}")) if node is not None else []
        for each in given:
            if each.value not in options:
                meant = did_you_mean(str(each.value), options)
                raise each.spot.broken(f"{key!r} lists some of {', '.join(options)}{meant}")
        return frozenset(str(each.value) for each in given)

    def json(self, key: str) -> Any:
        """A required JSON value; ``%source.name`` is replaced in its texts."""
        node = self.values.require(key)
        return _replaced_within(node.plain(), self.bench.constants, node)

    def named(self, key: str, known: AnyMapping[str, Any], what: str) -> Any:
        """The table of this name."""
        node = self.values.require(key)
        name = node.text(key)
        if name not in known:
            raise node.spot.broken(f"no {what} {name!r}{did_you_mean(name, known)}")
        return known[name]


@dataclass(frozen=True, slots=True)
class Arg:
    """What an argument of a verb may hold; the editors' schema, lint and the guide are made from it.

    Attributes:
        kind: ``path``, ``sibling`` (name of an element), ``text``, ``value`` (any JSON), ``choice``, ``choices`` (a
            list of them), or the kind of thing that it names: ``map``, ``unit table``, ``label table``, ``function``.
        options: What a choice may be.
        writes: The element that it names is what the verb changes.
        needed: False where it may be left out.
    """

    kind: str
    options: tuple[str, ...] = ()
    writes: bool = False
    needed: bool = True

    def maybe(self) -> Arg:
        """The same argument where it may be left out."""
        return replace(self, needed=False)


PATH = Arg("path")
TARGET = Arg("path", writes=True)
SIBLING = Arg("sibling")
TEXT = Arg("text")
VALUE = Arg("value")
MAP, UNIT_TABLE, LABEL_TABLE = Arg("map"), Arg("unit table"), Arg("label table")


def one_of(*options: str) -> Arg:
    """An argument that is one of these words."""
    return Arg("choice", options)


def some_of(*options: str) -> Arg:
    """An argument that is a list of some of these words."""
    return Arg("choices", options)


@dataclass(frozen=True, slots=True)
class Verb:
    """One word of the rule language.

    Attributes:
        args: Its arguments by name.
        does: What it does, in a line; editors and the guide show it.
        either: Groups of arguments of which one must be given whole.
    """

    args: AnyMapping[str, Arg]
    make: Callable[[Args], Act]
    does: str
    either: tuple[tuple[str, ...], ...] = ()


def _element_names(type_name: str, releases: tuple[Definitions, ...]) -> frozenset[str]:
    """Keys of a resource type and of its parts; a part may bear another name in the other release."""
    own = (type_name, type_in_r4(type_name))
    return frozenset().union(*(definitions.part_keys(own) for definitions in releases))


_CONSTANT = re.compile(r"%source\.(\w+)")


def _replaced_within(value: Any, constants: AnyMapping[str, str], node: Node) -> Any:
    if type(value) is dict:
        return {k: _replaced_within(v, constants, node) for k, v in value.items()}
    if type(value) is list:
        return [_replaced_within(v, constants, node) for v in value]
    return replaced(value, constants, node) if type(value) is str else value


def replaced(text: str, constants: AnyMapping[str, str], node: Node, *, quoted: bool = False) -> str:
    """Put the constants of ``source.yaml`` in place of ``%source.name``.

    Args:
        quoted: Write them as FHIRPath string literals.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in constants:
            raise node.spot.broken(f"source.yaml has no constant {name!r}{did_you_mean(name, constants)}")
        found = constants[name]
        return "'" + found.replace("\\", "\\\\").replace("'", "\\'") + "'" if quoted else found

    return _CONSTANT.sub(value, text)
