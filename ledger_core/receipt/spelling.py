"""Receipts, written and read: two spellings of one content, each with exactly one way to write it.

*JSON*, for browsers: fields in a fixed order, two-space indents, one final
newline. *tlog-proof text* (C2SP tlog-proof@v1), for everything else: index,
inclusion path and checkpoint of the primary entry stand where other people's
tools look for them, and ``extra`` holds the claim, that entry included, as
base64 of deterministic CBOR.

Every byte is checked: what does not enter a hash is compared with what does,
and a receipt that is not spelled this way is refused. So there are no unsigned
decorations to be fooled by.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger_core.codec import Value, decode, decode_base64, encode
from ledger_core.commitment import Opening, OpenPart, SealedPart
from ledger_core.errors import NotCanonical, ReceiptInvalid
from ledger_core.proofs import StateProof
from ledger_core.receipt.claims import (
    AnchoredRecords,
    Claim,
    LogPath,
    PastStateClaim,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.receipt.fields import CborForm, Fields, Form, JsonForm, as_text, to_base64

FORMAT: Final = "ledger-core/receipt/v1"
TLOG_PROOF: Final = "c2sp.org/tlog-proof@v1"
MAX_RECEIPT_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 8

_NAMES: Final[Mapping[type[Claim], str]] = {
    RecordClaim: "record",
    RecordsClaim: "records",
    TransactionClaim: "transaction",
    StateClaim: "state",
    PastStateClaim: "past-state",
    RevocationClaim: "revocation",
}
_INDEX = re.compile(r"0|[1-9][0-9]{0,18}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# A string that never ends is taken to the end of the text: begun anew at each of its quotes, 1 MiB took hours.
_NO_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^\[\]{}"]+', re.DOTALL)
_JSON: Final = JsonForm()
_CBOR: Final = CborForm()


@dataclass(frozen=True, slots=True)
class Receipt:
    """A claim, the log path of its primary entry, and the signed checkpoint above."""

    claim: Claim
    log: LogPath
    checkpoint: str

    def encode(self) -> str:
        """Return the receipt as JSON."""
        content: dict[str, Value] = _write_claim(self.claim, _JSON)
        content["log"] = _write_log(self.log, _JSON)
        # A note is lines of text; a list keeps them readable.
        content["checkpoint"] = self.checkpoint.split("\n")
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def encode_text(self) -> str:
        """Return the receipt as C2SP tlog-proof text.

        Raises:
            NotCanonical: A fact has a type or size that cannot be encoded.
        """
        extra = to_base64(encode(_write_claim(self.claim, _CBOR)))
        head = (TLOG_PROOF, f"extra {extra}", f"index {self.log.index}")
        return "\n".join((*head, *map(to_base64, self.log.path), "", self.checkpoint))

    @classmethod
    def decode(cls, text: str) -> "Receipt":
        """Read a receipt in either spelling; nothing in it is verified yet.

        Raises:
            ReceiptInvalid: Not a receipt, not of this format, or spelled otherwise.
        """
        if len(text) > MAX_RECEIPT_BYTES:
            raise ReceiptInvalid("a receipt is at most 1 MiB and 8 levels deep")
        if _SURROGATE.search(text):
            raise ReceiptInvalid("the receipt holds what is no character")
        is_text = text.startswith(f"{TLOG_PROOF}\n")
        receipt = _read_text(text) if is_text else _read_json(text)
        try:
            spelled = receipt.encode_text() if is_text else receipt.encode()
        except (NotCanonical, ValueError):
            raise ReceiptInvalid("the receipt holds values that cannot be written") from None
        if spelled != text:
            raise ReceiptInvalid("the receipt is not spelled as a receipt is written")
        return receipt


def _read_json(text: str) -> Receipt:
    if _depth(text) > MAX_DEPTH:
        raise ReceiptInvalid("a receipt is at most 1 MiB and 8 levels deep")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ReceiptInvalid("the receipt is neither JSON nor tlog-proof text") from None
    fields = Fields(content, _JSON)
    claim = _read_claim(fields)
    note = "\n".join(as_text(line) for line in fields.items("checkpoint"))
    return Receipt(claim, _read_log(fields), note)


def _read_text(text: str) -> Receipt:
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise ReceiptInvalid("a tlog-proof needs its extra and index lines")
    index = lines[2].removeprefix("index ")
    if not _INDEX.fullmatch(index):
        raise ReceiptInvalid("the index of a tlog-proof must be a decimal number")
    try:
        content = decode(decode_base64(lines[1].removeprefix("extra ")))
    except NotCanonical:
        raise ReceiptInvalid("the extra data of the tlog-proof is not a claim") from None
    path = tuple(decode_base64(line) for line in lines[3:])
    return Receipt(_read_claim(Fields(content, _CBOR)), LogPath(int(index), path), note)


def _depth(text: str) -> int:
    """How deep arrays and objects nest, counted before parsing; brackets inside strings do not count."""
    depth = deepest = 0
    for bracket in _NO_BRACKETS.sub("", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _write_claim(claim: Claim, form: Form) -> dict[str, Value]:
    head: dict[str, Value] = {"format": FORMAT, "claim": _NAMES[type(claim)]}
    match claim:
        case TransactionClaim():
            return {**head, "transaction": form.write(claim.transaction)}
        case RecordClaim():
            batch = _write_log(LogPath(claim.batch_index, claim.batch_path), form)
            body = {"record": _write_opening(claim.opening, form), "batch": batch}
            return {**head, **body, "transaction": form.write(claim.transaction)}
        case RecordsClaim():
            batches = [_write_batch(batch, form) for batch in claim.batches]
            return {**head, "batches": batches, "path": _write_hashes(claim.path, form)}
        case RevocationClaim():
            sides = {
                "current": _write_side(claim.current, form),
                "past": {**_write_side(claim.past, form), "log": _write_log(claim.past_log, form)},
            }
            return {**head, "kind": claim.current.kind, "key": form.write(claim.current.key), **sides}
    return {**head, "state": _write_state(claim, form), "entry": form.write(claim.entry)}


def _write_log(log: LogPath, form: Form) -> dict[str, Value]:
    return {"index": log.index, "path": _write_hashes(log.path, form)}


def _write_hashes(hashes: tuple[bytes, ...], form: Form) -> list[Value]:
    return [form.write(item) for item in hashes]


def _write_batch(batch: AnchoredRecords, form: Form) -> dict[str, Value]:
    records = [{"index": place, **_write_opening(opening, form)} for place, opening in batch.openings]
    head = {"index": batch.index, "transaction": form.write(batch.transaction)}
    return {**head, "path": _write_hashes(batch.path, form), "records": records}


def _write_state(claim: StateClaim | PastStateClaim, form: Form) -> dict[str, Value]:
    neighbour = claim.proof.neighbour
    return {
        "kind": claim.kind,
        "key": form.write(claim.key),
        "value": None if claim.value is None else form.write(claim.value),
        "siblings": _write_hashes(claim.proof.siblings, form),
        "neighbour": None if neighbour is None else _write_hashes(neighbour, form),
    }


def _write_side(claim: StateClaim | PastStateClaim, form: Form) -> dict[str, Value]:
    value = form.write(claim.value or b"")
    return {"value": value, "siblings": _write_hashes(claim.proof.siblings, form), "entry": form.write(claim.entry)}


def _write_opening(opening: Opening, form: Form) -> dict[str, Value]:
    facts = {name: form.write_fact(opening.facts[name]) for name in sorted(opening.facts)}
    parts: dict[str, Value] = {}
    for name in sorted(opening.parts):
        part = opening.parts[name]
        if isinstance(part, SealedPart):
            parts[name] = {"sealed": form.write(part.sealed)}
        else:
            parts[name] = {"salt": form.write(part.salt), "content": form.write(part.content)}
    return {"suite": opening.suite, "salt": form.write(opening.salt), "facts": facts, "parts": parts}


def _read_claim(fields: Fields) -> Claim:
    if fields.text("format") != FORMAT:
        raise ReceiptInvalid("the receipt has another format")
    match fields.text("claim"):
        case "transaction":
            return TransactionClaim(fields.data("transaction"))
        case "record":
            batch = _read_path(fields.fields("batch"))
            opening = _read_opening(fields.fields("record"))
            return RecordClaim(opening, batch.index, batch.path, fields.data("transaction"))
        case "records":
            return RecordsClaim(tuple(map(_read_batch, fields.each("batches"))), fields.hashes("path"))
        case "state":
            return StateClaim(*_read_state(fields))
        case "past-state":
            return PastStateClaim(*_read_state(fields))
        case "revocation":
            return _read_revocation(fields)
    raise ReceiptInvalid("the receipt makes an unknown claim")


def _read_log(fields: Fields) -> LogPath:
    return _read_path(fields.fields("log"))


def _read_path(fields: Fields) -> LogPath:
    return LogPath(fields.number("index"), fields.hashes("path"))


def _read_batch(fields: Fields) -> AnchoredRecords:
    openings = tuple((item.number("index"), _read_opening(item)) for item in fields.each("records"))
    return AnchoredRecords(fields.number("index"), fields.data("transaction"), fields.hashes("path"), openings)


def _read_state(fields: Fields) -> tuple[str, bytes, bytes | None, StateProof, bytes]:
    state = fields.fields("state")
    neighbour = None
    if state.take("neighbour") is not None:
        pair = state.hashes("neighbour")
        if len(pair) != 2:
            raise ReceiptInvalid("a neighbour is a path and a value hash")
        neighbour = (pair[0], pair[1])
    proof = StateProof(state.hashes("siblings"), neighbour)
    return state.text("kind"), state.data("key"), state.data_or_none("value"), proof, fields.data("entry")


def _read_revocation(fields: Fields) -> RevocationClaim:
    kind, key = fields.text("kind"), fields.data("key")
    past, current = fields.fields("past"), fields.fields("current")
    sides = [
        (side.data("value"), StateProof(side.hashes("siblings")), side.data("entry")) for side in (past, current)
    ]
    return RevocationClaim(PastStateClaim(kind, key, *sides[0]), _read_log(past), StateClaim(kind, key, *sides[1]))


def _read_opening(fields: Fields) -> Opening:
    facts_in, parts_in = fields.fields("facts"), fields.fields("parts")
    facts = {name: facts_in.fact(name) for name in facts_in.names()}
    parts: dict[str, OpenPart | SealedPart] = {}
    for name in parts_in.names():
        part = parts_in.fields(name)
        if part.has("sealed"):
            parts[name] = SealedPart(part.data("sealed"))
        else:
            parts[name] = OpenPart(part.data("salt"), part.data("content"))
    return Opening(fields.data("salt"), facts, parts, fields.number("suite"))
