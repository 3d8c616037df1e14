"""Change the ledger's security modules one operator at a time and see whether their tests notice.

For whoever doubts the tests. A mutant is one small change of a module: a
comparison turned or moved by one, a check or statement left out, a constant
off by one, two operands or arguments swapped. The module's own quick tests are
run against it; if they all pass, the mutant survives and shows a fact that no
test states, or a change that makes no difference (``docs/ledger-mutants.md``
says which, by the survivor's name).

Not mutated, because no test of behaviour can or should notice: annotations,
docstrings, message texts, ``__repr__``, ``assert``, ``zip(strict=...)``, cache
sizes, arguments of ``@dataclass``, ``__slots__`` and protocols.

No file changes, and everything runs on a copy of the sources. A change inside a
function is made in a fork of a pytest session that has collected the tests: the
loaded function gets the changed code. Any other change is made by an import
hook in a fork of a process that has loaded the libraries but not the project.

Invariants:
    * a mutant counts as killed only when the same tests pass without it;
    * Hypothesis draws the same examples for every mutant;
    * processor time is what is limited, so a busy machine kills nothing.

Usage: python -m tools.mutate [--jobs N] [--every N] [--fresh] [MODULE ...]
"""

import argparse
import ast
import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, TextIO

from tools.mutations import Mutant, find_mutants

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = "tests/unit/ledger_core"
COPIED: Final = ("ledger_core", TESTS, "tests/support", "tests/vectors", "pyproject.toml")
LISTED: Final = ROOT / "docs" / "ledger-mutants.md"
KEPT: Final = ROOT / ".build" / "mutants"

# By module, the tests that judge it, quick ones first.
_MACHINE: Final = ("machine", "governance", "mutants_rules", "membership_model")
JUDGES: Final[dict[str, tuple[str, ...]]] = {
    "proofs": ("mutants_proofs", "trees", "multiproof"),
    "sparse": ("mutants_sparse", "state_tree"),
    "codec": ("mutants_codec", "codec"),
    "keys": ("mutants_keys", "signatures"),
    "transactions": ("mutants_transactions", "machine", "governance"),
    "rules.access": _MACHINE,
    "rules.anchor": _MACHINE,
    "rules.consent": _MACHINE,
    "rules.member": _MACHINE,
    "rules.policy": _MACHINE,
    "rules.ruleset": _MACHINE,
    "rules.suite": _MACHINE,
    "rules.view": _MACHINE,
    "payloads": ("mutants_values", "mutants_transactions", *_MACHINE),
    "machine": ("mutants_machine", *_MACHINE),
    "values": ("mutants_values", *_MACHINE),
    "hashing": ("mutants_hashing", "trees", "state_tree", "machine"),
    "stateroot": ("mutants_values", "state_tree", "machine"),
    "log": ("mutants_log", "trees", "log_tiles", "multiproof", "batch_paths"),
    "checkpoint": ("mutants_checkpoint", "notes"),
}
AREAS: Final[dict[str, tuple[str, ...]]] = {
    "proofs": ("proofs",),
    "sparse tree": ("sparse",),
    "codec": ("codec",),
    "signatures": ("keys", "transactions"),
    "rules": (*(name for name in JUDGES if name.startswith("rules.")), "payloads", "machine", "values"),
}

# Modules whose functions are used while others load: their mutants are always put in place before that.
LOADED_ANEW: Final = frozenset({"hashing"})
_MEMORY_BYTES: Final = 3 << 30
_EXAMPLES: Final = 30
_OPTIONS: Final = ("-x", "-q", "-m", "not slow", "--tb=no", "--no-header", "-p", "no:randomly", "-p", "no:xdist")
# Loaded once, as a test module would: pytest's own plugins are loaded by pytest itself.
_WARM: Final = """
import asyncio, concurrent.futures, http.server, sqlite3, ssl, unittest.mock, urllib.request
import blake3, cbor2, hypothesis.stateful, hypothesis.strategies, nacl.bindings
import cryptography.hazmat.primitives.serialization
import cryptography.hazmat.primitives.asymmetric.ed25519
import cryptography.hazmat.primitives.asymmetric.mldsa

def test_nothing() -> None: ...
"""


class Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a syntax tree in memory, whatever its file says."""

    def __init__(self, module: str, tree: ast.Module, path: Path) -> None:
        self._module, self._tree, self._path = module, tree, path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def build(self) -> CodeType:
        """Compile the tree as it is now.

        Raises:
            SyntaxError: What was put in place stands where it cannot.
            ValueError: Likewise.
        """
        return compile(self._tree, str(self._path), "exec", dont_inherit=True)

    def replace_code(self, function: str) -> bool:
        """Give the loaded function the code it has in the tree, and forget cached results; tell whether it could."""
        codes = [code for code in _codes(self.build()) if code.co_qualname == function]
        found: Any = sys.modules[self._module]
        for name in function.split("."):
            found = vars(found).get(name)
        found = getattr(found, "fget", None) or getattr(found, "__func__", None) or inspect.unwrap(found)
        try:
            (found.__code__,) = codes
        except (AttributeError, ValueError):
            return False
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "ledger_core":
                for each in list(vars(module).values()):
                    if hasattr(each, "cache_clear"):
                        each.cache_clear()
        return True

    def exec_module(self, module: ModuleType) -> None:
        exec(self.build(), module.__dict__)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


class Session:
    """Takes the place of pytest's loop over tests: goes through the whole list once for each mutant, in a fork."""

    def __init__(self, run: "Run", mutants: Sequence[Mutant]) -> None:
        self._run, self._mutants = run, mutants
        self._failed = ""
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0) + report.duration
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the tests unchanged, note how long each takes, then run them for every mutant, quick ones first."""
        items: list[Any] = session.items
        note = self._run.scratch / "seconds"
        spent = _wait_for(_fork(lambda: self._baseline(items, note), 600, note), self._run.module, note)
        seconds: dict[str, float] = json.loads(note.read_text())
        items.sort(key=lambda item: seconds[item.nodeid])
        self._run.judge_all(self._mutants, spent, lambda mutant: self._attempt(mutant, items))
        return True

    def _baseline(self, items: list[Any], note: Path) -> tuple[int, str]:
        code, failed = self._through(items)
        return code, failed or json.dumps(self._seconds)

    def _attempt(self, mutant: Mutant, items: list[Any]) -> tuple[int, str]:
        mutant.put()
        if not self._run.hook.replace_code(mutant.function):
            return UNFIT, ""
        killers = {name: place for place, name in enumerate(self._run.killers)}
        return self._through(sorted(items, key=lambda item: killers.get(item.nodeid, len(killers))))

    def _through(self, items: list[Any]) -> tuple[int, str]:
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return 1, self._failed
        return 0, ""


class Order:
    """Puts the tests that killed neighbours first, and notes which one kills."""

    def __init__(self, first: Sequence[str]) -> None:
        self._first = {name: place for place, name in enumerate(first)}
        self.killer = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self._first.get(item.nodeid, len(self._first)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.killer:
            self.killer = report.nodeid


class Run:
    """The mutants of one module: what became of them, and how the next one is judged."""

    def __init__(self, module: str, *, jobs: int, every: int, fresh: bool, scratch: Path) -> None:
        self._every = every
        self.module, self.jobs, self.scratch = module, jobs, scratch
        path = scratch / "ledger_core" / (module.replace(".", "/") + ".py")
        source = path.read_bytes()
        tree = ast.parse(source)
        files = [f"{TESTS}/test_ledger_{name}.py" for name in JUDGES[module]]
        self.files = [name for name in files if (scratch / name).exists()]
        self.mutants = find_mutants(tree)
        self.hook = Hook(f"ledger_core.{module}", tree, path)
        self.killers: list[str] = []
        self.outcomes: dict[str, dict[str, Any]] = {}
        tests = b"".join((scratch / name).read_bytes() for name in self.files)
        self._stamp = {
            "source": hashlib.sha256(source).hexdigest()[:16],
            "tests": hashlib.sha256(tests).hexdigest()[:16],
        }
        self._kept = KEPT / f"{module}.jsonl"
        if fresh:
            self._kept.unlink(missing_ok=True)

    def whole(self) -> None:
        """Judge every mutant without a known outcome: those inside functions in one session."""
        self._load()
        inside = [each for each in self.todo if each.function and self.module not in LOADED_ANEW]
        print(f"{self.module}: {len(self.todo)} of {len(self.mutants)} mutants to judge", file=_TALK)
        if inside:
            note = self.scratch / "session"
            session = Session(self, inside)
            _wait_for(_fork(lambda: _pytest(self.files, session), 0, note), self.module, note)
            self._load()
        if self.todo:
            note = self.scratch / "order"
            spent = _wait_for(_fork(lambda: self._anew(None), 600, note), self.module, note)
            self.judge_all(self.todo, spent, self._anew)
            self._load()

    @property
    def todo(self) -> list[Mutant]:
        return [each for each in self.mutants[:: self._every] if each.name not in self.outcomes]

    def judge_all(
        self, mutants: Sequence[Mutant], seconds: float, attempt: Callable[[Mutant], tuple[int, str]]
    ) -> None:
        """Fork for each mutant, ``jobs`` at a time, and keep what comes of it."""
        running: dict[int, tuple[Mutant, Path]] = {}
        queue = enumerate(mutants)
        with self._kept.open("a") as out:
            while True:
                while len(running) < self.jobs and (following := next(queue, None)) is not None:
                    number, mutant = following
                    note = self.scratch / f"note{number}"
                    note.unlink(missing_ok=True)
                    running[_fork(partial(attempt, mutant), int(3 + 1.5 * seconds), note)] = mutant, note
                if not running:
                    return
                child, status = os.wait()
                self._keep(out, *running.pop(child), os.waitstatus_to_exitcode(status))

    def _keep(self, out: TextIO, mutant: Mutant, note: Path, code: int) -> None:
        if code == UNFIT:
            return
        killer = note.read_text() if note.exists() else ""
        outcome = _OUTCOMES.get(code, "timeout")
        if killer and outcome == "killed":
            self.killers = [killer, *(name for name in self.killers if name != killer)][:40]
        row = {"name": mutant.name, "outcome": outcome, "line": mutant.line, "by": killer, **self._stamp}
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
        out.flush()
        if outcome != "killed":
            print(f"  {outcome}: {self.module}.py:{mutant.line} {mutant.name}", file=_TALK)

    def _anew(self, mutant: Mutant | None) -> tuple[int, str]:
        """Load the project with the mutant in place and run the tests."""
        if mutant is not None:
            mutant.put()
            try:
                self.hook.build()
            except (SyntaxError, ValueError):
                return _UNBUILDABLE, ""
            sys.meta_path.insert(0, self.hook)
        order = Order(self.killers)
        return _pytest(self.files, order)[0], order.killer

    def _load(self) -> None:
        names = {each.name for each in self.mutants}
        self.outcomes = {}
        for line in self._kept.read_text().splitlines() if self._kept.exists() else ():
            row = json.loads(line)
            is_same = row["source"] == self._stamp["source"] and row["name"] in names
            # A test added later may kill a survivor; what was killed stays so.
            if is_same and (row["outcome"] != "survived" or row["tests"] == self._stamp["tests"]):
                self.outcomes[row["name"]] = row

    def count(self, *outcomes: str) -> int:
        return sum(each["outcome"] in outcomes for each in self.outcomes.values())

    @property
    def survivors(self) -> list[str]:
        return [name for name, each in self.outcomes.items() if each["outcome"] == "survived"]


# Written to from forks whose own output is dropped.
_TALK: Final = os.fdopen(os.dup(1), "w", buffering=1)

UNFIT: Final = 97
_UNBUILDABLE: Final = 98
# Exit codes of pytest: 1 a test failed, 2 to 4 a test module could not be loaded.
_OUTCOMES: Final = {0: "survived", 1: "killed", 2: "killed", 3: "killed", 4: "killed", _UNBUILDABLE: "unbuildable"}


def _pytest(files: Sequence[str], plugin: object) -> tuple[int, str]:
    import pytest
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants",
        derandomize=True,
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")
    return int(pytest.main([*_OPTIONS, *files], plugins=[plugin])), ""


def _fork(work: Callable[[], tuple[int, str]], cpu_seconds: int, note: Path) -> int:
    """Start ``work`` in a fork; return the process id. What it says ends in ``note``, as does its last error."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        if cpu_seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 2))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            signal.alarm(20 * cpu_seconds)
        code, said = work()
        note.write_text(said)
    except BaseException as problem:  # noqa: BLE001  # told to the process that waits
        note.write_text(f"{type(problem).__name__}: {problem}")
    finally:
        os._exit(code)


def _wait_for(child: int, module: str, note: Path) -> float:
    """Wait for a fork that must succeed; return the processor seconds it took."""
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        said = note.read_text() if note.exists() else f"status {status}"
        raise SystemExit(f"{module}: the tests fail without any mutant: {said}")
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of the ledger's security modules.")
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"one of {', '.join(JUDGES)}; all of them if none"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge one mutant in N, for a quick look")
    parser.add_argument("--fresh", action="store_true", help="forget the outcomes kept in .build/mutants")
    parser.add_argument("--list", action="store_true", help="only print the mutants")
    asked = parser.parse_args()
    modules = asked.modules or list(JUDGES)
    if asked.list:
        for module in modules:
            path = ROOT / "ledger_core" / (module.replace(".", "/") + ".py")
            for mutant in find_mutants(ast.parse(path.read_bytes())):
                print(f"{module}.py:{mutant.line} {mutant.name}")
        return 0
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for name in COPIED:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, scratch / name)
        os.chdir(scratch)
        sys.path.insert(0, str(scratch))
        _warm(scratch)
        runs = [
            Run(module, jobs=asked.jobs, every=asked.every, fresh=asked.fresh, scratch=scratch) for module in modules
        ]
        for run in runs:
            run.whole()
    return _report(runs)


def _warm(scratch: Path) -> None:
    """Load the libraries once; the project itself is loaded by each mutant's process."""
    (scratch / "test_warm.py").write_text(_WARM)
    import pytest

    with contextlib.redirect_stdout(io.StringIO()):
        code = pytest.main([*_OPTIONS, "test_warm.py"])
    if code or any(name.split(".")[0] == "ledger_core" for name in sys.modules):
        raise SystemExit("the libraries could not be loaded without the project")


def _report(judged: Sequence[Run]) -> int:
    listed = LISTED.read_text("utf-8") if LISTED.exists() else ""
    unlisted = 0
    print(f"\n{'module':<16}{'mutants':>8}{'judged':>8}{'killed':>8}{'time-out':>9}{'survived':>9}{'share':>8}")
    for each in judged:
        _print_row(each.module, [each])
    print()
    by_name = {each.module: each for each in judged}
    for area, modules in AREAS.items():
        if all(name in by_name for name in modules):
            _print_row(area, [by_name[name] for name in modules])
    for each in judged:
        for name in each.survivors:
            if f"{each.module}.{name}" not in listed:
                unlisted += 1
                print(f"not in {LISTED.name}: {each.module}.{name} (line {each.outcomes[name]['line']})")
    return 1 if unlisted else 0


def _print_row(title: str, group: Sequence[Run]) -> None:
    killed, late = sum(each.count("killed") for each in group), sum(each.count("timeout") for each in group)
    survived = sum(each.count("survived") for each in group)
    total = killed + late + survived
    mutants = sum(len(each.mutants) for each in group)
    print(
        f"{title:<16}{mutants:>8}{total:>8}{killed:>8}{late:>9}{survived:>9}{(killed + late) / max(total, 1):>8.1%}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
