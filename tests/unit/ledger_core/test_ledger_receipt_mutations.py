"""Receipts changed at random, in bits, lengths, order, and by splicing valid ones: none is accepted.

``LEDGER_MUTATIONS`` says how many to try (a thousand by default, a million
before a release); ``LEDGER_MUTATION_SEED`` gives another run.
"""

import base64
import os
import random
from dataclasses import replace

import pytest

from ledger_core import LedgerError, Policy, Receipt
from tests.unit.ledger_core.ledger_receipt_samples import (
    ENTRIES,
    POLICY,
    RECEIPTS,
    ROOTS,
    cosigned,
    cosigner,
    note_over,
    path_to,
    refuse,
)

COUNT = int(os.environ.get("LEDGER_MUTATIONS", "1000"))
SEED = int(os.environ.get("LEDGER_MUTATION_SEED", "20261123"))
LONGER = (*ENTRIES, b"later", ROOTS[3])

# Every signature in these receipts is needed, so that every byte of them counts.
COSIGNERS = (cosigner(31, "w1.example"), cosigner(32, "w2.example", suite=2), cosigner(41, "r1.example"))
ALL_NEEDED = replace(
    POLICY,
    witnesses=tuple(key for key, _ in COSIGNERS[:2]),
    quorum=2,
    replaying=(COSIGNERS[2][0],),
    replaying_quorum=1,
)


def _longer(name: str) -> Receipt:
    """The same claim under a later checkpoint of the same log."""
    receipt = RECEIPTS[name]
    return Receipt(receipt.claim, path_to(ENTRIES[receipt.log.index], LONGER), note_over(LONGER))


PLAIN = [*RECEIPTS.values(), *(_longer(name) for name in ("record", "transaction", "past present", "past absent"))]
# Once for each checkpoint: ML-DSA-44 signs differently each time, and either signature may stand for the other.
_NOTES = {
    note: cosigned(receipt, *COSIGNERS).checkpoint for note, receipt in {r.checkpoint: r for r in PLAIN}.items()
}
SIGNED = [replace(receipt, checkpoint=_NOTES[receipt.checkpoint]) for receipt in PLAIN]


def _texts(receipts: list[Receipt]) -> list[str]:
    return [text for receipt in receipts for text in (receipt.encode(), receipt.encode_text())]


def _mutate(chance: random.Random, text: str, others: list[str]) -> str:
    begin = chance.randrange(len(text))
    end = min(len(text), begin + chance.choice((1, 1, 2, 4, 44, 45, 200)))
    match chance.randrange(9):
        case 0:
            return text[:begin] + chr(ord(text[begin]) ^ 1 << chance.randrange(7)) + text[begin + 1 :]
        case 1:
            return text[:begin] + text[end:]
        case 2:
            return text[:end] + text[begin:]
        case 3:
            return text[:begin]
        case 4:
            other = chance.choice(others)
            return text[:begin] + other[chance.randrange(len(other)) :]
        case 5:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            return text[:begin] + other[start : start + end - begin] + text[end:]
        case 6:
            return _swap_lines(chance, text)
        case 7:
            return _splice_lines(chance, text, chance.choice(others))
    return _change_bytes(chance, text)


def _swap_lines(chance: random.Random, text: str) -> str:
    lines = text.split("\n")
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return "\n".join(lines)


def _splice_lines(chance: random.Random, text: str, other: str) -> str:
    """Whole lines of another receipt in place of the same, or of any, lines."""
    lines, donor = text.split("\n"), other.split("\n")
    begin = chance.randrange(len(lines))
    count = chance.randrange(1, 6)
    start = min(begin, len(donor) - 1) if chance.random() < 0.5 else chance.randrange(len(donor))
    return "\n".join([*lines[:begin], *donor[start : start + count], *lines[begin + count :]])


def _change_bytes(chance: random.Random, text: str) -> str:
    """One bit of what a base64 word stands for, spelled canonically again."""
    words = text.split(" ")
    place = chance.randrange(len(words))
    head, _, tail = words[place].partition("\n")
    core = head.strip('",')
    try:
        data = bytearray(base64.b64decode(core, validate=True))
    except ValueError:
        return text
    if not data:
        return text
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    changed = head.replace(core, base64.b64encode(bytes(data)).decode())
    words[place] = f"{changed}\n{tail}" if "\n" in words[place] else changed
    return " ".join(words)


def _is_reordered(text: str, valid: list[Receipt]) -> bool:
    """The order of signature lines is nobody's word: C2SP lets each cosigner add its line anywhere."""
    try:
        found = Receipt.decode(text)
    except LedgerError:
        return False
    lines = sorted(found.checkpoint.split("\n"))
    return any(
        (found.claim, found.log) == (receipt.claim, receipt.log) and lines == sorted(receipt.checkpoint.split("\n"))
        for receipt in valid
    )


@pytest.mark.parametrize(("receipts", "policy"), [(PLAIN, POLICY), (SIGNED, ALL_NEEDED)], ids=["plain", "cosigned"])
def test_no_random_change_is_accepted(receipts: list[Receipt], policy: Policy) -> None:
    chance = random.Random(SEED)
    texts = _texts(receipts)
    known = set(texts)
    tried = 0
    while tried < COUNT // 2:
        changed = _mutate(chance, chance.choice(texts), texts)
        if changed in known or _is_reordered(changed, receipts):
            continue
        tried += 1
        refuse(changed, policy)
