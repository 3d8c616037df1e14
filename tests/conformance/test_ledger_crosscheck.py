"""Other people's code reads what the ledger hands out, and the ledger reads what other people's code makes.

Go's transparency-dev merkle, formats and note packages, the checksum
database's tlog package and Tessera's client judge our checkpoints, proofs,
tiles and tlog-proof texts; whatever is changed in them must be refused, by Go
and by us alike. Without Go these tests fail; they are never skipped.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ledger_core import (
    Anchor,
    Genesis,
    Identity,
    Join,
    Leave,
    Ledger,
    MerkleBatch,
    Opening,
    OpenPart,
    Receipt,
    open_ledger,
    verify_receipt,
)
from ledger_core.checkpoint import (
    cosign,
    cosigner_key,
    log_key,
    parse_checkpoint,
    parse_vkey,
    split_note,
    verify_note,
)
from ledger_core.errors import LedgerError, NoteInvalid, ProofInvalid
from ledger_core.hashing import leaf_hash, node_hash
from ledger_core.proofs import verify_consistency, verify_inclusion
from ledger_core.stateroot import read_state_entry
from tests.peers.judge import Case, Judge

_TIME_S = 1_790_000_000
_ENTRIES = 600


def _identity(number: int, suite: int = 1) -> Identity:
    return Identity.from_private_bytes(bytes([number]) * 32, suite)


_OPERATOR, _MEMBER, _LOG, _WITNESS = (_identity(number) for number in range(1, 5))
_LATTICE_WITNESS = _identity(5, suite=2)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    path = tmp_path_factory.mktemp("crosscheck") / "ledger.db"
    with open_ledger(path, log_identity=_LOG, genesis=Genesis("peers.example/log", _OPERATOR.public)) as opened:
        opened.send(Join(_MEMBER.public, "member"), _OPERATOR, [_MEMBER]).result(10)
        waiting = [opened.send(Anchor(leaf_hash(bytes([i & 255, i >> 8])), 1), _MEMBER) for i in range(_ENTRIES)]
        for future in waiting:
            future.result(30)
        yield opened


@pytest.fixture(scope="module")
def signed(ledger: Ledger) -> Case:
    """A checkpoint with every kind of signature line: the log's two, and two witnesses'."""
    witnesses = (("north.example/witness", _WITNESS), ("lattice.example/witness", _LATTICE_WITNESS))
    note = ledger.checkpoint()
    for name, identity in witnesses:
        note = cosign(note, cosigner_key(name, identity.public), identity, time_s=_TIME_S)
    head = parse_checkpoint(split_note(note)[0])
    keys = [cosigner_key(name, identity.public) for name, identity in ((ledger.origin, _LOG), *witnesses)]
    return Case(
        "as signed",
        "checkpoint",
        note=note,
        origin=ledger.origin,
        log_key=log_key(ledger.origin, _LOG.public).vkey(),
        keys=tuple(key.vkey() for key in keys),
        size=head.size,
        root=head.root,
    )


def test_go_verifies_a_checkpoint_with_all_its_cosignatures(judge: Judge, signed: Case) -> None:
    assert judge.refused([signed]) == {}


def test_go_verifies_the_checkpoint_of_every_block(judge: Judge, ledger: Ledger, signed: Case) -> None:
    cases = [
        replace(signed, name=str(size), note=note, keys=signed.keys[:1], size=size, root=block.log_root)
        for (size, note), block in zip(ledger.checkpoints(), ledger.blocks(), strict=True)
    ]
    assert len(cases) > 3
    assert judge.refused(cases) == {}


def test_a_checkpoint_changed_anywhere_is_refused_by_go_and_by_us(judge: Judge, signed: Case) -> None:
    cases = [replace(signed, name=name, note=note) for name, note in _spoilt_notes(signed.note)]
    cases += [replace(signed, name=f"without key {i}", keys=_without(signed.keys, i)) for i in range(3)]
    assert judge.accepted(cases) == {f"without key {i}" for i in range(3)}, "unknown signatures are ignored"
    assert len(cases) > 200
    for case in cases[:-3]:
        with pytest.raises(NoteInvalid):
            _verify_all(case)


def test_keys_of_somebody_else_or_of_another_origin_are_refused(judge: Judge, signed: Case) -> None:
    other = log_key(signed.origin, _WITNESS.public).vkey()
    cases = [
        replace(signed, name="another log key", log_key=other),
        replace(signed, name="another origin", origin="other.example/log"),
        replace(signed, name="a witness who did not sign", keys=(cosigner_key("w.example", _MEMBER.public).vkey(),)),
        replace(signed, name="a witness's key as the log's", log_key=log_key(signed.origin, _MEMBER.public).vkey()),
    ]
    assert judge.accepted(cases) == set()


def test_go_verifies_inclusion_of_every_entry(judge: Judge, ledger: Ledger) -> None:
    cases = [_inclusion(ledger, index, ledger.size) for index in range(ledger.size)]
    assert judge.refused(cases) == {}


def test_inclusion_in_older_trees_changed_or_not_is_judged_alike(judge: Judge, ledger: Ledger) -> None:
    chance = random.Random(4)
    sound = [
        _inclusion(ledger, chance.randrange(block.size), block.size) for block in ledger.blocks() for _ in range(4)
    ]
    sound += [_inclusion(ledger, index, ledger.size) for index in chance.sample(range(ledger.size), 60)]
    spoilt = [_spoil_inclusion(case, chance, number) for number, case in enumerate(sound * 6)]
    spoilt += [_cut_below_root(_inclusion(ledger, 0, block.size)) for block in ledger.blocks()]
    verdicts = judge.verdicts(sound + spoilt)
    for case, verdict in zip(sound + spoilt, verdicts, strict=True):
        assert verdict.is_ok == _accepts_inclusion(case), (case, verdict)
    assert all(verdict.is_ok for verdict in verdicts[: len(sound)])
    assert not any(verdict.is_ok for verdict in verdicts[len(sound) :])


def test_consistency_between_all_blocks_changed_or_not_is_judged_alike(judge: Judge, ledger: Ledger) -> None:
    chance = random.Random(5)
    sizes = [(block.size, block.log_root) for block in ledger.blocks()]
    pairs = [(old, new) for old in sizes for new in sizes if old[0] <= new[0]]
    sound = [_consistency(ledger, old, new) for old, new in pairs]
    spoilt = [_spoil_consistency(case, chance, number) for number, case in enumerate(sound * 4)]
    verdicts = judge.verdicts(sound + spoilt)
    for case, verdict in zip(sound + spoilt, verdicts, strict=True):
        assert verdict.is_ok == _accepts_consistency(case), (case, verdict)
    assert all(verdict.is_ok for verdict in verdicts[: len(sound)])
    assert not any(verdict.is_ok for verdict in verdicts[len(sound) :])


def test_we_read_what_go_signs_cosigns_and_proves(judge: Judge) -> None:
    entries = [bytes([number]) * (number + 1) for number in range(100)]
    names = ["ed.example/w", "lattice.example/w"]
    made = judge.make("go.example/log", entries, index=77, witnesses=names, extra=b"anything")
    keys = [parse_vkey(key) for key in (made.log_key, *made.keys)]
    assert [key.type for key in keys] == [1, 4, 6]
    text, vouchings = verify_note(made.note, keys)
    assert {vouching.key for vouching in vouchings} == set(keys)
    head = parse_checkpoint(text)
    assert (head.origin, head.size) == ("go.example/log", 100)
    _, _, index, *path = made.proof.split("\n\n")[0].split("\n")
    assert index == "index 77"
    hashes = [base64.b64decode(line, validate=True) for line in path]
    verify_inclusion(leaf_hash(entries[77]), index=77, tree_size=100, path=hashes, root=head.root)
    verify_consistency(
        old_size=made.old_size, old_root=made.old_root, new_size=100, new_root=head.root, path=made.path
    )


def test_go_verifies_receipts_as_tlog_proofs(judge: Judge, ledger: Ledger, signed: Case) -> None:
    cases = [_proof_text(ledger, index, signed) for index in _transactions(ledger)[::7]]
    assert len(cases) > 3
    assert judge.refused(cases) == {}


def test_go_verifies_every_kind_of_receipt_as_a_tlog_proof(judge: Judge, ledger: Ledger, signed: Case) -> None:
    opening = Opening(bytes(32), {"id": "x"}, {"original": OpenPart.of(bytes(32), b"{}")})
    batch = MerkleBatch([bytes([number]) * 32 for number in range(4)] + [opening.commitment()])
    first = ledger.send(Anchor(batch.root, batch.count), _MEMBER).result(10)
    second = ledger.send(Anchor(batch.root, batch.count), _MEMBER).result(10)
    changing = _identity(6)
    ledger.send(Join(changing.public, "changing"), _OPERATOR, [changing]).result(10)
    before = ledger.height
    ledger.send(Leave(changing.public), changing).result(10)
    many = [ledger.anchored_records(place, batch, {4: opening}) for place in (first.index, second.index)]
    texts = {
        "record": ledger.record_receipt(opening, batch_index=4, batch_path=batch.path(4), index=first.index),
        "records": ledger.records_receipt(many),
        "state": ledger.state_receipt("member", _MEMBER.public),
        "absence": ledger.state_receipt("member", _identity(9).public),
        "past-state": ledger.past_state_receipt("member", changing.public, before),
        "past-absence": ledger.past_state_receipt("member", changing.public, 1),
        "revocation": ledger.revocation_receipt("member", changing.public, before),
    }
    cases = []
    for name, text in texts.items():
        receipt = Receipt.decode(text)
        sound = replace(signed, kind="tlog-proof", name=name, keys=signed.keys[:1], root=None)
        cases.append(replace(sound, text=receipt.encode_text(), entry=ledger.entry(receipt.log.index)))
        assert verify_receipt(cases[-1].text, policy=ledger.policy()).vouched == "operator-attested"
    assert judge.refused(cases) == {}
    other = [replace(case, entry=ledger.entry(1)) for case in cases]
    assert judge.accepted(other) == set()


def test_a_tlog_proof_changed_anywhere_is_refused_by_go_and_by_us(judge: Judge, ledger: Ledger, signed: Case) -> None:
    middle = next(index for index in _transactions(ledger) if index >= 300)
    sound = _proof_text(ledger, middle, signed)
    lines = sound.text.split("\n")
    cases, respelt = [], set()
    for number, line in enumerate(lines[:-1]):
        # The entry itself is inside the extra line: Go is given it from outside, so only we can tell there.
        if line.startswith("extra"):
            continue
        for place in range(len(line)):
            other = _other_letter(line, place)
            text = "\n".join([*lines[:number], other, *lines[number + 1 :]])
            cases.append(replace(sound, name=f"line {number}, letter {place}", text=text))
            if _material(line) is not None and _material(other) == _material(line):
                respelt.add(cases[-1].name)
        text = "\n".join(lines[:number] + lines[number + 1 :])
        cases.append(replace(sound, name=f"without line {number}", text=text))
    cases.append(replace(sound, name="another entry", entry=ledger.entry(middle + 1)))
    # Go ignores the unused bits of a base64 group; we have one spelling only.
    assert judge.accepted(cases) <= respelt
    assert len(respelt) <= 4
    policy = ledger.policy()
    for case in cases[:-1]:
        with pytest.raises(LedgerError):
            verify_receipt(case.text, policy=policy)


def _inclusion(ledger: Ledger, index: int, size: int) -> Case:
    return Case(
        f"entry {index} of {size}",
        "inclusion",
        leaf=leaf_hash(ledger.entry(index)),
        index=index,
        size=size,
        path=ledger.prove_transaction(index, size),
        root=_root(ledger, size),
    )


def _consistency(ledger: Ledger, old: tuple[int, bytes], new: tuple[int, bytes]) -> Case:
    return Case(
        f"{old[0]} to {new[0]}",
        "consistency",
        old_size=old[0],
        old_root=old[1],
        size=new[0],
        root=new[1],
        path=ledger.prove_consistency(old[0], new[0]),
    )


def _transactions(ledger: Ledger) -> list[int]:
    """Return the indices of what gets a receipt: not genesis, and no state root, which stands where a block ends."""
    return [row.index for row in ledger.entries() if read_state_entry(row.entry) is None][1:]


def _proof_text(ledger: Ledger, index: int, signed: Case) -> Case:
    receipt = Receipt.decode(ledger.transaction_receipt(index))
    return Case(
        f"receipt {index}",
        "tlog-proof",
        text=receipt.encode_text(),
        entry=ledger.entry(index),
        origin=signed.origin,
        log_key=signed.log_key,
        keys=signed.keys[:1],
    )


def _root(ledger: Ledger, size: int) -> bytes:
    return next(block.log_root for block in ledger.blocks() if block.size == size)


def _spoil_inclusion(case: Case, chance: random.Random, number: int) -> Case:
    name = f"spoilt {number}: {case.name}"
    match number % 6:
        case 0 if case.path:
            return replace(case, name=name, path=_flipped(case.path, chance))
        case 1 if case.path:
            return replace(case, name=name, path=case.path[:-1])
        case 2:
            return replace(case, name=name, path=(*case.path, chance.randbytes(32)))
        case 3 if case.index:
            return replace(case, name=name, index=case.index - 1)
        case 4 if len(case.path) > 1:
            return replace(case, name=name, path=(case.path[1], case.path[0], *case.path[2:]))
        case _:
            return replace(case, name=name, leaf=chance.randbytes(32))


def _cut_below_root(case: Case) -> Case:
    """Leave out the last sibling of entry 0, and name as root what the rest of the path leads to."""
    current = case.leaf
    for sibling in case.path[:-1]:
        current = node_hash(current, sibling)
    return replace(case, name=f"cut: {case.name}", path=case.path[:-1], root=current)


def _spoil_consistency(case: Case, chance: random.Random, number: int) -> Case:
    name = f"spoilt {number}: {case.name}"
    match number % 4:
        case 0 if case.path:
            return replace(case, name=name, path=_flipped(case.path, chance))
        case 1 if case.path:
            return replace(case, name=name, path=case.path[1:])
        case 2:
            return replace(case, name=name, path=(*case.path, chance.randbytes(32)))
        case _:
            return replace(case, name=name, old_root=chance.randbytes(32))


def _accepts_inclusion(case: Case) -> bool:
    try:
        verify_inclusion(case.leaf, index=case.index, tree_size=case.size, path=case.path, root=case.root or b"")
    except ProofInvalid:
        return False
    return True


def _accepts_consistency(case: Case) -> bool:
    try:
        verify_consistency(
            old_size=case.old_size,
            old_root=case.old_root,
            new_size=case.size,
            new_root=case.root or b"",
            path=case.path,
        )
    except ProofInvalid:
        return False
    return True


def _flipped(path: tuple[bytes, ...], chance: random.Random) -> tuple[bytes, ...]:
    place, byte = chance.randrange(len(path)), chance.randrange(32)
    changed = bytearray(path[place])
    changed[byte] ^= 1 << chance.randrange(8)
    return (*path[:place], bytes(changed), *path[place + 1 :])


def _without(keys: tuple[str, ...], place: int) -> tuple[str, ...]:
    return keys[:place] + keys[place + 1 :]


def _spoilt_notes(note: str) -> Iterator[tuple[str, str]]:
    """Change every letter of the text, of the key names and ids, and many bytes of every signature."""
    text, _, tail = note.rpartition("\n\n")
    for place in range(len(text)):
        yield f"text, letter {place}", f"{_other_letter(text, place)}\n\n{tail}"
    lines = tail[:-1].split("\n")
    for number, line in enumerate(lines):
        dash, name, material = line.split(" ")
        raw = base64.b64decode(material)
        others = [f"{dash} {_other_letter(name, place)} {material}" for place in range(len(name))]
        for byte in {*range(12), *range(12, len(raw), 1 + len(raw) // 40)}:
            changed = raw[:byte] + bytes([raw[byte] ^ 1 << byte % 8]) + raw[byte + 1 :]
            others.append(f"{dash} {name} {base64.b64encode(changed).decode()}")
        others.append(f"{dash} {name} {base64.b64encode(raw[:-1]).decode()}")
        others.append(f"{dash} {name} {base64.b64encode(raw + bytes(1)).decode()}")
        for place, other in enumerate(others):
            changed_lines = [*lines[:number], other, *lines[number + 1 :]]
            yield f"signature {number}, change {place}", f"{text}\n\n" + "\n".join(changed_lines) + "\n"
        yield f"without signature {number}", f"{text}\n\n" + "\n".join(_drop(lines, number)) + "\n"


def _drop(lines: list[str], number: int) -> list[str]:
    return lines[:number] + lines[number + 1 :]


def _other_letter(text: str, place: int) -> str:
    return text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]


def _material(line: str) -> tuple[str, bytes] | None:
    """What a line says to a reader who ignores the unused bits of base64."""
    name, _, encoded = line.rpartition(" ")
    try:
        return name, base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def _verify_all(case: Case) -> None:
    """What the Go program asks of a checkpoint: every key signed it, and it names this tree."""
    keys = [parse_vkey(key) for key in (case.log_key, *case.keys)]
    text, vouchings = verify_note(case.note, keys)
    head = parse_checkpoint(text)
    if len(vouchings) != len(keys) or (head.origin, head.size, head.root) != (case.origin, case.size, case.root):
        raise NoteInvalid("not what was signed")
