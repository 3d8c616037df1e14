"""Command line for people who hold a ledger file: ``python -m ledger_core COMMAND``.

    verify RECEIPT [--record FILE] [--policy FILE]    check a receipt, offline
    fsck LEDGER [--checkpoint FILE]                   rebuild every root, say what disagrees
    export LEDGER                                     write the portable stream to standard output
    replay FILE                                       check an exported stream, show its newest roots

Exit codes: 0 sound, 1 refused or findings, 2 not authenticated, 3 usage or unreadable input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger_core.errors import LedgerError
from ledger_core.opening import run_export, run_fsck
from ledger_core.transfer import replay_export
from ledger_core.verify import main as verify


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["verify"]:
        return verify(given[1:])
    arguments = _parse(given)
    try:
        if arguments.command == "fsck":
            return _fsck(arguments.ledger, arguments.checkpoint)
        if arguments.command == "export":
            sys.stdout.writelines(run_export(arguments.ledger))
            return 0
        return _replay(arguments.file)
    except LedgerError as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as cause:
        print(f"cannot read input: {type(cause).__name__}", file=sys.stderr)
        return 3


def _fsck(ledger: str, checkpoint: str | None) -> int:
    note = None if checkpoint is None else Path(checkpoint).read_bytes().decode()
    count = 0
    for finding in run_fsck(ledger, checkpoint=note):
        count += 1
        print(f"{finding.where}: {finding.what}")
    print(f"{count} findings" if count else "sound: every root follows from the transactions")
    return 1 if count else 0


def _replay(file: str) -> int:
    with Path(file).open(encoding="ascii") as lines:
        state = replay_export(lines)
    print(f"sound: height {state.header.height}, size {state.log.size}, app hash {state.app_hash.hex()}")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ledger_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("verify", help="check a receipt, offline", add_help=False)
    fsck = commands.add_parser("fsck", help="rebuild every root from the transactions")
    fsck.add_argument("ledger", help="ledger file; may be open elsewhere")
    fsck.add_argument("--checkpoint", help="a checkpoint kept outside, to notice a rollback")
    export = commands.add_parser("export", help="write the portable stream to standard output")
    export.add_argument("ledger", help="ledger file; may be open elsewhere")
    replay = commands.add_parser("replay", help="check an exported stream")
    replay.add_argument("file", help="a file that export wrote")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
