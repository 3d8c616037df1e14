"""Receipts, written and read: self-contained proofs that somebody else can check.

A receipt is one of three claims under a checkpoint: a *record* was committed
(opening → commitment → batch path → anchor transaction → log path), a
*transaction* is in the log, or the *state* held a value, or nothing, at a path.

The text is JSON with exactly one spelling: fields in a fixed order, two-space
indents, one final newline. Every byte is checked: what does not enter a hash is
compared with what does, and a receipt that is not spelled this way is refused.
So there are no unsigned decorations to be fooled by.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ledger_core.codec import decode_base64
from ledger_core.commitment import Fact, Opening, OpenPart, SealedPart
from ledger_core.errors import ReceiptInvalid
from ledger_core.proofs import StateProof

FORMAT: Final = "ledger-core/receipt/v1"
MAX_RECEIPT_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 8

_BRACKETS = re.compile(r"[\[\]{}]")
_Json: TypeAlias = "str | int | Sequence[_Json] | Mapping[str, _Json] | None"


@dataclass(frozen=True, slots=True)
class LogPath:
    """Where an entry stands in the log, and its path under the receipt's checkpoint."""

    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RecordClaim:
    """A record's opening, its place in a batch, and the transaction that anchors the batch."""

    opening: Opening
    batch_index: int
    batch_path: tuple[bytes, ...]
    transaction: bytes


@dataclass(frozen=True, slots=True)
class TransactionClaim:
    """A transaction is in the log."""

    transaction: bytes


@dataclass(frozen=True, slots=True)
class StateClaim:
    """State held ``value`` (None: nothing) for ``kind`` and ``key``, under the state-root ``entry``."""

    kind: str
    key: bytes
    value: bytes | None
    proof: StateProof
    entry: bytes


Claim: TypeAlias = RecordClaim | TransactionClaim | StateClaim
_NAMES: Final[Mapping[type[Claim], str]] = {
    RecordClaim: "record",
    TransactionClaim: "transaction",
    StateClaim: "state",
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """A claim, the log path of the entry it rests on, and the signed checkpoint above."""

    claim: Claim
    log: LogPath
    checkpoint: str

    def encode(self) -> str:
        """Return the receipt's only spelling."""
        content: dict[str, _Json] = {"format": FORMAT, "claim": _NAMES[type(self.claim)]}
        content.update(_write_claim(self.claim))
        content["log"] = {"index": self.log.index, "path": [_b64(item) for item in self.log.path]}
        # A note is lines of text; a list keeps them readable.
        content["checkpoint"] = self.checkpoint.split("\n")
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def decode(cls, text: str) -> "Receipt":
        """Read a receipt; nothing in it is verified yet.

        Raises:
            ReceiptInvalid: Not a receipt, not of this format, or spelled otherwise.
        """
        if len(text) > MAX_RECEIPT_BYTES or _depth(text) > MAX_DEPTH:
            raise ReceiptInvalid("a receipt is at most 1 MiB and 8 levels deep")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise ReceiptInvalid("the receipt is not JSON") from None
        receipt = _read(_Fields(content))
        try:
            spelled = receipt.encode()
        except (ValueError, UnicodeError):
            raise ReceiptInvalid("the receipt holds text that cannot be written") from None
        if spelled != text:
            raise ReceiptInvalid("the receipt is not spelled as a receipt is written")
        return receipt


class _Fields:
    """A JSON object being read: every read checks a type, and every name counts."""

    def __init__(self, content: object) -> None:
        if not isinstance(content, dict):
            raise ReceiptInvalid("an object was expected")
        self._content: dict[str, object] = content

    def names(self) -> list[str]:
        return list(self._content)

    def has(self, name: str) -> bool:
        return name in self._content

    def take(self, name: str) -> object:
        if name not in self._content:
            raise ReceiptInvalid(f"field {name!r} is missing")
        return self._content[name]

    def text(self, name: str) -> str:
        return _as_text(self.take(name))

    def number(self, name: str) -> int:
        value = self.take(name)
        if type(value) is not int or not 0 <= value < 2**63:
            raise ReceiptInvalid(f"field {name!r} must be a whole number")
        return value

    def data(self, name: str) -> bytes:
        return _as_bytes(self.take(name))

    def hashes(self, name: str) -> tuple[bytes, ...]:
        return tuple(_as_bytes(item) for item in self.items(name))

    def items(self, name: str) -> list[object]:
        value = self.take(name)
        if not isinstance(value, list):
            raise ReceiptInvalid(f"field {name!r} must be a list")
        return value

    def fields(self, name: str) -> "_Fields":
        return _Fields(self.take(name))


def _write_claim(claim: Claim) -> dict[str, _Json]:
    if isinstance(claim, TransactionClaim):
        return {"transaction": _b64(claim.transaction)}
    if isinstance(claim, RecordClaim):
        batch: dict[str, _Json] = {
            "index": claim.batch_index,
            "path": [_b64(item) for item in claim.batch_path],
        }
        return {
            "record": _write_opening(claim.opening),
            "batch": batch,
            "transaction": _b64(claim.transaction),
        }
    neighbour = claim.proof.neighbour
    state: dict[str, _Json] = {
        "kind": claim.kind,
        "key": _b64(claim.key),
        "value": None if claim.value is None else _b64(claim.value),
        "siblings": [_b64(item) for item in claim.proof.siblings],
        "neighbour": None if neighbour is None else [_b64(item) for item in neighbour],
    }
    return {"state": state, "entry": _b64(claim.entry)}


def _write_opening(opening: Opening) -> dict[str, _Json]:
    facts: dict[str, _Json] = {name: _write_fact(opening.facts[name]) for name in sorted(opening.facts)}
    parts: dict[str, _Json] = {}
    for name in sorted(opening.parts):
        part = opening.parts[name]
        if isinstance(part, SealedPart):
            parts[name] = {"sealed": _b64(part.sealed)}
        else:
            parts[name] = {"salt": _b64(part.salt), "content": _b64(part.content)}
    return {"suite": opening.suite, "salt": _b64(opening.salt), "facts": facts, "parts": parts}


def _write_fact(fact: Fact) -> _Json:
    return {"base64": _b64(fact)} if isinstance(fact, bytes) else fact


def _read(fields: _Fields) -> Receipt:
    if fields.text("format") != FORMAT:
        raise ReceiptInvalid("the receipt has another format")
    claim = _read_claim(fields.text("claim"), fields)
    log = fields.fields("log")
    path = LogPath(log.number("index"), log.hashes("path"))
    note = "\n".join(_as_text(line) for line in fields.items("checkpoint"))
    return Receipt(claim, path, note)


def _read_claim(name: str, fields: _Fields) -> Claim:
    if name == "transaction":
        return TransactionClaim(fields.data("transaction"))
    if name == "record":
        batch = fields.fields("batch")
        opening = _read_opening(fields.fields("record"))
        transaction = fields.data("transaction")
        return RecordClaim(opening, batch.number("index"), batch.hashes("path"), transaction)
    if name != "state":
        raise ReceiptInvalid("the receipt makes an unknown claim")
    state = fields.fields("state")
    value = None if state.take("value") is None else state.data("value")
    neighbour = None
    if state.take("neighbour") is not None:
        pair = state.hashes("neighbour")
        if len(pair) != 2:
            raise ReceiptInvalid("a neighbour is a path and a value hash")
        neighbour = (pair[0], pair[1])
    proof = StateProof(state.hashes("siblings"), neighbour)
    return StateClaim(state.text("kind"), state.data("key"), value, proof, fields.data("entry"))


def _read_opening(fields: _Fields) -> Opening:
    facts_in, parts_in = fields.fields("facts"), fields.fields("parts")
    facts = {name: _read_fact(facts_in.take(name)) for name in facts_in.names()}
    parts: dict[str, OpenPart | SealedPart] = {}
    for name in parts_in.names():
        part = parts_in.fields(name)
        if part.has("sealed"):
            parts[name] = SealedPart(part.data("sealed"))
        else:
            parts[name] = OpenPart(part.data("salt"), part.data("content"))
    return Opening(fields.data("salt"), facts, parts, fields.number("suite"))


def _read_fact(value: object) -> Fact:
    if isinstance(value, dict):
        return _Fields(value).data("base64")
    if type(value) is int:
        return value
    return _as_text(value)


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ReceiptInvalid("a text was expected")
    return value


def _as_bytes(value: object) -> bytes:
    text = _as_text(value)
    data = decode_base64(text)
    if text and not data:
        raise ReceiptInvalid("a base64 value was expected")
    return data


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _depth(text: str) -> int:
    """Upper bound of nesting, counted before parsing; brackets inside strings may only raise it."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
