"""What surrounds a run of a pack's examples: a report for CI, new expected files, and waiting for the next save."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from fhir_bridge.fhir.json import render
from fhir_bridge.normalize import ExampleResult, packaged_core
from fhir_bridge.normalize.pack import SOURCE

POLL_S = 0.3
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(pack: str, results: Sequence[ExampleResult], seconds: float) -> bytes:
    """Write results as JUnit XML, the form that CI servers read; a pack is a suite, an example a case."""
    failed = str(sum(not result.passed for result in results))
    counts = {"tests": str(len(results)), "failures": failed, "errors": "0", "time": f"{seconds:.3f}"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": pack, **counts})
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", {"name": result.name, "classname": pack})
        if not result.passed:
            words = _NOT_XML.sub("\ufffd", "\n".join(result.differences))
            message = f"{len(result.differences)} elements differ" if len(result.differences) > 1 else words
            ElementTree.SubElement(case, "failure", {"message": message}).text = words
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def write_expected(pack: Path, results: Sequence[ExampleResult]) -> list[Path]:
    """Write what came out as what is expected, for examples that failed; return the files written.

    ``NAME.flags.json`` is written only where the engineer has one already.
    """
    written = []
    for result in results:
        if result.passed or result.outcome is None:
            continue
        path = pack / "examples" / f"{result.name}.expected.json"
        path.write_bytes(msgspec.json.format(render(result.outcome), indent=2) + b"\n")
        written.append(path)
        flags = path.with_name(f"{result.name}.flags.json")
        if flags.is_file():
            flags.write_bytes(render(list(result.flags)) + b"\n")
    return written


def saves(pack: Path, *, pause: Callable[[float], None] = time.sleep) -> Iterator[list[str]]:
    """Yield each time a file of the pack or of the core beside it was saved, with the names; never ends.

    By asking every 0.3 s: it needs no library, and works where the system's notices do not reach (network folders,
    containers).
    """
    beside = pack.parent / "core"
    folders = [pack, beside if (beside / SOURCE).is_file() else packaged_core()]
    held = _stamps(folders)
    while True:
        pause(POLL_S)
        now = _stamps(folders)
        changed = sorted(path.name for path in now.keys() | held.keys() if now.get(path) != held.get(path))
        held = now
        if changed:
            yield changed


def _stamps(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                # An editor that saves by renaming.
                continue
            if path.is_file():
                found[path] = (stat.st_mtime_ns, stat.st_size)
    return found
