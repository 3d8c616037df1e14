"""Read FHIRPath into a small tree.

For ``paths.py``, which runs HL7's own definitions, and for ``fhirpath``, which runs the whole language. The grammar
is that of FHIRPath N1 (https://hl7.org/fhirpath/N1/grammar.html); ``is`` and ``as`` bind looser than comparisons, as
the official test suite has it (``1 > 2 is Boolean`` is true).

Invariants:
    * what cannot be read is refused with its position, never half understood;
    * an expression nested deeper than ``MAX_DEPTH``, or whose tree is deeper than twice that, is refused, so that
      whoever walks a tree may recurse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from fhir_bridge.errors import SetupWrong

MAX_DEPTH = 100


class PathNotUnderstood(SetupWrong):
    """The expression is no FHIRPath, or lies outside what is evaluated here."""

    code = "path-not-understood"


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, integer, decimal or boolean written in the expression."""

    value: str | int | Decimal | bool


@dataclass(frozen=True, slots=True)
class Dated:
    """A date, dateTime or time as it stands after ``@``."""

    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity; ``is_word`` tells a calendar duration (``7 days``) from a unit in quotes (``7 'd'``)."""

    value: Decimal
    unit: str
    is_word: bool


@dataclass(frozen=True, slots=True)
class Nothing:
    """``{}``, the empty collection."""


@dataclass(frozen=True, slots=True)
class Variable:
    """``%name``, or ``$this`` as ``this``, ``$index`` and ``$total`` with their sign."""

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
class Index:
    """``base[at]``."""

    base: Node
    at: Node


@dataclass(frozen=True, slots=True)
class Sign:
    """``-operand`` or ``+operand``."""

    op: str
    operand: Node


@dataclass(frozen=True, slots=True)
class TypeOp:
    """``base is Type``, ``base as Type`` and the functions of the same names.

    ``op`` is ``is`` or ``as``; ``how`` is the word that was written, as ``ofType`` takes many items and ``as`` one.
    """

    op: str
    base: Node
    type: str
    how: str = "as"


@dataclass(frozen=True, slots=True)
class Binary:
    """An operator between two expressions."""

    op: str
    left: Node
    right: Node


Node = Literal | Dated | Measured | Nothing | Variable | Step | Call | Index | Sign | TypeOp | Binary

CALENDAR_UNITS = ("year", "month", "week", "day", "hour", "minute", "second", "millisecond")
_CALENDAR_WORDS = frozenset(CALENDAR_UNITS) | {f"{unit}s" for unit in CALENDAR_UNITS}
_CLOCK = r"\d\d(?::\d\d(?::\d\d(?:\.\d+)?)?)?"
_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_TOKEN = re.compile(
    r"(?P<string>'(?:[^'\\]|\\.)*')"
    rf"|@(?P<dated>T{_CLOCK}|\d{{4}}(?:-\d\d(?:-\d\d)?)?(?:T(?:{_CLOCK}(?:Z|[+-]\d\d:\d\d)?)?)?)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<quoted>`(?:[^`\\]|\\.)*`)"
    r"|(?P<variable>%\w+|%`(?:[^`\\]|\\.)*`|%'(?:[^'\\]|\\.)*'|\$this|\$index|\$total)"
    r"|(?P<op><=|>=|!=|!~|[()\[\]{}.,|&+*/=~<>-])",
    re.DOTALL,
)
# From the loosest to the tightest, FHIRPath N1 section 6.8 "Operator precedence".
_LEVELS = (
    ("implies",),
    ("or", "xor"),
    ("and",),
    ("in", "contains"),
    ("=", "~", "!=", "!~"),
    ("is", "as"),
    ("<", ">", "<=", ">="),
    ("|",),
    ("+", "-", "&"),
    ("*", "/", "div", "mod"),
)
_BINDING = {op: level for level, ops in enumerate(_LEVELS) for op in ops}
_ASSOCIATIVE = frozenset({"|", "or", "and"})
_TYPE_CALLS = {"is": "is", "as": "as", "ofType": "as"}
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPED = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", **{sign: sign for sign in "`'\"\\/"}}


@lru_cache(maxsize=8192)
def read(expression: str) -> Node:
    """Parse an expression.

    Raises:
        PathNotUnderstood: It is no FHIRPath.
    """
    reader = _Reader(_tokens(expression), expression)
    node = reader.expression(0)
    if reader.peek() is not None:
        raise reader.refusal()
    _refuse_depth(node)
    return node


def _refuse_depth(node: Node) -> None:
    """Brackets that hold long chains, one within the other, make a tree deeper than either."""
    level = [node]
    for _ in range(2 * MAX_DEPTH):
        level = [below for each in level for below in _below(each)]
        if not level:
            return
    raise PathNotUnderstood(f"nested deeper than {2 * MAX_DEPTH} levels")


def _below(node: Node) -> Iterator[Node]:
    match node:
        case Step(base) | TypeOp(_, base) if base is not None:
            yield base
        case Call(base, _, args):
            yield from args if base is None else (base, *args)
        case Index(base, at):
            yield from (base, at)
        case Sign(_, operand):
            yield operand
        case Binary(_, left, right):
            yield from (left, right)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(expression: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while True:
        blank = _BLANK.match(expression, position)
        position = blank.end() if blank else position
        if position == len(expression):
            return tokens
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise PathNotUnderstood(f"cannot read {expression!r} at {position}")
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], position))
        position = match.end()


def _unescaped(text: str) -> str:
    """What stands between the quotes, escapes replaced."""
    return _ESCAPE.sub(_escape, text[1:-1]) if "\\" in text else text[1:-1]


def _escape(match: re.Match[str]) -> str:
    sign = match[1]
    if len(sign) == 5:
        return chr(int(sign[1:], 16))
    if sign not in _ESCAPED:
        raise PathNotUnderstood(f"no escape \\{sign}; a backslash that stands for itself is written twice")
    return _ESCAPED[sign]


class _Reader:
    """Precedence climbing over tokens."""

    def __init__(self, tokens: list[_Token], expression: str) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._expression = expression

    def peek(self) -> str | None:
        """The next token's text if it can be an operator or a bracket, ``''`` for another, None at the end."""
        if self._at == len(self._tokens):
            return None
        token = self._tokens[self._at]
        return token.text if token.kind in ("op", "name") else ""

    def expression(self, level: int) -> Node:
        """An expression whose operators bind at least as tightly as ``_LEVELS[level]``."""
        self._enter()
        node = self._signed()
        links = 0
        while (binding := _BINDING.get(self.peek() or "", -1)) >= level:
            op = self._take().text
            if op in ("is", "as"):
                node = TypeOp(op, node, self._type_name())
            elif op in _ASSOCIATIVE:
                node = _balanced(op, [node, *self._operands(op, binding + 1)])
            else:
                node = Binary(op, node, self.expression(binding + 1))
            links = self._link(links)
        self._depth -= 1
        return node

    def _operands(self, op: str, level: int) -> list[Node]:
        """What stands behind an operator that was taken, and behind the same one after it."""
        operands = [self.expression(level)]
        while self.peek() == op:
            self._take()
            operands.append(self.expression(level))
        return operands

    def _signed(self) -> Node:
        if self.peek() in ("+", "-"):
            self._enter()
            op = self._take().text
            node: Node = Sign(op, self._signed())
            self._depth -= 1
            return node
        node = self._term()
        links = 0
        while self.peek() in (".", "["):
            if self._take().text == ".":
                node = self._invocation(node)
            else:
                node = Index(node, self.expression(0))
                self._expect("]")
            links = self._link(links)
        return node

    def _term(self) -> Node:
        token = self._take()
        text = token.text
        match token.kind:
            case "string":
                return Literal(_unescaped(text))
            case "number":
                return self._number(text)
            case "dated":
                return Dated(text)
            case "variable":
                return _variable(text)
            case "name" if text in ("true", "false"):
                return Literal(text == "true")
            case "name" | "quoted":
                self._at -= 1
                return self._invocation(None)
        if text == "(":
            node = self.expression(0)
            self._expect(")")
            return node
        if text == "{":
            self._expect("}")
            return Nothing()
        raise self.refusal(token)

    def _number(self, text: str) -> Node:
        following = self._tokens[self._at] if self._at < len(self._tokens) else None
        if following is not None and following.kind == "string":
            self._at += 1
            return Measured(Decimal(text), _unescaped(following.text), is_word=False)
        if following is not None and following.kind == "name" and following.text in _CALENDAR_WORDS:
            self._at += 1
            return Measured(Decimal(text), following.text, is_word=True)
        return Literal(Decimal(text) if "." in text else int(text))

    def _invocation(self, base: Node | None) -> Node:
        name = self._name(self._take())
        if self.peek() != "(":
            return Step(base, name)
        self._take()
        if name in _TYPE_CALLS:
            made = TypeOp(_TYPE_CALLS[name], base or Variable("this"), self._type_name(), name)
            self._expect(")")
            return made
        args: list[Node] = []
        while self.peek() != ")":
            args.append(self.expression(0))
            if self.peek() != ")":
                self._expect(",")
        self._expect(")")
        return Call(base, name, tuple(args))

    def _type_name(self) -> str:
        names = [self._name(self._take())]
        if self.peek() == ".":
            self._take()
            names.append(self._name(self._take()))
        return ".".join(names)

    def _name(self, token: _Token) -> str:
        if token.kind == "name":
            return token.text
        if token.kind == "quoted":
            return _unescaped(token.text)
        raise self.refusal(token)

    def _take(self) -> _Token:
        if self._at == len(self._tokens):
            raise self.refusal()
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, text: str) -> None:
        token = self._take()
        if token.text != text:
            raise self.refusal(token)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PathNotUnderstood(f"nested deeper than {MAX_DEPTH} levels")

    def _link(self, links: int) -> int:
        if links >= MAX_DEPTH:
            raise PathNotUnderstood(f"more than {MAX_DEPTH} steps in a row")
        return links + 1

    def refusal(self, token: _Token | None = None) -> PathNotUnderstood:
        """The error that names where reading stopped."""
        if token is None and self._at < len(self._tokens):
            token = self._tokens[self._at]
        where = "its end" if token is None else str(token.at)
        return PathNotUnderstood(f"cannot read {self._expression!r} at {where}")


def _balanced(op: str, operands: list[Node]) -> Node:
    """Operands of an associative operator as a low tree: a list of a thousand codes is no deep expression."""
    if len(operands) == 1:
        return operands[0]
    middle = (len(operands) + 1) // 2
    return Binary(op, _balanced(op, operands[:middle]), _balanced(op, operands[middle:]))


def _variable(text: str) -> Variable:
    if text == "$this":
        return Variable("this")
    if text[0] == "$":
        return Variable(text)
    return Variable(_unescaped(text[1:]) if text[1] in "`'" else text[1:])
