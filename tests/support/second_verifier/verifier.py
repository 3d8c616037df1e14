"""Judge a receipt: what it claims, on whose word, or why it is refused."""

from dataclasses import dataclass
from datetime import datetime

from tests.support.second_verifier import claims, spellings
from tests.support.second_verifier.notes import parse_note
from tests.support.second_verifier.policies import judge, read_policy
from tests.support.second_verifier.refusal import Refused, require


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a sound receipt proves and on whose word, or why it is refused.

    ``matched`` are the parts that the record at hand is, ``facts`` those of each record.
    ``is_present`` tells of a state claim, ``height`` is the block that a past state belongs to.
    """

    is_sound: bool
    vouched: str = ""
    time_s: int | None = None
    claim: str = ""
    matched: tuple[str, ...] = ()
    facts: tuple[dict[str, str | int | bytes], ...] = ()
    is_present: bool | None = None
    height: int | None = None
    reason: str = ""


def verify(receipt_text: str, *, record: bytes | None, policy_text: str | None, now: datetime) -> Verdict:
    """Judge a receipt in either spelling; ``policy_text`` comes from the verifier, the rest from anybody."""
    try:
        return _verify(receipt_text, record, policy_text, now)
    except Refused as refusal:
        return Verdict(False, reason=str(refusal))


def _verify(receipt_text: str, record: bytes | None, policy_text: str | None, now: datetime) -> Verdict:
    receipt = spellings.read(receipt_text)
    note = parse_note(receipt.note)
    checked = claims.check(receipt, note)
    matched: tuple[str, ...] = ()
    if record is not None:
        matched = tuple(name for opening in checked.openings for name in opening.parts_of(record))
        require(bool(matched), "the record is not one that the receipt opens")
    word, time_s = "not-authenticated", None
    if policy_text is not None:
        word, time_s = judge(read_policy(policy_text), note, checked.transactions, now)
    facts = tuple(opening.facts for opening in checked.openings)
    return Verdict(True, word, time_s, receipt.claim, matched, facts, checked.is_present, checked.height)
