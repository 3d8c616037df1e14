"""Commands that change a ledger or make one: init, append, prune, import, restore.

Each takes parsed arguments, prints what a person wants to know, and returns the
exit code. Errors of the ledger's tree are left to ``main``.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ledger_core.cli import home
from ledger_core.cli.progress import counting
from ledger_core.commitment import Opening, OpenPart, new_salt
from ledger_core.errors import OpeningRefused, TransactionRefused
from ledger_core.log import MerkleBatch
from ledger_core.opening import run_import, run_migrate, run_restore
from ledger_core.places import is_url
from ledger_core.receipt import LogPath, Receipt, RecordClaim
from ledger_core.transactions import Anchor
from ledger_core.witness.files import write_durably


def init(arguments: argparse.Namespace) -> int:
    """Make keys, a ledger and a policy file."""
    folder = Path(arguments.folder)
    now_ms = time.time_ns() // 1_000_000
    with home.create(folder, arguments.name, time_ms=now_ms, url=arguments.database) as ledger:
        print(f"ledger {ledger.origin} begun in {folder}")
        print(f"  network {ledger.network.hex()}")
        print(f"  keep {folder / 'keys'} secret and backed up; give {folder / 'policy.json'} to whoever verifies")
    return 0


def append(arguments: argparse.Namespace) -> int:
    """Anchor files in one transaction and write a receipt beside each.

    The salts, without which nothing can be proved of a file, are written before it
    is anchored: ``NAME.part`` is a receipt that ``renew`` completes after a crash.
    Where nothing was anchored for certain, nothing of it stays.
    """
    files = [Path(name) for name in arguments.files]
    contents = [file.read_bytes() for file in files]
    targets = [_target(file, arguments.receipts, arguments.form) for file in files]
    _check_targets(targets)
    openings = [
        Opening(new_salt(), {"name": file.name}, {"content": OpenPart.of(new_salt(), content)})
        for file, content in zip(files, contents, strict=True)
    ]
    batch = MerkleBatch([opening.commitment() for opening in openings])
    folder = Path(arguments.folder)
    with home.reopen(folder) as ledger:
        envelope = ledger.sign(Anchor(batch.root, batch.count), home.read_key(folder, home.OPERATOR_KEY))
        note = ledger.checkpoint()
        is_submitted = False
        try:
            for place, (opening, path, target) in enumerate(zip(openings, batch.paths(), targets, strict=True)):
                claim = RecordClaim(opening, place, path, envelope)
                write_durably(_part(target), Receipt(claim, LogPath(0, ()), note).encode().encode())
            is_submitted = True
            accepted = ledger.submit(envelope).result()
        except (OSError, TransactionRefused) as cause:
            if not is_submitted or isinstance(cause, TransactionRefused):
                for target in targets:
                    _part(target).unlink(missing_ok=True)
            raise
        what = "1 file" if len(files) == 1 else f"{len(files)} files"
        print(f"anchored {what} as entry {accepted.index}, height {accepted.height}")
        for file, target in zip(files, targets, strict=True):
            text = ledger.renewed(_part(target).read_text("utf-8"))
            write_durably(target, spelled(text, arguments.form).encode())
            _part(target).unlink()
            print(f"  {file}: receipt in {target}")
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Drop superseded state below a height."""
    with home.reopen(Path(arguments.folder)) as ledger:
        height = min(arguments.height, ledger.height)
        dropped = ledger.prune(height)
    print(f"dropped {dropped} superseded values; state from height {height} on stays provable")
    return 0


def import_(arguments: argparse.Namespace) -> int:
    """Write an exported ledger to a new place, replaying it whole."""
    with counting("entries") as progress:
        state = run_import(_lines(arguments.file), _new_database(arguments.ledger), progress=progress)
    print(f"imported: height {state.header.height}, size {state.log.size}, app hash {state.app_hash.hex()}")
    return 0


def restore(arguments: argparse.Namespace) -> int:
    """Check a snapshot and put it in place."""
    note = None if arguments.checkpoint is None else Path(arguments.checkpoint).read_bytes().decode()
    count = 0
    with counting("entries") as progress:
        target = _new_database(arguments.ledger)
        for finding in run_restore(Path(arguments.snapshot), target, checkpoint=note, progress=progress):
            count += 1
            print(f"{finding.where}: {finding.what}")
    where = "the database" if is_url(target) else target
    print(f"not restored: {count} findings" if count else f"restored to {where}")
    return 1 if count else 0


def migrate(arguments: argparse.Namespace) -> int:
    """Bring a ledger's rows to another layout."""
    found, steps = run_migrate(home.database(arguments.ledger), arguments.to)
    for step in steps:
        print(f"{'undone' if arguments.to < found else 'done'}: {step}")
    print(f"layout {arguments.to}" if found == arguments.to else f"layout {found} became {arguments.to}")
    return 0


def spelled(text: str, form: str) -> str:
    """Return a receipt in the form asked for, ``json`` or ``tlog-proof``."""
    return text if form == "json" else Receipt.decode(text).encode_text()


def _check_targets(targets: list[Path]) -> None:
    if len(set(targets)) < len(targets):
        raise OpeningRefused("two of the files would share one receipt: append them apart, or without --receipts")
    for target in targets:
        if _part(target).exists():
            raise OpeningRefused(
                f"{_part(target)} is of an append that was cut short: `ledger-core renew` completes it,"
                " or says that nothing was anchored; then remove it"
            )
        if target.exists():
            raise OpeningRefused(f"{target} exists: it proves what was anchored before; move it, or name --receipts")
        if not target.parent.is_dir():
            raise OpeningRefused(f"there is no folder {target.parent} for receipts")


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _lines(file: str) -> Iterator[str]:
    if file == "-":
        yield from sys.stdin
        return
    with Path(file).open(encoding="ascii") as lines:
        yield from lines


def _target(file: Path, receipts: str | None, form: str) -> Path:
    suffix = ".receipt.json" if form == "json" else ".tlog-proof"
    return (file.parent if receipts is None else Path(receipts)) / (file.name + suffix)


def _new_database(place: str) -> Path | str:
    """Return what to make: a file, in a folder if ``place`` is one or has no suffix, or what is in a database."""
    if is_url(place) or (Path(place) / home.ADDRESS).is_file():
        return home.database(place)
    path = Path(place)
    return path / home.DATABASE if path.is_dir() or not path.suffix else path
