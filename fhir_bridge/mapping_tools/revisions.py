"""A pack as it stood in another git revision: ``mappings/harbor@main``."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fhir_bridge.errors import SetupWrong
from fhir_bridge.normalize.pack import SOURCE


class NoSuchRevision(SetupWrong):
    """git has no such pack in that revision, or there is no git."""

    code = "no-such-revision"


@contextmanager
def pack_at(name: str) -> Iterator[Path]:
    """Give the folder that ``FOLDER`` or ``FOLDER@REVISION`` means; one of a revision lies apart and goes away after.

    The core beside a pack comes from the same revision.

    Raises:
        NoSuchRevision: There is no such folder and git cannot give one.
    """
    folder, _, revision = name.rpartition("@")
    if (Path(name) / SOURCE).is_file() or not folder:
        if not (Path(name) / SOURCE).is_file():
            raise NoSuchRevision(f"{name} is not a rule pack (it holds no {SOURCE})")
        yield Path(name)
        return
    if revision.startswith("-"):
        raise NoSuchRevision(f"{revision} is no revision")
    with TemporaryDirectory(prefix="fhir-bridge-pack-") as apart:
        parent = _existing(Path(folder).resolve().parent)
        inside = Path(folder).resolve().relative_to(parent)
        # "." rather than the pack alone: the core beside it belongs to the revision, too.
        _unpack(_archive(parent, revision, inside), Path(apart))
        found = Path(apart) / inside
        if not (found / SOURCE).is_file():
            raise NoSuchRevision(f"{folder} is no rule pack in the revision {revision}")
        yield found


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there still; the pack itself may be gone."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _archive(parent: Path, revision: str, inside: Path) -> bytes:
    wanted = [inside.as_posix()]
    core = inside.parent / "core"
    listed = _git(parent, "ls-tree", "-d", "--name-only", revision, f"./{core.as_posix()}")
    if listed.strip() and core != inside:
        wanted.append(core.as_posix())
    return _git(parent, "archive", "--format=tar", revision, *wanted)


def _git(folder: Path, *words: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise NoSuchRevision("git is not installed here") from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NoSuchRevision(f"git: {told[-1] if told else 'it failed'}")
    return done.stdout


def _unpack(archive: bytes, to: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(to, filter="data")
