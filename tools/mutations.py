"""The small changes that make a mutant of a Python module, on its syntax tree.

For ``tools/mutate.py``. A change is named by what it does and not by where it
stands, so that a list of survivors outlives other edits of the module.

Invariants:
    * a mutant is put into the tree in place, so it belongs in a process of its own;
    * no two mutants of a module have the same name.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias


@dataclass(slots=True)
class Mutant:
    """One change: ``put`` makes it in the syntax tree; ``name`` says where and what, without line numbers.

    ``function`` is the outermost function whose code it changes, or "" when it takes effect as the module loads.
    """

    name: str
    line: int
    function: str
    put: Callable[[], None]


_TURNED: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OTHER: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_NAMES: Final = {"any": "all", "all": "any", "min": "max", "max": "min", "sorted": "list"}
# Calls whose arguments are no two values of one kind.
_UNSWAPPED: Final = frozenset({"isinstance", "getattr", "max", "min", "range", "Struct", "TypeVar", "cast", "zip"})


def replacements(node: ast.AST) -> Iterator[ast.AST | None]:
    """Yield what may stand in place of ``node``; None leaves the statement out."""
    match node:
        case ast.Compare():
            yield from _comparisons(node)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for at in range(len(values)):
                rest = [*values[:at], *values[at + 1 :]]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.BinOp():
            yield from _operations(node)
        case ast.Constant():
            yield from _constants(node)
        case ast.Call():
            yield from _calls(node)
        case ast.IfExp(body=body, orelse=other):
            yield body
            yield other
        case ast.Slice():
            yield from _slices(node)
        case ast.stmt():
            yield from _statements(node)


def _comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for at, op in enumerate(node.ops):
        for turned in _TURNED[type(op)]:
            yield ast.Compare(node.left, [*node.ops[:at], turned(), *node.ops[at + 1 :]], node.comparators)
    if len(node.ops) > 1:
        yield ast.Compare(node.left, node.ops[:-1], node.comparators[:-1])
        yield ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])


def _operations(node: ast.BinOp) -> Iterator[ast.AST]:
    if _is_union(node):
        yield node.left
        yield node.right
        return
    yield ast.BinOp(node.left, _OTHER[type(node.op)](), node.right)
    if isinstance(node.op, ast.Add) and _is_joining(node):
        yield ast.BinOp(node.right, node.op, node.left)
    if not isinstance(node.op, ast.Sub):
        yield node.left
        yield node.right


def _is_union(node: ast.BinOp) -> bool:
    names = [each for each in (node.left, node.right) if isinstance(each, ast.Name)]
    return isinstance(node.op, ast.BitOr) and any(
        name.id[0].isupper() or name.id in ("list", "tuple") for name in names
    )


def _is_joining(node: ast.expr) -> bool:
    """Tell whether a sum joins bytes or tuples rather than numbers, as far as its text shows."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_joining(node.left) or _is_joining(node.right)
    match node:
        case ast.Constant(value=bytes()) | ast.Subscript(slice=ast.Slice()):
            return True
        case ast.Name(id=name):
            return name.isupper()
    return False


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    match node.value:
        case bool(value):
            yield ast.Constant(not value)
        case int(value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case bytes(value):
            yield ast.Constant(value[:-1] + bytes([value[-1] ^ 1]) if value else b"\x01")
        case str(value):
            yield ast.Constant({"big": "little"}.get(value, value + "~"))


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in _NAMES:
        # list() takes no key, and other order is the change that is meant.
        keywords = [] if name == "sorted" else node.keywords
        yield ast.Call(ast.Name(_NAMES[name], ast.Load()), node.args, keywords)
    if name in _UNSWAPPED or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    for at in range(len(node.args) - 1):
        swapped = [*node.args[:at], node.args[at + 1], node.args[at], *node.args[at + 2 :]]
        yield ast.Call(node.func, swapped, node.keywords)


def _slices(node: ast.Slice) -> Iterator[ast.AST]:
    if node.lower is not None:
        yield ast.Slice(None, node.upper, node.step)
        yield ast.Slice(ast.BinOp(node.lower, ast.Add(), ast.Constant(1)), node.upper, node.step)
    if node.upper is not None:
        yield ast.Slice(node.lower, None, node.step)
        yield ast.Slice(node.lower, ast.BinOp(node.upper, ast.Add(), ast.Constant(1)), node.step)
    if node.step is not None:
        yield ast.Slice(node.lower, node.upper, None)


def _statements(node: ast.stmt) -> Iterator[ast.AST | None]:
    match node:
        case ast.If(test=test, body=body, orelse=other):
            yield ast.If(ast.Constant(False), body, other)
            yield ast.If(ast.Constant(True), body, other)
            del test
        case ast.While(body=body, orelse=other):
            yield ast.While(ast.Constant(False), body, other)
        case ast.Return(value=value) if value is not None and not _is_none_or_truth(value):
            yield ast.Return(ast.Constant(None))
        case (
            ast.Return()
            | ast.Raise()
            | ast.Continue()
            | ast.Break()
            | ast.AugAssign()
            | ast.Delete(targets=[ast.Subscript()])
        ):
            yield None
        case ast.Expr(value=ast.Call()):
            yield None
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield None


def _is_none_or_truth(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (None, True, False)


_Put: TypeAlias = Callable[[ast.AST], None]
_SHOWN_CHARACTERS: Final = 80


def find_mutants(tree: ast.Module) -> list[Mutant]:
    """Return every mutant of a module, in order of place, no two alike."""
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    early = _called_early(tree)
    for owner, trail, put in _places(tree, "", []):
        node = trail[-1]
        shown = _shown(trail)
        before = _text(shown)
        spellings = {before}
        for other in replacements(node):
            if other is None and _is_redundant(trail):
                continue
            new = ast.copy_location(ast.Pass() if other is None else other, node)
            ast.fix_missing_locations(new)
            put(new)
            after = _text(new if shown is node else shown)
            put(node)
            if after in spellings:
                continue
            spellings.add(after)
            name = f"{owner}: `{before}` → `{after}`"
            seen[name] = seen.get(name, 0) + 1
            called = name if seen[name] == 1 else f"{name} #{seen[name]}"
            found.append(
                Mutant(called, getattr(node, "lineno", 0), _function(owner, trail, early), partial(put, new))
            )
    return found


def _places(node: ast.AST, owner: str, trail: list[ast.AST]) -> Iterator[tuple[str, list[ast.AST], _Put]]:
    """Yield every node below ``node`` that may change, with the nodes above it and what puts another in its place."""
    above = [*trail, node]
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        many = value if isinstance(value, list) else [value]
        for at, child in enumerate(many):
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            put = partial(value.__setitem__, at) if isinstance(value, list) else partial(setattr, node, name)
            below = owner
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                below = f"{owner}.{child.name}" if owner else child.name
            yield below, [*above, child], put
            if not isinstance(child, ast.Raise):
                yield from _places(child, below, above)


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.FunctionDef(name="__repr__") | ast.Expr(value=ast.Constant()) | ast.keyword(arg="strict"):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__")]):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case ast.ClassDef(bases=bases):
            return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)
    return False


def _is_redundant(trail: Sequence[ast.AST]) -> bool:
    """Tell whether leaving the statement out is the same as another mutant: its ``if`` never, or returning None."""
    node, above = trail[-1], trail[-2]
    if isinstance(above, ast.If) and above.body == [node] and not above.orelse:
        return True
    return isinstance(node, ast.Return) and isinstance(above, ast.FunctionDef) and above.body[-1] is node


def _called_early(tree: ast.AST) -> frozenset[str]:
    """Return the names of functions called while the module loads."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.add(node.func.id)
            found |= _called_early(node)
    return frozenset(found)


def _function(owner: str, trail: Sequence[ast.AST], early: frozenset[str]) -> str:
    """Return the name of the outermost function, unless the change shows while the module loads."""
    functions = [node for node in trail[:-1] if isinstance(node, ast.FunctionDef)]
    if not functions or functions[0].name in early or any(isinstance(node, ast.arguments) for node in trail):
        return ""
    return owner[: owner.index(functions[0].name) + len(functions[0].name)]


def _shown(trail: Sequence[ast.AST]) -> ast.AST:
    """Return as much around the node as is short enough to name it by."""
    shown = trail[-1]
    for node in reversed(trail[:-1]):
        if not isinstance(
            node, ast.expr | ast.keyword | ast.Return | ast.Assign | ast.AugAssign | ast.Expr | ast.Slice
        ):
            break
        if len(_text(node)) > _SHOWN_CHARACTERS:
            break
        shown = node
    return shown


def _text(node: ast.AST) -> str:
    match node:
        case ast.If(test=test):
            return f"if {ast.unparse(test)}:"
        case ast.While(test=test):
            return f"while {ast.unparse(test)}:"
    return " ".join(ast.unparse(node).split())
