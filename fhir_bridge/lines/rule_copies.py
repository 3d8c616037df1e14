"""Copies of rule packs, by the hash that records name: kept in the vault, and laid out in a folder for the workers.

The vault's copy counts. It is in every backup, moves with the vault, and is there before a record that it made; the
folder is made anew from it. Packs are nobody's data, and a file that several rulesets share is kept once.

Invariants:
    * what is kept under a hash has been loaded, and had that hash;
    * nothing kept is ever changed or taken away.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from fhir_bridge.errors import IntegrityBroken, RulesetBroken, SetupWrong
from fhir_bridge.normalize import (
    ENGINE,
    ExampleResult,
    Ruleset,
    Snapshot,
    load_ruleset,
    rule_prints,
    run_examples,
    take_snapshot,
)
from fhir_bridge.ports.vault import Document, Vault, Work

RULESETS = "rulesets"
"""What a ruleset is made of, by its hash."""
FILES = "ruleset-files"
"""Files of rulesets by the digest of their bytes."""
_UNFINISHED = ".new-"
_MIN_PREFIX = 4
_MAX_TOLD = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a ruleset.

    Attributes:
        name: Folder of the pack in its copy.
        engine: The engine it has its hash under; by another one the same files have another.
        files: Digest of each file by its path in the copy.
        rules: Print of each rule by its name.
    """

    name: str
    engine: str
    files: dict[str, str]
    rules: dict[str, str]

    def changed_since(self, before: Kept | None) -> dict[str, list[str]]:
        """Return the files and the rules that differ, and the rules that are gone, by name."""
        old_files, old_rules = ({}, {}) if before is None else (before.files, before.rules)
        return {
            "files": sorted(n for n in self.files.keys() | old_files.keys() if self.files.get(n) != old_files.get(n)),
            "rules": sorted(n for n in self.rules.keys() | old_rules.keys() if self.rules.get(n) != old_rules.get(n)),
        }


@dataclass(frozen=True, slots=True)
class Taken:
    """A pack that has been copied, compiled and tried on its examples."""

    ruleset: Ruleset
    kept: Kept
    snapshot: Snapshot
    examples: Sequence[ExampleResult]

    @property
    def hash(self) -> str:
        """Hex BLAKE3, as records will name it."""
        return self.ruleset.hash

    @property
    def place(self) -> str:
        """Where the copy lies below the folder of copies."""
        return f"{self.hash}/{self.kept.name}"


class RuleCopies:
    """Takes packs in and lays them out."""

    def __init__(self, vault: Vault, folder: Path) -> None:
        self._vault = vault
        self.folder = folder
        self._kept: dict[str, Kept] = {}

    async def load(self) -> None:
        """Read what is kept, and sweep away what a crash left half written."""
        for ruleset, value in await self._vault.documents(RULESETS):
            self._kept[ruleset] = msgspec.msgpack.decode(value, type=Kept)
        await asyncio.to_thread(self._sweep)

    def kept(self, ruleset: str) -> Kept:
        """Return what is kept of a ruleset.

        Raises:
            SetupWrong: Nothing is.
        """
        found = self._kept.get(ruleset)
        if found is None:
            raise SetupWrong(f"no ruleset {ruleset[:12]} is kept here")
        return found

    def find(self, prefix: str) -> str:
        """Return the hash that begins so.

        Raises:
            SetupWrong: None does, or several, or too few digits are given.
        """
        found = [each for each in self._kept if each.startswith(prefix.lower())] if len(prefix) >= _MIN_PREFIX else []
        if len(found) != 1:
            problem = (
                "is ambiguous: give more digits" if found else "is not kept here: see 'fhir-bridge rules history'"
            )
            raise SetupWrong(f"ruleset {prefix!r} {problem}")
        return found[0]

    def place(self, ruleset: str) -> str:
        """Return where a ruleset's copy lies below the folder of copies."""
        return f"{ruleset}/{self.kept(ruleset).name}"

    async def take(self, directory: Path, *, must_pass: bool = True) -> Taken:
        """Copy a pack, compile the copy and run the pack's examples; nothing is kept and nothing comes into force.

        Raises:
            RulesetBroken: It does not load, or an example comes out otherwise.
        """
        return await asyncio.to_thread(self._take, directory, must_pass)

    def documents(self, taken: Taken) -> list[Document]:
        """Return what keeps a ruleset; empty where it is kept."""
        if taken.hash in self._kept:
            return []
        held = {digest for each in self._kept.values() for digest in each.files.values()}
        contents = {taken.kept.files[path]: content for path, content in taken.snapshot.files.items()}
        files = [Document(FILES, digest, content) for digest, content in contents.items() if digest not in held]
        return [*files, Document(RULESETS, taken.hash, msgspec.msgpack.encode(taken.kept))]

    def know(self, taken: Taken) -> None:
        """Note that a ruleset's documents have been committed."""
        self._kept.setdefault(taken.hash, taken.kept)

    async def keep(self, taken: Taken) -> None:
        """Keep a ruleset; a no-op for one that is kept."""
        documents = self.documents(taken)
        if documents:
            await self._vault.commit(Work(documents=documents), None)
            self.know(taken)

    async def lay_out(self, ruleset: str) -> None:
        """Have a kept ruleset's copy in the folder, whole and unchanged.

        Raises:
            IntegrityBroken: A file of it is missing from the vault.
        """
        kept = self.kept(ruleset)
        if not await asyncio.to_thread(_is_whole, self.folder / ruleset, kept.files):
            snapshot = Snapshot(kept.name, {path: await self._file(digest) for path, digest in kept.files.items()})
            await asyncio.to_thread(self._replace, snapshot, ruleset)

    async def text(self, ruleset: str, path: str) -> str | None:
        """Return a file of a ruleset as text; None if it has none of that path, or it is no text."""
        digest = self.kept(ruleset).files.get(path)
        try:
            return None if digest is None else (await self._file(digest)).decode()
        except UnicodeDecodeError:
            return None

    async def again(self, ruleset: str) -> Taken:
        """Compile a kept ruleset by the engine of today; its examples are not kept, so none are run."""
        await self.lay_out(ruleset)
        return await self.take(self.folder / self.place(ruleset))

    async def compiled(self, ruleset: str) -> Ruleset:
        """Return a kept ruleset as the engine of today compiles it."""
        await self.lay_out(ruleset)
        return await asyncio.to_thread(load_ruleset, self.folder / self.place(ruleset))

    async def _file(self, digest: str) -> bytes:
        found = await self._vault.document(FILES, digest)
        if found is None:
            raise IntegrityBroken("a file of a ruleset is missing from the vault: run fsck")
        return found

    def _take(self, directory: Path, must_pass: bool) -> Taken:
        try:
            snapshot = take_snapshot(directory)
        except OSError as gone:
            raise RulesetBroken(f"{directory.name} cannot be read: {type(gone).__name__}") from gone
        unfinished = self._unfinished()
        try:
            pack = snapshot.write(unfinished)
            ruleset = load_ruleset(pack)
            examples = run_examples(directory, ruleset)
            if must_pass:
                _refuse_failed(examples)
            files = {path: blake3(content).hexdigest() for path, content in snapshot.files.items()}
            kept = Kept(snapshot.name, ENGINE, files, rule_prints(pack, ruleset))
            if not _is_whole(self.folder / ruleset.hash, files):
                self._put(unfinished, ruleset.hash)
            return Taken(ruleset, kept, snapshot, examples)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _replace(self, snapshot: Snapshot, ruleset: str) -> None:
        unfinished = self._unfinished()
        snapshot.write(unfinished)
        self._put(unfinished, ruleset)

    def _put(self, unfinished: Path, ruleset: str) -> None:
        """Move a copy to its place; a worker sees the whole of it or nothing."""
        target = self.folder / ruleset
        if target.exists():
            target.rename(unfinished.with_name(unfinished.name + ".old"))
            shutil.rmtree(unfinished.with_name(unfinished.name + ".old"), ignore_errors=True)
        unfinished.rename(target)

    def _unfinished(self) -> Path:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        made = self.folder / f"{_UNFINISHED}{secrets.token_hex(6)}"
        made.mkdir(mode=0o700)
        return made

    def _sweep(self) -> None:
        for left in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)


def _refuse_failed(examples: Sequence[ExampleResult]) -> None:
    failed = [each for each in examples if not each.passed]
    if failed:
        told = "; ".join(f"{each.name}: {each.differences[0]}" for each in failed[:_MAX_TOLD])
        raise RulesetBroken(f"{len(failed)} of {len(examples)} examples come out otherwise: {told}")


def _is_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Tell that a copy holds these files as they were kept, and no others."""
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else set()
    return there == files.keys() and all(
        blake3((folder / path).read_bytes()).hexdigest() == digest for path, digest in files.items()
    )
