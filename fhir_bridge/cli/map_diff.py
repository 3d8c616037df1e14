"""``map diff``: what a new version of a pack changes in a sample, before it goes live."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.csv_files import FileFormat, Format
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.feeds import sampled
from fhir_bridge.cli.map_coverage import Html
from fhir_bridge.cli.options import AsJson
from fhir_bridge.errors import BridgeError

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.differences import Comparison

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


def diff(
    old: Annotated[str, typer.Argument(help="Folder of the old pack, or PACK@REVISION from git.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="Folder of the new pack, or PACK@REVISION.", metavar="NEW")],
    samples: Annotated[list[str], typer.Option("--on", help="Sample to try both on; - for stdin; repeatable.")],
    file_format: FileFormat = Format.AUTO,
    examples: Annotated[int, typer.Option("--examples", min=0, help="Records named for each difference.")] = 3,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Show values of records, personal ones among them.")
    ] = False,
    html: Html = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows on the screen.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show what a new version changes in a sample.

    By rule, element and code, with counts. Exit code 0: nothing does, 1: something does, 2: trouble.
    """
    try:
        found = _compared(old, new, samples, file_format, examples)
    except BridgeError as error:
        _trouble(error)
    if html is not None:
        from fhir_bridge.mapping_tools.difference_page import difference_page
        from fhir_bridge.mapping_tools.html_page import written

        html.write_text(written(difference_page(found, old, new, show_values=show_values)), "utf-8")
        screen.remark(f"wrote {html}")
    if as_json:
        from fhir_bridge.mapping_tools.differences import as_json as as_document

        screen.print_json(as_document(found, show_values=show_values))
    else:
        _tell(found, top, show_values)
    if not found.is_same:
        raise typer.Exit(FAILED)


def _trouble(error: BridgeError) -> NoReturn:
    """As diff(1): 1 means that there are differences, so what goes wrong is 2."""
    raise Failure(f"{error} ({error.code})", exit_code=SETUP) from error


def _compared(old: str, new: str, samples: list[str], file_format: Format, examples: int) -> Comparison:
    from fhir_bridge.mapping_tools.differences import compare
    from fhir_bridge.mapping_tools.revisions import pack_at

    with ExitStack() as open_until_done:
        before, after = (open_until_done.enter_context(pack_at(name)) for name in (old, new))
        messages, count = open_until_done.enter_context(sampled(after, samples, file_format, "comparing"))
        return compare(before, after, messages, examples=examples, progress=count)


def _tell(found: Comparison, top: int, show_values: bool) -> None:
    print(screen.styled(f"{found.differing:,} of {found.records:,} records come out otherwise", "bold"))
    for how, name in found.rules:
        sign, style = _SIGNS[how]
        print(f"{screen.styled(f'{sign} {how}', style)} rule {name}")
    for (before, after, why), count in found.verdicts.most_common():
        style = "green" if after == "passed" else "red"
        named = ", ".join(found.verdict_examples[before, after, why])
        print(f"{screen.styled(f'{before} → {after}', style)} {count:,} records: {why} ({named})")
    for (code, words), count in sorted(found.flags.items()):
        if count:
            print(f"{screen.styled(f'{count:+,} flags', 'yellow')} {code}: {words}")
    differences = found.by_volume()
    if differences:
        print()
        rows = [[d.count, d.how, d.path, d.code or "-", d.rule or "-"] for d in differences[:top]]
        screen.print_aligned(rows, ("values", "how", "element", "about", "rule"))
        if len(differences) > top:
            print(screen.styled(f"… {len(differences) - top:,} more (--top, --json, --html)", "dim"))
    for difference in differences[:top] if show_values else ():
        for example in difference.examples:
            print(f"\n{screen.styled(example.record, 'bold')} {screen.styled(example.place, 'cyan')}")
            if example.before:
                print(screen.styled(f"  - {screen.visible(example.before)}", "red"))
            if example.after:
                print(screen.styled(f"  + {screen.visible(example.after)}", "green"))
