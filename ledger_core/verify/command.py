"""The verifier's command line: files in, one line that says it all, an exit code.

Exit codes: 0 verified, 1 refused, 2 not authenticated, 3 usage or unreadable file.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn

from ledger_core.errors import LedgerError
from ledger_core.policy import Policy
from ledger_core.verify.claims import show
from ledger_core.verify.receipts import Outcome, verify_receipt
from ledger_core.verify.trust import NOT_AUTHENTICATED, OPERATOR_ATTESTED

VERIFIED: Final = 0
REFUSED: Final = 1
UNAUTHENTICATED: Final = 2
UNUSABLE: Final = 3
# What a shell reports of a program that SIGPIPE ended.
PIPE_CLOSED: Final = 141


class Parser(argparse.ArgumentParser):
    """Argparse leaves with 2 when misused, which in every command of ours means something else."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parse(argv)
    try:
        receipt_text = _text(arguments.receipt)
        records = [Path(name).read_bytes() for name in arguments.record]
        policy_text = None if arguments.policy is None else _text(arguments.policy)
    except OSError as cause:
        print(f"cannot read {cause.filename}: {cause.strerror}", file=sys.stderr)
        return UNUSABLE
    except ValueError as cause:
        print(f"cannot read: {cause}", file=sys.stderr)
        return UNUSABLE
    try:
        status = _judge(receipt_text, records, policy_text, is_json=arguments.json)
        sys.stdout.flush()
    except OSError as cause:
        # Whoever read our output went away, or the disk is full; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(cause, BrokenPipeError):
            return PIPE_CLOSED
        print(f"cannot write the outcome: {cause.strerror}", file=sys.stderr)
        return UNUSABLE
    return status


def _text(name: str) -> str:
    try:
        return Path(name).read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not text") from None


def _judge(receipt_text: str, records: list[bytes], policy_text: str | None, *, is_json: bool) -> int:
    try:
        policy = None if policy_text is None else Policy.decode(policy_text)
        outcome = verify_receipt(receipt_text, records=records, policy=policy)
    except LedgerError as refusal:
        _print_refusal(refusal, is_json=is_json)
        return REFUSED
    if is_json:
        _print_json(_as_object(outcome))
    else:
        _print_outcome(outcome)
    return UNAUTHENTICATED if outcome.vouched == NOT_AUTHENTICATED else VERIFIED


def _print_refusal(refusal: LedgerError, *, is_json: bool) -> None:
    if is_json:
        _print_json({"outcome": "refused", "code": refusal.code, "message": str(refusal)})
    else:
        _say(f"REFUSED ({refusal.code}): {refusal}")


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2))


def _as_object(outcome: Outcome) -> dict[str, object]:
    signed_at = outcome.signed_at
    records = [
        {"facts": {name: show(fact) for name, fact in sorted(item.facts.items())}, "matched": list(item.matched)}
        for item in outcome.records
    ]
    return {
        "outcome": outcome.vouched,
        "claim": outcome.claim,
        "vouchers": {word: list(names) for word, names in outcome.vouchers.items()},
        "origin": outcome.checkpoint.origin,
        "size": outcome.checkpoint.size,
        "root": outcome.checkpoint.root.hex(),
        "signed_at": None if signed_at is None else signed_at.isoformat(),
        "age_s": None if signed_at is None else _age_s(signed_at, outcome.judged_at),
        "records": records,
        "details": dict(outcome.details),
    }


def _print_outcome(outcome: Outcome) -> None:
    word = "NOT AUTHENTICATED" if outcome.vouched == NOT_AUTHENTICATED else "VERIFIED"
    names = () if outcome.vouched == OPERATOR_ATTESTED else outcome.vouchers.get(outcome.vouched, ())
    by = f" by {', '.join(names)}" if names else ""
    matched = f", file is its {outcome.matched} form" if outcome.matched else ""
    _say(f"{word}: {outcome.claim}{matched}; {outcome.vouched}{by}")
    if outcome.vouched == NOT_AUTHENTICATED:
        _say("  no policy was given: the hashes agree, but nobody you trust vouches for them")
    _say(f"  log: {outcome.checkpoint.origin}, size {outcome.checkpoint.size}")
    for role, names in outcome.vouchers.items():
        _say(f"  {role}: {', '.join(names)}")
    if outcome.signed_at is not None:
        age = timedelta(seconds=_age_s(outcome.signed_at, outcome.judged_at))
        _say(f"  checkpoint signed at: {outcome.signed_at.isoformat()} ({age} ago)")
    for number, item in enumerate(outcome.records, 1):
        head = "  " if len(outcome.records) == 1 else f"  record {number}, "
        if len(outcome.records) > 1 and item.matched:
            _say(f"{head}file is its form: {', '.join(item.matched)}")
        for name in sorted(item.facts):
            _say(f"{head}fact {name}: {show(item.facts[name])}")
    for name, value in outcome.details:
        _say(f"  {name}: {value}")


def _say(line: str) -> None:
    """Print one line: what is not printable in a receipt's texts is spelled out, or they could draw over ours."""
    print("".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line))


def _age_s(signed_at: datetime, judged_at: datetime) -> int:
    """Whole seconds between signing and looking; clocks that differ a little never give less than none."""
    return max(0, (judged_at - signed_at) // timedelta(seconds=1))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="ledger-verify", description="Check a receipt, offline.")
    parser.add_argument("receipt", help="receipt file: JSON or tlog-proof text")
    parser.add_argument(
        "--record",
        action="append",
        default=[],
        help="a record at hand; must be a part the receipt opens, exactly (may be given more than once)",
    )
    parser.add_argument("--policy", help="policy file; without one nothing is authenticated (exit code 2)")
    parser.add_argument("--json", action="store_true", help="say it in JSON")
    return parser.parse_args(argv)
