"""What receipts claim, checked against the root of the checkpoint they stand under.

Invariants:
    * every claim ends in a comparison with the checkpoint's root;
    * a claim of current state rests on the last entry of the tree, no other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.support.second_verifier.cbor import Value, encode
from tests.support.second_verifier.entries import StateRoot, Transaction, read_state_root, read_transaction
from tests.support.second_verifier.forms import KEYS, VALUES, is_hash, read_value
from tests.support.second_verifier.hashes import DIGEST_SUITES, content_digest, tagged
from tests.support.second_verifier.notes import Note
from tests.support.second_verifier.refusal import Refused, require
from tests.support.second_verifier.spellings import Spelled, Spelling, index_of, list_of, number_of, text_of
from tests.support.second_verifier.trees import included_root, leaf, multi_root, state_root


@dataclass(frozen=True, slots=True)
class Opening:
    """An opened commitment: its facts, and digests of the parts whose content may be read, by name."""

    suite: int
    facts: dict[str, str | int | bytes]
    contents: dict[str, bytes]
    commitment: bytes

    def parts_of(self, record: bytes) -> tuple[str, ...]:
        digest = content_digest(self.suite, record)
        return tuple(sorted(name for name, content in self.contents.items() if content == digest))


@dataclass(frozen=True, slots=True)
class Checked:
    """What a policy and a record at hand are held against."""

    transactions: tuple[Transaction, ...] = ()
    openings: tuple[Opening, ...] = ()
    is_present: bool | None = None
    height: int | None = None


def check(receipt: Spelled, note: Note) -> Checked:
    """Check a claim down to its signatures; raise Refused where anything is false."""
    require(all(map(is_hash, receipt.path)), "a path of other hashes")
    return CHECKS[receipt.claim](receipt, note)


def _check_primary(receipt: Spelled, note: Note, entry: bytes) -> None:
    found = included_root(leaf(entry), receipt.index, note.size, receipt.path)
    require(found == note.root, "the primary entry is not in the log")


def _check_transaction(receipt: Spelled, note: Note) -> Checked:
    entry = receipt.spelling.data(receipt.fields[0])
    _check_primary(receipt, note, entry)
    return Checked((read_transaction(entry),))


def _check_record(receipt: Spelled, note: Note) -> Checked:
    spelling = receipt.spelling
    record, batch, transaction = receipt.fields
    opening = _opening(spelling, spelling.fields(record, "suite", "salt", "facts", "parts"))
    index, path = _log(spelling, batch)
    entry = spelling.data(transaction)
    _check_primary(receipt, note, entry)
    anchor = read_transaction(entry)
    root, count = _anchored(anchor)
    require(included_root(leaf(opening.commitment), index, count, path) == root, "the record is not in the batch")
    return Checked((anchor,), (opening,))


def _check_records(receipt: Spelled, note: Note) -> Checked:
    spelling = receipt.spelling
    batches = [_Batch.read(spelling, each) for each in list_of(receipt.fields[0])]
    path = _hashes(spelling, receipt.fields[1])
    require(len(batches) > 0, "no batch")
    _check_rising([batch.index for batch in batches])
    require(batches[0].index == receipt.index, "the first batch stands elsewhere")
    _check_primary(receipt, note, batches[0].entry)
    further = {batch.index: leaf(batch.entry) for batch in batches[1:]}
    if further:
        require(multi_root(further, note.size, path) == note.root, "a further batch is not in the log")
    else:
        require(not path, "a multiproof of nothing")
    anchors = tuple(batch.check() for batch in batches)
    return Checked(anchors, tuple(opening for batch in batches for opening in batch.openings.values()))


@dataclass(frozen=True, slots=True)
class _Batch:
    index: int
    entry: bytes
    path: list[bytes]
    openings: dict[int, Opening]

    @classmethod
    def read(cls, spelling: Spelling, value: Value) -> "_Batch":
        index, transaction, path, records = spelling.fields(value, "index", "transaction", "path", "records")
        placed = []
        for record in list_of(records):
            place, *fields = spelling.fields(record, "index", "suite", "salt", "facts", "parts")
            placed.append((index_of(place), _opening(spelling, fields)))
        require(len(placed) > 0, "a batch without records")
        _check_rising([place for place, _ in placed])
        return cls(index_of(index), spelling.data(transaction), _hashes(spelling, path), dict(placed))

    def check(self) -> Transaction:
        anchor = read_transaction(self.entry)
        root, count = _anchored(anchor)
        leaves = {place: leaf(opening.commitment) for place, opening in self.openings.items()}
        require(multi_root(leaves, count, self.path) == root, "a record is not in its batch")
        return anchor


def _check_state(receipt: Spelled, note: Note) -> Checked:
    require(receipt.index == note.size - 1, "current state that does not rest on the last entry")
    return _check_past_state(receipt, note)


def _check_past_state(receipt: Spelled, note: Note) -> Checked:
    spelling = receipt.spelling
    state, primary = receipt.fields
    kind, key, value, siblings, neighbour = spelling.fields(state, "kind", "key", "value", "siblings", "neighbour")
    entry = spelling.data(primary)
    held = None if value is None else spelling.data(value)
    beside = None
    if neighbour is not None:
        pair = [spelling.data(each) for each in list_of(neighbour)]
        require(len(pair) == 2 and all(map(is_hash, pair)), "a neighbour of another form")
        beside = (pair[0], pair[1])
    _check_primary(receipt, note, entry)
    named, keyed = text_of(kind), spelling.data(key)
    at = read_state_root(entry)
    _check_held(named, keyed, held, _hashes(spelling, siblings), beside, at)
    return Checked(is_present=held is not None, height=at.height if receipt.claim == "past-state" else None)


def _check_held(
    kind: str,
    key: bytes,
    value: bytes | None,
    siblings: Sequence[bytes],
    neighbour: tuple[bytes, bytes] | None,
    at: StateRoot,
) -> list[Value]:
    """Check presence or absence under one state root; give the fields of the value."""
    require(kind in VALUES and KEYS[kind](key), "a kind of state that is unknown, or a key that is none of its kind")
    path = tagged("ledger-core/state-path/v1", kind.encode(), key)
    require(state_root(at.suite, path, value, siblings, neighbour) == at.root, "a state proof leads elsewhere")
    if value is None:
        return []
    return read_value(kind, value)


def _check_revocation(receipt: Spelled, note: Note) -> Checked:
    spelling = receipt.spelling
    kind, key, current, past = receipt.fields
    named, keyed = text_of(kind), spelling.data(key)
    now = spelling.fields(current, "value", "siblings", "entry")
    *then, log = spelling.fields(past, "value", "siblings", "entry", "log")
    index, path = _log(spelling, log)
    require(receipt.index == note.size - 1, "current state that does not rest on the last entry")
    _check_primary(receipt, note, spelling.data(now[2]))
    found = included_root(leaf(spelling.data(then[2])), index, note.size, path)
    require(found == note.root, "the past entry is not in the log")
    later, earlier = (read_state_root(spelling.data(each[2])) for each in (now, then))
    require(index < receipt.index and earlier.height < later.height, "a past that is not before")
    held = [
        _check_held(named, keyed, spelling.data(each[0]), _hashes(spelling, each[1]), None, at)
        for each, at in ((then, earlier), (now, later))
    ]
    require(named in SUPERSEDES and SUPERSEDES[named](*held), "the values show no revocation")
    return Checked(height=earlier.height)


def _consent_superseded(then: list[Value], now: list[Value]) -> bool:
    _, institution, secret, counter, list_hash, own_counter, own_list, _ = then
    _, institution2, secret2, counter2, list_hash2, own_counter2, own_list2, _ = now
    by_owner = number_of(counter2) - number_of(counter)
    by_institution = number_of(own_counter2) - number_of(own_counter)
    return (
        (institution, secret) == (institution2, secret2)
        and by_owner >= 0
        and by_institution >= 0
        and ((by_owner > 0 and list_hash != list_hash2) or (by_institution > 0 and own_list != own_list2))
    )


def _member_superseded(then: list[Value], now: list[Value]) -> bool:
    return (
        then[0] == now[0]
        and then[2] == "active"
        and now[2] in ("rotated", "left")
        and number_of(now[3]) >= number_of(then[3])
    )


def _opening(spelling: Spelling, fields: list[Value]) -> Opening:
    suite, salt, facts, parts = number_of(fields[0]), spelling.data(fields[1]), fields[2], fields[3]
    require(suite in DIGEST_SUITES and is_hash(salt), "an opening of another form")
    said = {name: spelling.fact(fact) for name, fact in spelling.table(facts).items()}
    require(
        all(-(1 << 64) <= fact < 1 << 64 for fact in said.values() if isinstance(fact, int)), "a fact beyond 64 bits"
    )
    sealed: dict[str, bytes] = {}
    contents: dict[str, bytes] = {}
    for name, part in spelling.table(parts).items():
        if isinstance(part, dict) and "sealed" in part:
            sealed[name] = spelling.data(spelling.fields(part, "sealed")[0])
        else:
            own_salt, contents[name] = map(spelling.data, spelling.fields(part, "salt", "content"))
            require(is_hash(own_salt) and is_hash(contents[name]), "a part of another form")
            sealed[name] = tagged("ledger-core/part/v1", own_salt, contents[name])
        require(is_hash(sealed[name]), "a part of another form")
    committed = encode({"facts": said, "parts": sealed, "suite": suite})
    return Opening(suite, said, contents, tagged("ledger-core/commitment/v1", salt, committed))


def _anchored(transaction: Transaction) -> tuple[bytes, int]:
    require(transaction.kind == "anchor", "records in a transaction that is no anchor")
    root, count = transaction.payload["root"], transaction.payload["count"]
    if not (isinstance(root, bytes) and isinstance(count, int)):
        raise Refused("an anchor of another form")
    return root, count


def _check_rising(numbers: Sequence[int]) -> None:
    require(all(one < next_one for one, next_one in pairwise(numbers)), "numbers that do not rise")


def _log(spelling: Spelling, value: Value) -> tuple[int, list[bytes]]:
    index, path = spelling.fields(value, "index", "path")
    return index_of(index), _hashes(spelling, path)


def _hashes(spelling: Spelling, value: Value) -> list[bytes]:
    hashes = [spelling.data(each) for each in list_of(value)]
    require(all(map(is_hash, hashes)), "hashes of another length")
    return hashes


SUPERSEDES: dict[str, Callable[[list[Value], list[Value]], bool]] = {
    "consent": _consent_superseded,
    "member": _member_superseded,
}

CHECKS: dict[str, Callable[[Spelled, Note], Checked]] = {
    "record": _check_record,
    "records": _check_records,
    "transaction": _check_transaction,
    "state": _check_state,
    "past-state": _check_past_state,
    "revocation": _check_revocation,
}
