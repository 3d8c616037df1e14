"""Commands for others to watch a ledger: checkpoint (with witnesses) and tiles."""

import argparse
import sys
from pathlib import Path

from ledger_core.checkpoint import parse_vkey
from ledger_core.cli import home
from ledger_core.cli.progress import counting
from ledger_core.errors import PolicyUnmet
from ledger_core.opening import run_static
from ledger_core.witness.client import WitnessAddress, gather


def checkpoint(arguments: argparse.Namespace) -> int:
    """Print a fresh checkpoint; with witnesses, ask them to cosign it and keep what they signed."""
    witnesses = [
        WitnessAddress(url, tuple(parse_vkey(vkey) for vkey in vkeys.split(","))) for url, vkeys in arguments.witness
    ]
    with home.reopen(Path(arguments.folder)) as ledger:
        note = ledger.checkpoint()
        if witnesses:
            keys = [key for witness in witnesses for key in witness.keys]
            quorum = len(witnesses) if arguments.quorum is None else arguments.quorum
            gathered = gather(ledger, note, witnesses, quorum=quorum, timeout_s=arguments.timeout)
            for outcome in gathered.outcomes:
                print(f"{outcome.witness.name}: {outcome.problem or 'cosigned'}", file=sys.stderr)
            if not gathered.has_quorum:
                raise PolicyUnmet(f"{gathered.count} of {quorum} witnesses cosigned; nothing was kept")
            note = gathered.note
            ledger.keep_checkpoint(note, keys)
    sys.stdout.write(note)
    return 0


def tiles(arguments: argparse.Namespace) -> int:
    """Write or renew the static form of the log (C2SP tlog-tiles)."""
    with counting("entries") as progress:
        size = run_static(
            home.database(arguments.ledger),
            Path(arguments.directory),
            is_cosigned=arguments.cosigned,
            progress=lambda done, total: progress(done),
        )
    print(f"{size} entries in {arguments.directory}: serve it as static files")
    return 0
