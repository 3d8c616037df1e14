"""Ask other people's code, in Go, what it thinks of a ledger's proofs, notes and tiles, and have it make some."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.peers.gotools import CROSSCHECK, build

_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Case:
    """What one verdict is about; which fields count depends on the kind (see crosscheck/main.go)."""

    name: str
    kind: str
    note: str = ""
    origin: str = ""
    log_key: str = ""
    keys: tuple[str, ...] = ()
    leaf: bytes = b""
    index: int = 0
    size: int = 0
    old_size: int = 0
    root: bytes | None = None
    old_root: bytes = b""
    path: tuple[bytes, ...] = ()
    folder: str = ""
    level: int = 0
    width: int = 0
    text: str = ""
    entry: bytes = b""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all the Go code that can judge a case accepts it, and what it says if not."""

    name: str
    is_ok: bool
    why: str


@dataclass(frozen=True, slots=True)
class Made:
    """A log's head, signed and cosigned by Go, and proofs out of its tree."""

    note: str
    log_key: str
    keys: tuple[str, ...]
    proof: str
    old_root: bytes
    old_size: int
    path: tuple[bytes, ...]


class Judge:
    """The built Go program."""

    def __init__(self) -> None:
        self._program = build(CROSSCHECK)

    def verdicts(self, cases: Iterable[Case]) -> list[Verdict]:
        """Return a verdict for each case, in order."""
        given = [_plain(asdict(case)) for case in cases]
        told = self._run("judge", given)
        assert len(told) == len(given), "a verdict for every case"
        found = [Verdict(item["name"], item["ok"], item.get("why", "")) for item in told]
        split = [verdict for verdict in found if "disagree" in verdict.why]
        assert not split, f"the Go libraries disagree: {split}"
        return found

    def accepted(self, cases: Iterable[Case]) -> set[str]:
        """Return the names of the cases that are accepted."""
        return {verdict.name for verdict in self.verdicts(cases) if verdict.is_ok}

    def refused(self, cases: Iterable[Case]) -> dict[str, str]:
        """Return the names of the cases that are refused, and why."""
        return {verdict.name: verdict.why for verdict in self.verdicts(cases) if not verdict.is_ok}

    def make(
        self, origin: str, entries: Sequence[bytes], *, index: int, witnesses: Sequence[str], extra: bytes
    ) -> Made:
        """Have Go make a log of these entries; witnesses sign with Ed25519 and ML-DSA-44 in turn."""
        order = {
            "origin": origin,
            "entries": list(entries),
            "index": index,
            "witnesses": list(witnesses),
            "extra": extra,
        }
        (made,) = self._run("make", [_plain(order)])
        return Made(
            note=made["note"],
            log_key=made["log_key"],
            keys=tuple(made["keys"]),
            proof=made["proof"],
            old_root=base64.b64decode(made["old_root"]),
            old_size=made["old_size"],
            path=tuple(base64.b64decode(item) for item in made["path"]),
        )

    def _run(self, command: str, given: object) -> list[dict[str, Any]]:
        done = subprocess.run(
            [self._program, command],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told: list[dict[str, Any]] = json.loads(done.stdout)
        return told


def _plain(value: object) -> object:
    """Spell bytes as Go's JSON reads them, and leave out what is empty."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if item not in (None, "", b"", ())}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
