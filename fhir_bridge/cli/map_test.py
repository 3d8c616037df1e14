"""``map test``: run a pack's examples, once or at every save."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.map_lint import refuse_no_pack
from fhir_bridge.cli.options import AsJson

if TYPE_CHECKING:
    from fhir_bridge.normalize import ExampleResult

_LONGEST = 300


def run_pack(
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack: it holds source.yaml and examples/.")],
    only: Annotated[str, typer.Option("--only", help="Run the examples whose name contains this.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Run again whenever a file is saved; Ctrl-C ends.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Show what differs, ask, and write the expected files anew.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --update: do not ask.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the results there as JUnit XML.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a pack's examples. Exit code 1 if one comes out otherwise, or if there is none."""
    refuse_no_pack(pack)
    if watch:
        if update:
            raise Failure("--watch and --update do not go together: look before you write", exit_code=SETUP)
        _watch(pack, only)
        return
    results = _run(pack, only, junit)
    failed = [result for result in results if not result.passed]
    if as_json:
        screen.print_json([{"name": r.name, "passed": r.passed, "differences": r.differences} for r in results])
    else:
        _tell(results)
    if update and failed:
        _update(pack, failed, yes)
    elif failed or not results:
        raise typer.Exit(FAILED)


def _run(pack: Path, only: str, junit: Path | None = None) -> list[ExampleResult]:
    from fhir_bridge.normalize import run_examples

    started = time.perf_counter()
    results = run_examples(pack, only=only)
    if junit is not None:
        from fhir_bridge.mapping_tools.example_runs import as_junit

        junit.write_bytes(as_junit(pack.resolve().name, results, time.perf_counter() - started))
    return results


def _tell(results: Sequence[ExampleResult]) -> None:
    for result in results:
        if not result.passed:
            print(f"{screen.styled('✗', 'red')} {screen.styled(result.name, 'bold')}")
            for each in result.details:
                print(f"    {each.place}{' ' if each.place else ''}{screen.styled(_words(each.words), 'dim')}")
                if each.expected is not None:
                    print(screen.styled(f"      - {_short(each.expected)}", "red"))
                if each.found is not None:
                    print(screen.styled(f"      + {_short(each.found)}", "green"))
    passed = sum(result.passed for result in results)
    line = f"{passed} of {len(results)} examples pass"
    print(screen.styled(line, "green" if results and passed == len(results) else "red"))


def _words(words: str) -> str:
    """The two values stand below."""
    return "differs" if words.startswith("is ") and " instead of " in words else words


def _short(text: str) -> str:
    text = screen.visible(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def _update(pack: Path, failed: Sequence[ExampleResult], yes: bool) -> None:
    from fhir_bridge.mapping_tools.example_runs import write_expected

    if not yes:
        if not sys.stdin.isatty():
            raise Failure("nothing was written: nobody can be asked here (give --yes if you have looked)")
        if not typer.confirm(f"Write {len(failed)} expected files as shown above (+)?", err=True):
            raise Failure("nothing was written")
    for path in write_expected(pack, failed):
        screen.remark(f"wrote {path}")
    stuck = [result.name for result in _run(pack, "") if not result.passed]
    if stuck:
        raise Failure(f"still failing, for reasons that no expected file can mend: {', '.join(stuck)}")


def _watch(pack: Path, only: str) -> None:
    from fhir_bridge.errors import BridgeError
    from fhir_bridge.mapping_tools.example_runs import saves

    names: list[str] = []
    waiting = saves(pack)
    try:
        while True:
            if names:
                print(screen.styled(f"\n── {', '.join(names)} saved", "dim"))
            try:
                _tell(_run(pack, only))
            except BridgeError as error:
                print(screen.styled(str(error), "red"))
            sys.stdout.flush()
            names = next(waiting)
    except KeyboardInterrupt:
        return
