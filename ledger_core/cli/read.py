"""Commands that only read: show, prove, renew, fsck, export, replay, snapshot.

``fsck``, ``export`` and ``snapshot`` take a folder of ``init`` or a database file, and work beside a
process that has the ledger open. ``prove`` and ``renew`` sign a new checkpoint, so they, and ``show``,
open the ledger themselves, with its keys.
"""

import argparse
import sys
from pathlib import Path

from ledger_core.cli import home
from ledger_core.cli.progress import counting
from ledger_core.cli.write import spelled
from ledger_core.errors import OpeningRefused
from ledger_core.opening import run_export, run_fsck, run_snapshot
from ledger_core.transfer import replay_export
from ledger_core.values import HELD_TYPES


def show(arguments: argparse.Namespace) -> int:
    """Print what a ledger holds now, and its newest checkpoint."""
    with home.reopen(Path(arguments.folder)) as ledger:
        cosigned = ledger.cosigned_size
        print(f"origin    {ledger.origin}")
        print(f"network   {ledger.network.hex()}")
        print(f"height    {ledger.height}")
        print(f"size      {ledger.size}")
        print(f"app hash  {ledger.app_hash.hex()}")
        print(f"cosigned  {'never' if cosigned is None else f'up to size {cosigned}'}")
    return 0


def prove(arguments: argparse.Namespace) -> int:
    """Print a receipt of an entry, or of what state holds or held."""
    cosigned = arguments.cosigned
    with home.reopen(Path(arguments.folder)) as ledger:
        if arguments.entry is not None:
            text = ledger.transaction_receipt(arguments.entry, is_cosigned=cosigned)
        else:
            kind, key = _kind(arguments.state[0]), _key(arguments.state[1])
            if arguments.since is not None:
                text = ledger.revocation_receipt(kind, key, arguments.since, is_cosigned=cosigned)
            elif arguments.height is not None:
                text = ledger.past_state_receipt(kind, key, arguments.height, is_cosigned=cosigned)
            else:
                text = ledger.state_receipt(kind, key, is_cosigned=cosigned)
    sys.stdout.write(spelled(text, arguments.form))
    return 0


def renew(arguments: argparse.Namespace) -> int:
    """Print a receipt again, under a newer checkpoint or a cosigned one."""
    text = Path(arguments.receipt).read_bytes().decode()
    with home.reopen(Path(arguments.folder)) as ledger:
        renewed = ledger.renewed(text, is_cosigned=arguments.cosigned)
    sys.stdout.write(spelled(renewed, arguments.form))
    return 0


def fsck(arguments: argparse.Namespace) -> int:
    """Rebuild every root and list what disagrees."""
    note = None if arguments.checkpoint is None else Path(arguments.checkpoint).read_bytes().decode()
    count = 0
    with counting("entries") as progress:
        for finding in run_fsck(home.database(arguments.ledger), checkpoint=note, progress=progress):
            count += 1
            print(f"{finding.where}: {finding.what}")
    print(f"{count} findings" if count else "sound: every root follows from the transactions")
    return 1 if count else 0


def export(arguments: argparse.Namespace) -> int:
    """Write the portable stream to standard output."""
    sys.stdout.writelines(run_export(home.database(arguments.ledger)))
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """Check an exported stream and print where it ends."""
    with Path(arguments.file).open(encoding="ascii") as lines:
        state = replay_export(lines)
    print(f"sound: height {state.header.height}, size {state.log.size}, app hash {state.app_hash.hex()}")
    return 0


def snapshot(arguments: argparse.Namespace) -> int:
    """Copy a ledger, which may be in use, to a new file."""
    run_snapshot(home.database(arguments.ledger), Path(arguments.target))
    print(f"snapshot in {arguments.target}: restore it with `ledger-core restore`")
    return 0


def _kind(text: str) -> str:
    if text not in HELD_TYPES:
        raise OpeningRefused(f"there is no state of kind {text!r}; kinds are {', '.join(sorted(HELD_TYPES))}")
    return text


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise OpeningRefused(f"a state key is hexadecimal, not {text!r}") from None
