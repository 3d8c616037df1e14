"""Read the FHIRPath that HL7's own definitions use into a small tree.

For ``paths.py``, which turns the tree into closures. This is the subset that invariants and search parameters
of FHIR R4 need (FHIRPath 1.0 grammar, https://hl7.org/fhirpath/N1/grammar.html): no indexers, dates, units or
arithmetic beyond ``+`` and ``&``. What lies outside is refused when the expression is read, never half understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fhir_bridge.errors import SetupWrong


class PathNotUnderstood(SetupWrong):
    """The expression lies outside the subset that this engine evaluates."""

    code = "path-not-understood"


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, integer or boolean written in the expression."""

    value: str | int | bool


@dataclass(frozen=True, slots=True)
class Variable:
    """``%name`` or ``$this``."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """``base.name``; without a base a child of the context (or the context's own type name)."""

    base: Node | None
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """``base.name(args)``; without a base a function of the context."""

    base: Node | None
    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class TypeOp:
    """``base is Type``, ``base as Type`` and the functions of the same names."""

    op: str
    base: Node
    type: str


@dataclass(frozen=True, slots=True)
class Binary:
    """An operator between two expressions."""

    op: str
    left: Node
    right: Node


Node = Literal | Variable | Step | Call | TypeOp | Binary

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\.)*')|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<variable>%\w+|\$this)|(?P<op><=|>=|!=|[().,|&+=<>-]))"
)
# From the loosest to the tightest, FHIRPath N1 section 6.8 "Operator precedence".
_LEVELS = (
    ("implies",),
    ("or", "xor"),
    ("and",),
    ("in", "contains"),
    ("=", "!="),
    ("<", ">", "<=", ">="),
    ("|",),
    ("is", "as"),
    ("+", "&"),
)
_TYPE_CALLS = {"is": "is", "as": "as", "ofType": "as"}


@lru_cache(maxsize=8192)
def read(expression: str) -> Node:
    """Parse an expression.

    Raises:
        PathNotUnderstood: It lies outside the subset.
    """
    reader = _Reader(_tokens(expression), expression)
    node = reader.level(0)
    if reader.peek() is not None:
        raise PathNotUnderstood(f"cannot read all of {expression!r}")
    return node


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens, position, text = [], 0, expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise PathNotUnderstood(f"cannot read {expression!r} at {position}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return tokens


class _Reader:
    """Recursive descent over tokens; one method a grammar rule."""

    def __init__(self, tokens: list[tuple[str, str]], expression: str) -> None:
        self._tokens = tokens
        self._at = 0
        self._expression = expression

    def peek(self) -> str | None:
        """The next token's text, or None at the end."""
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def level(self, depth: int) -> Node:
        """An expression whose operators bind at least as tightly as ``_LEVELS[depth]``."""
        if depth == len(_LEVELS):
            return self._invocations()
        node = self.level(depth + 1)
        while self.peek() in _LEVELS[depth]:
            op = self._take()[1]
            if op in ("is", "as"):
                node = TypeOp(op, node, self._type_name())
            else:
                node = Binary(op, node, self.level(depth + 1))
        return node

    def _invocations(self) -> Node:
        node = self._term()
        while self.peek() == ".":
            self._take()
            node = self._invocation(node)
        return node

    def _term(self) -> Node:
        group, text = self._take()
        if group == "string":
            return Literal(re.sub(r"\\(.)", r"\1", text[1:-1]))
        if group == "number":
            return Literal(int(text))
        if group == "variable":
            return Variable(text[1:])
        if text == "(":
            node = self.level(0)
            self._expect(")")
            return node
        if text in ("true", "false"):
            return Literal(text == "true")
        if group == "name":
            self._at -= 1
            return self._invocation(None)
        raise self._refusal()

    def _invocation(self, base: Node | None) -> Node:
        group, name = self._take()
        if group != "name":
            raise self._refusal()
        if self.peek() != "(":
            return Step(base, name)
        self._take()
        if name in _TYPE_CALLS:
            made = TypeOp(_TYPE_CALLS[name], base or Variable("this"), self._type_name())
            self._expect(")")
            return made
        args: list[Node] = []
        while self.peek() != ")":
            args.append(self.level(0))
            if self.peek() == ",":
                self._take()
        self._expect(")")
        return Call(base, name, tuple(args))

    def _type_name(self) -> str:
        group, name = self._take()
        if group != "name":
            raise self._refusal()
        return name

    def _take(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise self._refusal()
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, text: str) -> None:
        if self._take()[1] != text:
            raise self._refusal()

    def _refusal(self) -> PathNotUnderstood:
        return PathNotUnderstood(f"cannot read {self._expression!r}")
