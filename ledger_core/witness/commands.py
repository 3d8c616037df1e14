"""Command line of a witness, for whoever runs one: one directory, one command.

    init DIR --name NAME [--replaying]      make a witness, show the keys to give to others
    trust DIR VKEY                          follow the log with this key
    serve DIR --listen HOST:PORT [--replay URL_OR_DIR]
    follow DIR URL_OR_DIR [--every SECONDS] read a log by itself and sign what it serves
    evidence DIR [--log URL_OR_DIR]         list contradictions, checked again
    check CASE --key VKEY [--log URL_OR_DIR]  check one piece of evidence, on any machine

Exit codes: 0 done (evidence: none found), 1 refused or evidence found, 3 usage or unreadable input.
"""

import argparse
import math
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger_core.checkpoint import NoteKey, parse_checkpoint, parse_vkey, split_note
from ledger_core.errors import EvidenceInvalid, LedgerError, LedgerUnavailable, OpeningRefused, ReplayRefused
from ledger_core.static import StaticLog
from ledger_core.verify.command import UNUSABLE, Parser
from ledger_core.witness import core
from ledger_core.witness.blocks import confirm_block, verify_evidence
from ledger_core.witness.cases import cases
from ledger_core.witness.core import format_request
from ledger_core.witness.evidence import WRONG_BLOCK, Finding
from ledger_core.witness.home import REPLAYING, WITNESS, Home
from ledger_core.witness.records import Records
from ledger_core.witness.replay import Follower
from ledger_core.witness.server import WitnessServer
from ledger_core.witness.service import Witness
from ledger_core.witness.sources import LogSource, SourceTiles, fetch_checkpoint

FOLLOW_EVERY_S: Final = 10.0
_MAX_WAIT_S: Final = 86_400.0
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Running:
    """A witness with its records open and its directory locked."""

    witness: Witness
    records: Records
    follower: Follower | None
    source: LogSource | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a witness command and return its exit code."""
    arguments = make_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LedgerError as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}", file=sys.stderr)
        return 1
    except (OSError, UnicodeDecodeError) as cause:
        print(f"cannot go on: {type(cause).__name__}: {getattr(cause, 'strerror', None) or ''}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; each command's function is in ``run``."""
    parser = Parser(prog="ledger-core witness", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("init", help="make a witness")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--name", required=True, help="name in cosignatures, such as witness.example.edu/1")
    one.add_argument("--replaying", action="store_true", help="vouch for the state too; needs --replay when serving")
    one.set_defaults(run=lambda given: init(given.folder, given.name, is_replaying=given.replaying))
    one = commands.add_parser("trust", help="follow a log")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("vkey", metavar="VKEY", help="the log's verifier key, from its operator")
    one.set_defaults(run=lambda given: trust(given.folder, given.vkey))
    one = commands.add_parser("serve", help="answer add-checkpoint over HTTP")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--listen", type=_host_port, default="127.0.0.1:8480", metavar="HOST:PORT")
    one.add_argument("--replay", metavar="URL_OR_DIR", help="the log in its static form")
    one.set_defaults(run=lambda given: serve(given.folder, given.listen, given.replay))
    one = commands.add_parser("follow", help="read a log and sign what it serves")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("log", metavar="URL_OR_DIR", help="the log in its static form")
    one.add_argument("--every", type=seconds, metavar="SECONDS", help="go on, looking this often; otherwise once")
    one.set_defaults(run=lambda given: follow(given.folder, given.log, every_s=given.every))
    one = commands.add_parser("evidence", help="list contradictions, checked again")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--log", metavar="URL_OR_DIR", help="a copy of the log, to judge signed blocks by replaying it")
    one.set_defaults(run=lambda given: show_evidence(given.folder, given.log))
    one = commands.add_parser("check", help="check one piece of evidence")
    one.add_argument("case", type=Path, metavar="CASE")
    one.add_argument("--key", action="append", required=True, metavar="VKEY", help="the log's verifier key")
    one.add_argument("--log", metavar="URL_OR_DIR")
    one.set_defaults(run=lambda given: check(given.case, given.key, given.log))
    return parser


def init(folder: Path, name: str, *, is_replaying: bool = False) -> int:
    """Make a witness and print what its readers need."""
    home = Home.create(folder, name, role=REPLAYING if is_replaying else WITNESS)
    print(f"{home.name} ({home.role}). Give these keys to the log's operator and to readers of receipts:")
    print("\n".join(home.vkeys()))
    return 0


def trust(folder: Path, vkey: str) -> int:
    """Follow a log from now on."""
    key = Home.open(folder).trust(vkey)
    print(f"follows {key.name}")
    return 0


def serve(folder: Path, listen: tuple[str, int], replay: str | None) -> int:
    """Answer until interrupted."""
    if replay is not None and Home.open(folder).role != REPLAYING:
        raise OpeningRefused("this witness was made without --replaying; its keys already say something else")
    with running(folder, replay) as run, WitnessServer(listen, run.witness) as server:
        if run.follower is not None:
            threading.Thread(target=_keep_following, args=(run.follower,), name="follow", daemon=True).start()
        host = f"[{listen[0]}]" if ":" in listen[0] else listen[0]
        _say(f"{run.witness.home.name} listens on {host}:{server.server_address[1]}")
        try:
            server.serve_forever()
        finally:
            server.shutdown()
    return 0


def follow(folder: Path, log: str, *, every_s: float | None = None) -> int:
    """Sign what a log serves, once or again and again, and print the cosigned checkpoint."""
    if not Home.open(folder).trusted():
        raise OpeningRefused(
            "this witness trusts no log yet: get the log's verifier key from its operator, "
            f"then run `ledger-core witness trust {folder} VKEY`"
        )
    with running(folder, log) as run:
        while True:
            try:
                print(follow_once(run), end="", flush=True)
            except LedgerUnavailable as cause:
                if every_s is None:
                    raise
                _say(f"not now: {cause}")
            if every_s is None:
                return 0
            time.sleep(every_s)


def follow_once(run: Running) -> str:
    """Judge the checkpoint that the log serves like a submitted one; return it cosigned.

    Raises:
        ReplayRefused: The log signed something wrong, or contradicts what was signed here; evidence is kept.
        LedgerUnavailable: The log could not be read, or serves what it did not sign.
    """
    if run.source is None:
        raise LedgerUnavailable("there is no log to read")
    if run.follower is None:
        checkpoint, note = fetch_checkpoint(run.source, run.witness.home.trusted())
    else:
        # Without a time limit: the first reading of a long log takes minutes.
        checkpoint, note = run.follower.follow()
    seen = run.records.newest(checkpoint.origin)
    old_size = 0 if seen is None else seen.size
    proof: tuple[bytes, ...] = ()
    if 0 < old_size < checkpoint.size:
        proof = SourceTiles(run.source).prove_consistency(old_size, checkpoint.size)
    answer = run.witness.add_checkpoint(format_request(note, min(old_size, checkpoint.size), proof))
    if answer.status == core.ACCEPTED:
        return note + answer.body
    if answer.status == core.CONFLICT:
        raise ReplayRefused(f"the log serves {checkpoint.size} entries; {answer.body.strip()} were cosigned before")
    if answer.status == core.UNAVAILABLE:
        raise LedgerUnavailable(answer.body.strip())
    raise ReplayRefused(answer.body.strip())


def seconds(text: str) -> float:
    """Return a time to wait, given on a command line.

    Raises:
        argparse.ArgumentTypeError: It is none, or longer than a day.
    """
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= _MAX_WAIT_S:
        raise argparse.ArgumentTypeError(f"seconds from more than 0 to {_MAX_WAIT_S:.0f}, not {text!r}")
    return found


@contextmanager
def running(folder: Path, log: str | None) -> Iterator[Running]:
    """Open a witness to sign with; ``log`` is what a replaying one replays, or what ``follow`` reads.

    Raises:
        LedgerLocked: Another process runs it.
        OpeningRefused: There is no witness, or a replaying one was given no log.
        IntegrityBroken: Its replayed state does not lead to the roots kept beside it.
    """
    home = Home.open(folder)
    with home.locked():
        records = home.records()
        try:
            source = None if log is None else StaticLog.open(log)
            follower = None
            if home.role == REPLAYING:
                if source is None:
                    raise OpeningRefused("a replaying witness needs the log in its static form (--replay)")
                follower = Follower(home, records, source, clock_s=_clock_s, report=_say)
            witness = Witness(home, records, clock_s=_clock_s, replay=follower, report=_say)
            yield Running(witness, records, follower, source)
        finally:
            records.close()


def show_evidence(folder: Path, log: str | None) -> int:
    """List every case with what it proves today; 1 when there is any."""
    home = Home.open(folder)
    records = home.records()
    count = 0
    try:
        for case in cases(home.evidence):
            count += 1
            try:
                finding = _check_case(case, _all_keys(home), log)
                word = "PROOF" if finding.is_proof else _settled(case, finding, records)
                print(f"{case}\n    {word} of {finding.kind} by {finding.origin}: {finding.statement}")
            except EvidenceInvalid as cause:
                print(f"{case}\n    does not hold: {cause}")
    finally:
        records.close()
    print("no evidence" if not count else "1 case" if count == 1 else f"{count} cases")
    return 1 if count else 0


def check(case: Path, vkeys: Sequence[str], log: str | None) -> int:
    """Check one case under keys from elsewhere; 1 when it holds as proof, 0 when it proves nothing."""
    finding = _check_case(case, tuple(parse_vkey(vkey) for vkey in vkeys), log)
    print(
        f"{'PROOF' if finding.is_proof else 'suspicion'} of {finding.kind} by {finding.origin}: {finding.statement}"
    )
    return 1 if finding.is_proof else 0


def _host_port(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^:\[\]]+):([0-9]{1,5})", text)
    if found is None or int(found[2]) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"listen on HOST:PORT, a port being 0 to {_MAX_PORT}, not on {text!r}")
    host = found[1].strip("[]")
    try:
        host.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"no host can have the name {host!r}") from None
    return host, int(found[2])


def _check_case(case: Path, keys: tuple[NoteKey, ...], log: str | None) -> Finding:
    finding = verify_evidence(case, keys)
    if finding.kind == WRONG_BLOCK and log is not None:
        return confirm_block(case, keys, StaticLog.open(log))
    return finding


def _settled(case: Path, finding: Finding, records: Records) -> str:
    if (case / "second.note").exists():
        later = parse_checkpoint(split_note((case / "second.note").read_text("utf-8"))[0])
        if records.note_at(later.origin, later.size) is not None:
            return "settled suspicion (this tree was proven and cosigned later)"
    return "suspicion"


def _all_keys(home: Home) -> tuple[NoteKey, ...]:
    return tuple(key for keys in home.trusted().values() for key in keys)


def _keep_following(follower: Follower) -> None:
    while True:
        try:
            follower.follow()
        except ReplayRefused as cause:
            _say(f"the log is refused: {cause}")
        except LedgerError as cause:
            _say(f"not now: {cause}")
        time.sleep(FOLLOW_EVERY_S)


def _clock_s() -> int:
    return int(time.time())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
