"""The command line ``ledger-core``, also ``python -m ledger_core``.

Exit codes: 0 sound, 1 refused or findings, 2 not authenticated, 3 usage or unreadable input.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeAlias

from ledger_core.cli import publish, read, write
from ledger_core.errors import LedgerError
from ledger_core.verify import main as verify
from ledger_core.verify.command import PIPE_CLOSED, Parser
from ledger_core.witness.commands import main as witness
from ledger_core.witness.commands import seconds

USAGE: Final = 3
_FORMS: Final = ("json", "tlog-proof")
_DESCRIPTION: Final = """\
A ledger whose every statement can be checked without trusting who runs it.

DIR is a folder that `init` made; LEDGER such a folder, a database file, or a
PostgreSQL database (postgresql://USER@HOST/DATABASE; give its password by
PGPASSWORD or PGPASSFILE, for command lines are seen by others).
"""
_Command: TypeAlias = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["verify"]:
        return verify(given[1:])
    if given[:1] == ["witness"]:
        return witness(given[1:])
    parser = _parser()
    arguments = parser.parse_args(given)
    command: _Command = arguments.run
    try:
        if command is read.prove and arguments.state is None and (arguments.height, arguments.since) != (None, None):
            parser.error("--height and --since go with --state")
        if command is publish.checkpoint and arguments.quorum not in (None, *range(1, len(arguments.witness) + 1)):
            parser.error("--quorum is from 1 to the number of witnesses named")
        status = command(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except LedgerError as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}", file=sys.stderr)
        return 1
    except OSError as cause:
        named = f" {cause.filename}" if cause.filename else ""
        print(f"cannot read or write{named}: {cause.strerror}", file=sys.stderr)
        return USAGE
    except UnicodeDecodeError:
        print("cannot read: a file named is not text", file=sys.stderr)
        return USAGE


def run() -> NoReturn:
    """Entry point of the installed command."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ledger-core", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: _Command, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    _add_writing(add)
    _add_proving(add)
    _add_keeping(add)
    for name, text in (
        ("verify", "check a receipt, offline: RECEIPT [--record FILE] [--policy FILE]"),
        ("witness", "run a witness of somebody's log: see `witness --help`"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return parser


_Add: TypeAlias = Callable[[str, _Command, str], argparse.ArgumentParser]


def _add_writing(add: _Add) -> None:
    init = add("init", write.init, "make keys, a new ledger and a policy for those who verify")
    init.add_argument("folder", metavar="DIR")
    init.add_argument("--name", required=True, help="the log's name in checkpoints, such as example.org/ledger")
    init.add_argument("--database", metavar="URL", help="keep the ledger in a PostgreSQL database; keys stay in DIR")
    append = add("append", write.append, "anchor files and write a receipt for each; their content stays with you")
    append.add_argument("folder", metavar="DIR")
    append.add_argument("files", metavar="FILE", nargs="+")
    append.add_argument("--receipts", metavar="FOLDER", help="where receipts go; beside each file by default")
    _add_form(append)
    prune = add("prune", write.prune, "drop state that was superseded at or below a height")
    prune.add_argument("folder", metavar="DIR")
    prune.add_argument("height", type=_height)


def _add_proving(add: _Add) -> None:
    show = add("show", read.show, "print origin, height, size and app hash")
    show.add_argument("folder", metavar="DIR")
    prove = add("prove", read.prove, "print a receipt of a log entry, or of what state holds or held")
    prove.add_argument("folder", metavar="DIR")
    what = prove.add_mutually_exclusive_group(required=True)
    what.add_argument("--entry", type=int, metavar="N", help="a log entry")
    what.add_argument("--state", nargs=2, metavar=("KIND", "KEY"), help="state of a kind under a hexadecimal key")
    when = prove.add_mutually_exclusive_group()
    when.add_argument("--height", type=int, help="with --state: as it was after that block")
    when.add_argument("--since", type=int, help="with --state: that what held after that block holds no longer")
    prove.add_argument("--cosigned", action="store_true", help="under the largest checkpoint that witnesses cosigned")
    _add_form(prove)
    renew = add("renew", read.renew, "print a receipt again: under a newer checkpoint, or a cosigned one")
    renew.add_argument("folder", metavar="DIR")
    renew.add_argument("receipt", metavar="RECEIPT", help="also a .part that an interrupted append left")
    renew.add_argument("--cosigned", action="store_true", help="under the largest checkpoint that witnesses cosigned")
    _add_form(renew)
    checkpoint = add("checkpoint", publish.checkpoint, "print a fresh checkpoint, cosigned if witnesses are named")
    checkpoint.add_argument("folder", metavar="DIR")
    checkpoint.add_argument(
        "--witness",
        nargs=2,
        action="append",
        default=[],
        metavar=("URL", "VKEY"),
        help="ask this one; may be repeated; several keys of one witness are joined by commas",
    )
    checkpoint.add_argument("--quorum", type=int, help="how many must cosign; all by default")
    checkpoint.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="SECONDS", help="for all of them together"
    )
    tiles = add("tiles", publish.tiles, "write the log as static files (C2SP tlog-tiles); repeat to renew them")
    tiles.add_argument("ledger", metavar="LEDGER", help="may be in use")
    tiles.add_argument("directory", metavar="DIRECTORY")
    tiles.add_argument("--cosigned", action="store_true", help="up to the largest cosigned checkpoint only")


def _add_keeping(add: _Add) -> None:
    fsck = add("fsck", read.fsck, "rebuild every root from the transactions and list what disagrees")
    fsck.add_argument("ledger", metavar="LEDGER", help="may be in use")
    fsck.add_argument("--checkpoint", metavar="FILE", help="a checkpoint kept elsewhere, to notice a rollback")
    export = add("export", read.export, "write the portable stream to standard output")
    export.add_argument("ledger", metavar="LEDGER", help="may be in use")
    replay = add("replay", read.replay, "check an exported stream")
    replay.add_argument("file", metavar="FILE")
    import_ = add("import", write.import_, "write an exported ledger to a new place, replaying it whole")
    import_.add_argument("file", metavar="FILE", help="a file that export wrote; - for standard input")
    import_.add_argument("ledger", metavar="LEDGER", help="a folder, file or database where there is no ledger")
    snapshot = add("snapshot", read.snapshot, "copy a ledger, as of one block, to a new file")
    snapshot.add_argument("ledger", metavar="LEDGER", help="may be in use")
    snapshot.add_argument("target", metavar="FILE")
    migrate = add("migrate", write.migrate, "bring a ledger's rows to another layout, for an older build or a newer")
    migrate.add_argument("ledger", metavar="LEDGER", help="not in use")
    migrate.add_argument("--to", type=_height, required=True, metavar="N", help="number of the layout")
    restore = add("restore", write.restore, "check a snapshot as fsck does and put it in place")
    restore.add_argument("snapshot", metavar="FILE")
    restore.add_argument("ledger", metavar="LEDGER", help="a folder, file or database where there is no ledger")
    restore.add_argument("--checkpoint", metavar="FILE", help="refuse a snapshot older than this checkpoint")


def _height(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a height is a number of 0 or more, not {text!r}")
    return int(text)


def _add_form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", choices=_FORMS, default="json", help="spelling of receipts; C2SP text or JSON")
