"""Files that survive loss of power whole or not at all.

Invariant: under its final name a file or folder is never seen half written.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_durably(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content``; return once that survives loss of power."""
    temporary = path.with_name(f".{path.name}.new")
    _write(temporary, content, mode)
    temporary.replace(path)
    sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> bool:
    """Make folder ``path`` with these files, at once and durably; False when it exists already."""
    if path.exists():
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    for name, content in files.items():
        _write(temporary / name, content, 0o644)
    sync_folder(temporary)
    try:
        temporary.rename(path)
    except OSError:
        # Another thread found the same thing and was quicker.
        shutil.rmtree(temporary, ignore_errors=True)
        return False
    sync_folder(path.parent)
    return True


def sync_folder(path: Path) -> None:
    """Make the names in folder ``path`` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
