"""Join the offline verifier and all it needs into one file: ``join_verifier.py OUTPUT``.

For an auditor who gets one file, reads it in one sitting, and runs it with
nothing but Python, blake3 and cryptography. The code is not rewritten: each
definition the verifier reaches is copied with its comments, in an order in which
definitions precede their use; what it does not reach is left out. Names are
changed only where two modules define the same one (``name__module``).

Invariants:
    * equal sources give equal bytes;
    * what cannot be joined faithfully stops the joining; nothing is guessed.
"""

import ast
import builtins
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "ledger_core"
ENTRY: Final = ("ledger_core.verify.command", "main")
ALLOWED: Final = frozenset({"blake3", "cryptography"}) | sys.stdlib_module_names

# PyNaCl makes a node faster and changes no verdict; the joined file does without.
REPLACED: Final = {
    ("ledger_core.keys", "_libsodium"): "\n\ndef _libsodium() -> None:\n"
    '    """PyNaCl only makes a node faster; this file does without."""\n',
}

# Before the imports: without it a missing library would end in a traceback, and in the exit code of a refusal.
NEEDED: Final = """\
import importlib.util
import sys

for _needed in ("blake3", "cryptography"):
    if importlib.util.find_spec(_needed) is None:
        print(f"cannot verify: the library {_needed} is not installed", file=sys.stderr)
        sys.exit(3)
"""

Place: TypeAlias = tuple[str, str]
_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


class CannotJoin(Exception):
    """The sources use a form that this tool does not join."""


@dataclass(frozen=True, slots=True)
class Use:
    """A global name as it stands in the source: where, and which local names hide globals there."""

    name: str
    line: int
    column: int
    hidden: frozenset[str]


@dataclass(frozen=True, slots=True)
class Item:
    """One top-level statement: the names it defines, its lines (comments above included), what it uses."""

    names: tuple[str, ...]
    first: int
    last: int
    uses: tuple[Use, ...]


@dataclass(slots=True)
class Module:
    """A module taken apart."""

    name: str
    source: bytes
    docstring: str
    items: list[Item] = field(default_factory=list)
    # Local name to (module, name) of the ledger, or to the import line of another library.
    inner: dict[str, Place] = field(default_factory=dict)
    outer: dict[str, str] = field(default_factory=dict)

    def item_of(self, name: str) -> Item | None:
        return next((item for item in self.items if name in item.names), None)


class _Uses:
    """Collects the uses of global names in a statement, scope by scope."""

    def __init__(self) -> None:
        self.found: list[Use] = []

    def visit(self, node: ast.AST, hidden: frozenset[str]) -> None:
        match node:
            case ast.Name():
                if node.id not in hidden:
                    self.found.append(Use(node.id, node.lineno, node.col_offset, hidden))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._visit_function(node, hidden)
            case ast.ClassDef():
                self._visit_class(node, hidden)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._visit_comprehension(node, hidden)
            case ast.Global():
                raise CannotJoin(f"a global statement in line {node.lineno}")
            case _:
                for child in ast.iter_child_nodes(node):
                    self.visit(child, hidden)

    def _visit_function(self, node: _Function, hidden: frozenset[str]) -> None:
        arguments = node.args
        outside: list[ast.AST | None] = [*arguments.defaults, *arguments.kw_defaults]
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
        outside += [item.annotation for item in every]
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        if not isinstance(node, ast.Lambda):
            outside += [*node.decorator_list, node.returns]
        for item in outside:
            if item is not None:
                self.visit(item, hidden)
        inside = hidden | {item.arg for item in every} | set(_bound(body))
        for item in body:
            self.visit(item, inside)

    def _visit_class(self, node: ast.ClassDef, hidden: frozenset[str]) -> None:
        for outside in (*node.decorator_list, *node.bases, *(item.value for item in node.keywords)):
            self.visit(outside, hidden)
        # Names bound in a class body are seen in the body itself and not in its methods.
        own = hidden | set(_bound(node.body))
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                self._visit_function(item, hidden)
            else:
                self.visit(item, own)

    def _visit_comprehension(self, node: _Comprehension, hidden: frozenset[str]) -> None:
        inside = hidden | {name for part in node.generators for name in _bound([part.target])}
        for number, part in enumerate(node.generators):
            self.visit(part.iter, inside if number else hidden)
            for condition in part.ifs:
                self.visit(condition, inside)
        values = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        for value in values:
            self.visit(value, inside)


def _bound(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Names that these statements bind in their own scope."""
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                continue
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.id
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
            case ast.Import() | ast.ImportFrom():
                raise CannotJoin(f"an import inside a function, line {node.lineno}")
        yield from _bound([*ast.iter_child_nodes(node)])


def read_module(name: str) -> Module:
    """Take a module of the package apart."""
    base = ROOT.joinpath(*name.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    source = path.read_bytes()
    tree = ast.parse(source)
    module = Module(name, source, ast.get_docstring(tree) or "")
    ended = tree.body[0].end_lineno or 0
    for node in tree.body[1:]:
        last = node.end_lineno or 0
        _read_statement(module, node, ended + 1, last)
        ended = last
    return module


def _read_statement(module: Module, node: ast.stmt, first: int, last: int) -> None:
    match node:
        case ast.Import() | ast.ImportFrom():
            _read_import(module, node)
        case ast.Expr(value=ast.Constant(value=str())) if module.items:
            before = module.items.pop()
            module.items.append(Item(before.names, before.first, last, before.uses))
        case ast.FunctionDef() | ast.ClassDef():
            _add(module, (node.name,), node, first, last)
        case ast.Assign() | ast.AnnAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            _add(module, tuple(_bound(targets)), node, first, last)
        case _:
            raise CannotJoin(f"{module.name}, line {node.lineno}: a statement that defines nothing")


def _add(module: Module, names: tuple[str, ...], node: ast.stmt, first: int, last: int) -> None:
    replaced = any((module.name, name) in REPLACED for name in names)
    uses = _Uses()
    if not replaced:
        uses.visit(node, frozenset())
    module.items.append(Item(names, first, last, tuple(uses.found)))


def _read_import(module: Module, node: ast.Import | ast.ImportFrom) -> None:
    for item in node.names:
        local = item.asname or item.name
        source = node.module or "" if isinstance(node, ast.ImportFrom) else item.name
        top = source.split(".")[0]
        if top == PACKAGE and isinstance(node, ast.ImportFrom) and not node.level:
            module.inner[local] = (source, item.name)
        elif top in ALLOWED and "." not in local:
            renamed = f" as {item.asname}" if item.asname else ""
            is_from = isinstance(node, ast.ImportFrom)
            module.outer[local] = (
                f"from {source} import {item.name}{renamed}" if is_from else f"import {source}{renamed}"
            )
        else:
            raise CannotJoin(f"{module.name} imports {source}")


class Joiner:
    """Finds what the entry reaches, names it, and writes it down."""

    def __init__(self) -> None:
        self._modules: dict[str, Module] = {}
        self._kept: dict[str, set[int]] = {}
        self._imports: dict[str, str] = {}
        self._names: dict[Place, str] = {}

    def join(self) -> str:
        """Return the joined file."""
        self._load(ENTRY[0])
        self._keep(ENTRY)
        self._choose_names()
        sections = [self._write(module) for module in self._modules.values() if self._kept.get(module.name)]
        imports = sorted(set(self._imports.values()), key=lambda line: (line.startswith("from"), line))
        entry = self._names[ENTRY]
        last = f'if __name__ == "__main__":\n    sys.exit({entry}())\n'
        return "\n\n".join([self._header() + "\n".join(imports), *sections, last])

    def _load(self, name: str) -> None:
        """Read a module and, before it is listed, all it imports: dependencies come first."""
        if name in self._modules:
            return
        module = read_module(name)
        for source, _ in module.inner.values():
            self._load(source)
        self._modules[name] = module

    def _resolve(self, place: Place) -> Place:
        """Follow re-exports to where a name is defined."""
        module, name = self._modules[place[0]], place[1]
        return self._resolve(module.inner[name]) if name in module.inner else place

    def _keep(self, place: Place) -> None:
        where, name = self._resolve(place)
        module = self._modules[where]
        item = module.item_of(name)
        if item is None:
            raise CannotJoin(f"{where} defines no {name}")
        kept = self._kept.setdefault(where, set())
        if item.first in kept:
            return
        kept.add(item.first)
        for use in item.uses:
            if use.name in module.outer:
                line = module.outer[use.name]
                if self._imports.setdefault(use.name, line) != line:
                    raise CannotJoin(f"{use.name} is imported from two places")
            elif use.name in module.inner or module.item_of(use.name) is not None:
                self._keep((where, use.name))
            elif not hasattr(builtins, use.name) and use.name != "__name__":
                raise CannotJoin(f"{where}: {use.name} is nowhere defined")

    def _choose_names(self) -> None:
        self._imports.setdefault("sys", "import sys")
        places = [
            (module.name, name)
            for module in self._modules.values()
            for item in self._kept_items(module)
            for name in item.names
        ]
        plain = [name for _, name in places]
        taken = set(self._imports) | set(dir(builtins))
        for place in places:
            where, name = place
            short = where.removeprefix(f"{PACKAGE}.").replace(".", "_")
            is_shared = plain.count(name) > 1 or name in taken
            self._names[place] = f"{name}__{short}" if is_shared else name
        if len(set(self._names.values()) | taken) != len(self._names) + len(taken):
            raise CannotJoin("two definitions end up with one name")

    def _kept_items(self, module: Module) -> list[Item]:
        return [item for item in module.items if item.first in self._kept.get(module.name, ())]

    def _write(self, module: Module) -> str:
        path = module.name.replace(".", "/")
        about = "\n".join(f"# {line}".rstrip() for line in module.docstring.splitlines())
        head = f"# {'=' * 20} {path} {'=' * 20}\n#\n{about}\n\n"
        items = "".join(self._write_item(module, item) for item in self._kept_items(module))
        return head + items.strip("\n") + "\n"

    def _write_item(self, module: Module, item: Item) -> str:
        for name in item.names:
            if (module.name, name) in REPLACED:
                return REPLACED[module.name, name]
        lines = module.source.split(b"\n")
        edits = {(use.line, use.column): self._edit(module, use) for use in item.uses}
        for (line, column), (old, new) in sorted(edits.items(), reverse=True):
            before = lines[line - 1]
            if old != new:
                if before[column : column + len(old)] != old:
                    raise CannotJoin(f"{module.name}, line {line}: cannot rename inside this expression")
                lines[line - 1] = before[:column] + new + before[column + len(old) :]
        text = b"\n".join(lines[item.first - 1 : item.last]).decode().rstrip("\n") + "\n"
        return self._rename_definition(module, item, text)

    def _edit(self, module: Module, use: Use) -> tuple[bytes, bytes]:
        final = use.name
        if use.name not in module.outer and (use.name in module.inner or module.item_of(use.name) is not None):
            final = self._names[self._resolve((module.name, use.name))]
        if final != use.name and final in use.hidden:
            raise CannotJoin(f"{module.name}, line {use.line}: a local name hides {final}")
        return use.name.encode(), final.encode()

    def _rename_definition(self, module: Module, item: Item, text: str) -> str:
        """Functions and classes: their own name is no use of it and stands after the keyword."""
        final = self._names[module.name, item.names[0]]
        pattern = rf"^((?:def|class) ){re.escape(item.names[0])}\b"
        return re.sub(pattern, rf"\g<1>{final}", text, count=1, flags=re.MULTILINE)

    def _header(self) -> str:
        with (ROOT / "pyproject.toml").open("rb") as file:
            version = tomllib.load(file)["project"]["version"]
        modules = [module for module in self._modules.values() if self._kept.get(module.name)]
        sums = [f"#   {hashlib.sha256(module.source).hexdigest()}  {module.name}" for module in modules]
        return "\n".join(
            (
                "#!/usr/bin/env python3",
                '"""Offline verifier of ledger receipts, in one file: ``python -I ledger-verify.py --help``.',
                "",
                f"Version {version}. Joined from the modules below; do not edit, edit those.",
                "Needs Python 3.11 or later, blake3, and cryptography 50 or later.",
                '"""',
                "",
                "# SHA-256 of the sources, in order:",
                *sums,
                "",
                NEEDED,
                "",
            )
        )


def main(arguments: Sequence[str]) -> int:
    """Write the joined verifier to the file named on the command line."""
    if len(arguments) != 1:
        print("usage: join_verifier.py OUTPUT", file=sys.stderr)
        return 2
    output = Path(arguments[0])
    text = Joiner().join()
    compile(text, output.name, "exec")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, "utf-8")
    print(f"{output}: {len(text.splitlines())} lines, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
