"""A real ledger beside the naive one: the same submissions, and nothing may differ.

The naive ledger (tests/support) is written from the format page. Envelopes are
built here by hand, so that what is malformed can be sent too.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger_core import (
    Accepted,
    Genesis,
    Identity,
    Ledger,
    NotFound,
    Policy,
    Receipt,
    Rejection,
    TransactionRefused,
    open_ledger,
    run_export,
    run_fsck,
    run_import,
    run_restore,
    run_snapshot,
    verify_receipt,
)
from ledger_core.checkpoint import cosign, cosigner_key
from ledger_core.codec import encode
from ledger_core.receipt import PastStateClaim, StateClaim, TransactionClaim
from ledger_core.stores.sqlite import SqliteStore
from tests.support.naive_ledger import CONFIG, FIELDS, NaiveLedger, tree_path
from tests.support.naive_ledger import Path as StatePath
from tests.support.naive_trees import sha, tagged
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH, OPERATOR, PATIENT, SOUTH, filler, identity

MAX_BLOCK = 4
MODERN = Identity.from_private_bytes(filler(7), suite=2)
PEOPLE = (OPERATOR, NORTH, SOUTH, identity(6), MODERN, PATIENT, identity(8))
WITNESS = identity(9)
WITNESS_KEY = cosigner_key("witness.example", WITNESS.public)

OF_BODY = ("network", "version", "kind", "op", "extra", "missing", "type")
SPOILS = (*OF_BODY, "flip", "order", "twice", "cut", "noise", "long", "suite", "nonce")


@dataclass(frozen=True)
class Wish:
    """A transaction before it meets the state: who, what, and what is wrong with it."""

    op: tuple[str, str]
    signer: int
    step: int
    target: int
    number: int
    approvers: frozenset[int]
    spoil: str | None
    again: int | None


EVERYBODY = frozenset(range(len(PEOPLE)))


def wish(op: str, target: int = 0, number: int = 0, signer: int = 0) -> Wish:
    """Return a sound wish, approved by everybody."""
    kind, _, rest = op.partition(" ")
    return Wish((kind, rest), signer, 1, target, number, EVERYBODY, None, None)


SETTLING = (
    *(wish("member join", target) for target in (0, 1, 2)),
    *(wish("consent open", number=number) for number in (0, 1)),
    *(wish("consent set"), wish("consent restrict"), wish("access")),
)
wishes = st.builds(
    Wish,
    op=st.sampled_from(sorted(FIELDS)),
    signer=st.sampled_from([0] * 8 + [1, 1, 1, 2, 2, 3, 4, 4, 5, 6]),
    step=st.sampled_from([1] * 16 + [2, 5, 0, -1, 2**63]),
    target=st.integers(0, len(PEOPLE) - 1),
    number=st.integers(0, 2),
    approvers=st.one_of(st.just(EVERYBODY), st.just(EVERYBODY), st.frozensets(st.integers(0, len(PEOPLE) - 1))),
    spoil=st.sampled_from([None] * 60 + list(SPOILS)),
    again=st.sampled_from([None] * 12 + [0, 1, 5]),
)
batches = st.lists(wishes, min_size=1, max_size=12)


class NaiveComparison(RuleBasedStateMachine):
    """Does to both ledgers what it is told, and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.place = Path(self._folder.name)
        self.address = self.place / "0.db"
        self.moves, self.pruned = 0, 0
        self.cosigned: int | None = None
        self.sent: list[bytes] = []
        self.codes: set[str] = set()
        self.ledger: Ledger | None = None

    @initialize(
        threshold=st.sampled_from([1, 2, 16]),
        may_attest=st.booleans(),
        is_modern=st.sampled_from([False, False, False, True]),
        is_settled=st.sampled_from([True, True, False]),
    )
    def start(self, threshold: int, may_attest: bool, is_modern: bool, is_settled: bool) -> None:
        operator = MODERN if is_modern else OPERATOR
        self.genesis = Genesis("model.example", operator.public, "op", threshold, may_attest, 1_000)
        self.naive = NaiveLedger((0, 1, "model.example", operator.public, "op", threshold, may_attest, 1_000))
        self.open()
        self.compare_from(0)
        if is_settled:
            self.submit_all([*SETTLING, *([wish("suite allow", 0, 1 if is_modern else 2)])])

    def open(self) -> None:
        is_new = self.ledger is None
        self.ledger = open_ledger(
            self.address, log_identity=LOG_KEY, genesis=self.genesis if is_new else None, max_block=MAX_BLOCK
        )

    @property
    def real(self) -> Ledger:
        assert self.ledger is not None
        return self.ledger

    def teardown(self) -> None:
        if self.ledger is not None:
            self.ledger.close()
            assert list(run_fsck(self.address)) == []
        self._folder.cleanup()

    @rule(batch=batches)
    def submit(self, batch: list[Wish]) -> None:
        self.submit_all(batch)

    # Once more, so that most steps change something.
    @rule(batch=batches)
    def submit_more(self, batch: list[Wish]) -> None:
        self.submit_all(batch)

    @rule(op=st.sampled_from(sorted(FIELDS)), about=st.integers(0, 6), number=st.integers(0, 2))
    def submit_sound(self, op: tuple[str, str], about: int, number: int) -> None:
        self.submit_all([wish(" ".join(op).strip(), about, number, (about + number) % 4)])

    def submit_all(self, batch: Sequence[Wish]) -> None:
        before = self.naive.height
        envelopes: list[bytes] = []
        counters: dict[object, int] = {}
        for each in batch:
            is_repeat = each.again is not None and len(self.sent) > each.again
            envelope = self.sent[-1 - (each.again or 0)] if is_repeat else self.make(each, counters)
            self.sent.append(envelope)
            envelopes.append(envelope)
        found = self.real.submit_many(envelopes).result(60)
        times = {row.height: row.time_ms for row in self.real.blocks()}
        expected: list[Any] = []
        for at in range(0, len(envelopes), MAX_BLOCK):
            time_ms = times[min(self.naive.height + 1, self.real.height)]
            expected += self.naive.submit(envelopes[at : at + MAX_BLOCK], time_ms)
        said = [self.said(each) for each in found]
        assert said == expected
        self.codes |= {each for each in said if isinstance(each, str)}
        for envelope, answer in zip(envelopes, found, strict=True):
            where = self.real.position_of(envelope)
            assert (where is not None) == isinstance(answer, Accepted)
            if isinstance(answer, Accepted) and where is not None:
                assert (where.index, where.digest) == (answer.index, sha(tagged("ledger-core/envelope/v1", envelope)))
        self.compare_from(before)

    @rule()
    def reopen(self) -> None:
        self.real.close()
        self.open()
        self.compare_from(0)

    @rule(back=st.integers(0, 6))
    def prune(self, back: int) -> None:
        height = max(0, self.naive.height - back)
        before = self.state_rows()
        superseded = {
            (at, path) for at, path in before for later, same in before if path == same and at < later <= height
        }
        assert self.real.prune(height) == len(superseded)
        assert self.state_rows() == before - superseded
        self.pruned = max(self.pruned, height)

    @rule(is_snapshot=st.booleans())
    def move(self, is_snapshot: bool) -> None:
        self.moves += 1
        target = self.place / f"{self.moves}.db"
        if is_snapshot:
            file = self.place / f"{self.moves}.copy"
            run_snapshot(self.address, file)
            checkpoint = self.real.checkpoint()
            self.real.close()
            assert list(run_restore(file, target, checkpoint=checkpoint)) == []
        else:
            lines = list(run_export(self.address))
            self.real.close()
            assert run_import(lines, target).app_hash == self.naive.app_hash(self.naive.height)
            self.pruned = 0
        assert list(run_export(target)) == list(run_export(self.address))
        self.address = target
        self.open()
        self.compare_from(0)

    @rule()
    def cosign(self) -> None:
        note = cosign(self.real.checkpoint(), WITNESS_KEY, WITNESS, time_s=int(time.time()))
        assert self.real.keep_checkpoint(note, [WITNESS_KEY]) == len(self.naive.entries)
        self.cosigned = self.naive.height

    @rule(place=st.integers(0, 40))
    def prove_now(self, place: int) -> None:
        kind, key = self.state_place(place)
        claim = self.verified(self.real.state_receipt(kind, key), f"state {self.word(kind, key, self.naive.height)}")
        assert isinstance(claim, StateClaim)
        assert claim.value == self.naive.past[-1].get((kind, key))
        assert self.real.value(kind, key) == claim.value

    @precondition(lambda self: self.cosigned is not None)
    @rule(place=st.integers(0, 40))
    def prove_cosigned(self, place: int) -> None:
        kind, key = self.state_place(place)
        height = self.cosigned
        assert height is not None
        if height < self.pruned and height != self.naive.height:
            with pytest.raises(NotFound):
                self.real.state_receipt(kind, key, is_cosigned=True)
            return
        text = self.real.state_receipt(kind, key, is_cosigned=True)
        claim = self.verified(text, f"state {self.word(kind, key, height)}", is_witnessed=True)
        assert isinstance(claim, StateClaim)
        assert claim.value == self.naive.past[height].get((kind, key))

    @rule(place=st.integers(0, 40), back=st.integers(-1, 12))
    def prove_past(self, place: int, back: int) -> None:
        kind, key = self.state_place(place)
        height = self.naive.height - back
        if not 0 <= height <= self.naive.height or (height < self.pruned and height != self.naive.height):
            with pytest.raises(NotFound):
                self.real.past_state_receipt(kind, key, height)
            return
        text = self.real.past_state_receipt(kind, key, height)
        claim = self.verified(text, f"state {self.word(kind, key, height)} as of height {height}")
        assert isinstance(claim, PastStateClaim)
        assert claim.value == self.naive.past[height].get((kind, key))

    @rule(index=st.integers(0, 60), is_cosigned=st.booleans())
    def prove_transaction(self, index: int, is_cosigned: bool) -> None:
        index = min(index, len(self.naive.entries))
        is_cosigned = is_cosigned and self.cosigned is not None
        reach = self.naive.roots[self.cosigned or 0][0] if is_cosigned else len(self.naive.entries)
        if index >= reach:
            with pytest.raises(NotFound):
                self.real.transaction_receipt(index, is_cosigned=is_cosigned)
            return
        if self.naive.entries[index] not in self.naive.accepted:
            return
        text = self.real.transaction_receipt(index, is_cosigned=is_cosigned)
        claim = self.verified(text, "transaction", is_witnessed=is_cosigned)
        assert isinstance(claim, TransactionClaim)
        assert claim.transaction == self.naive.entries[index]

    @invariant()
    def newest(self) -> None:
        if self.ledger is not None:
            assert (self.real.height, self.real.size) == (self.naive.height, len(self.naive.entries))
            assert self.real.app_hash == self.naive.app_hash(self.naive.height)
            assert self.real.network == self.naive.network

    def said(self, outcome: Accepted | TransactionRefused) -> str | tuple[int, int, bool]:
        """Return an outcome as the naive ledger gives it."""
        if isinstance(outcome, Accepted):
            return outcome.index, outcome.height, outcome.is_repeat
        return outcome.rejection

    def compare_from(self, height: int) -> None:
        """Compare every block from ``height`` on, and every entry."""
        rows = [row for row in self.real.blocks() if row.height >= height]
        assert [row.height for row in rows] == list(range(height, self.naive.height + 1))
        for row in rows:
            assert (row.size, row.log_root, row.state_root) == self.naive.roots[row.height]
            assert row.app_hash == self.naive.app_hash(row.height)
        begin = self.naive.roots[height - 1][0] if height else 0
        assert [row.entry for row in self.real.entries(begin)] == self.naive.entries[begin:]

    def verified(self, text: str, said: str, *, is_witnessed: bool = False) -> Any:
        """Verify a receipt under a policy from elsewhere; return its claim."""
        plain = Policy.for_log("model.example", LOG_KEY.public, network=self.naive.network)
        witnesses = (WITNESS_KEY,) if is_witnessed else ()
        policy = Policy(plain.origin, plain.log_keys, witnesses, len(witnesses), network=plain.network)
        outcome = verify_receipt(text, policy=policy)
        assert (outcome.claim, outcome.vouched) == (said, "witnessed" if is_witnessed else "operator-attested")
        height = self.cosigned if is_witnessed else self.naive.height
        assert height is not None
        assert (outcome.checkpoint.size, outcome.checkpoint.root) == self.naive.roots[height][:2]
        return Receipt.decode(text).claim

    def word(self, kind: str, key: bytes, height: int) -> str:
        return "present" if (kind, key) in self.naive.past[height] else "absent"

    def state_place(self, place: int) -> StatePath:
        """Return a place that holds something, or one of a few that may not."""
        held = sorted(self.naive.past[-1])
        others = [("consent", filler(9)), ("member", PATIENT.public), ("policy", filler(0)), CONFIG]
        return [*held, *others][place % (len(held) + len(others))]

    def state_rows(self) -> set[tuple[int, bytes]]:
        """Return height and path of every value kept; each stands for what the naive ledger held then."""
        values = [{tree_path(place): value for place, value in held.items()} for held in self.naive.past]
        store = SqliteStore.open_to_read(self.address)
        rows = list(store.state_rows())
        store.close()
        assert all(values[row.height][row.path] == row.value for row in rows)
        return {(row.height, row.path) for row in rows}

    def make(self, plan: Wish, counters: dict[object, int]) -> bytes:
        """Return the envelope of a plan; ``counters`` holds what earlier plans of the same batch used."""
        signer, target = self.signer(plan.signer), PEOPLE[plan.target]
        path = filler(100 + plan.number)
        held = self.naive.state.get(("consent", path))
        by_owner = plan.op in (("consent", "set"), ("consent", "owner"))
        if by_owner and held is not None and plan.step > 0:
            signer = next((each for each in PEOPLE if each.public == held[0]), signer)
        member = self.naive.state.get(("member", signer.public))
        kept = (held[3] if by_owner else held[5]) if held is not None else 0
        counter = self.count((path, by_owner), kept, plan.step)
        nonce = counter if by_owner else self.count(signer.public, member[3] if member else 0, plan.step, counters)
        payload: dict[str, Any] = {
            "key": target.public,
            "name": f"name {plan.number}",
            "threshold": plan.target,
            "use": ("signature", "state-tree", "digest", "batch-tree")[plan.target % 4],
            "suite": (plan.number if plan.op[0] == "suite" else plan.step % 3) or 1,
            "root": filler(plan.number),
            "digest": filler(plan.number),
            "count": plan.target,
            "path": path,
            "owner": (PATIENT, target)[plan.number // 2].public,
            "secret": filler(plan.number),
            "counter": counter,
            "list_hash": filler(plan.target),
            "epoch": plan.target,
            "institution": (target if plan.number else self.signer(plan.target)).public,
            "author": target.public,
            "share": (0, 500, 10_000)[plan.number % 3],
        }
        payload = {name: payload[name] for name in FIELDS[plan.op]} | ({"op": plan.op[1]} if plan.op[1] else {})
        approvers = [PEOPLE[each] for each in sorted(plan.approvers) if PEOPLE[each] != signer]
        approvers = [each for each in approvers if self.is_use(each, plan)]
        nonce += plan.spoil == "nonce"
        return self.seal(plan, signer, nonce, payload, approvers)

    def signer(self, number: int) -> Identity:
        """Return somebody who can act for the lower numbers, and somebody in particular for the others."""
        able = [each for each in PEOPLE if each.public in self.naive.able()]
        return able[number % len(able)] if number < 4 else PEOPLE[number]

    def is_use(self, approver: Identity, plan: Wish) -> bool:
        """Leave out keys of a suite not allowed: with one of them everything is refused."""
        return approver.suite in self.naive.suites["signature"] or plan.spoil == "suite"

    def count(self, who: object, kept: int, step: int, counters: dict[object, int] | None = None) -> int:
        used = kept if counters is None else max(kept, counters.get(who, 0))
        number = max(0, min(used + step, 2**64 - 1))
        if counters is not None and step > 0 and step < 2**63:
            counters[who] = number
        return number

    def seal(
        self, plan: Wish, signer: Identity, nonce: int, payload: dict[str, Any], approvers: Sequence[Identity]
    ) -> bytes:
        spoil, network, kind, version = plan.spoil, self.naive.network, plan.op[0], 1
        if spoil == "network":
            network = filler(1)
        elif spoil == "version":
            version = 2
        elif spoil == "kind":
            kind = "kindness"
        elif spoil == "op":
            payload = {**payload, "op": ("", "none", "join")[plan.number]}
        elif spoil == "extra":
            payload = {**payload, "more": 1}
        elif spoil == "missing":
            payload = dict(list(payload.items())[1:])
        elif spoil == "type":
            payload = {**payload, next(iter(payload)): (True, b"short", 0)[plan.number]}
        body = encode((network, kind, version, signer.public, nonce, payload))
        message = tagged("ledger-core/transaction/v1", body)
        signature = bytearray(signer.sign(message))
        approvals = sorted((each.public, each.sign(message)) for each in approvers)
        if spoil == "flip":
            signature[plan.target] ^= 1
        elif spoil == "order":
            approvals.reverse()
        elif spoil == "twice":
            approvals += [(signer.public, bytes(signature))]
        envelope = encode((1, body, bytes(signature), approvals))
        if spoil == "cut":
            return envelope[:-1]
        if spoil == "long":
            return envelope + bytes(65_536)
        return sha(envelope) if spoil == "noise" else envelope


def spoilt(spoil: str, number: int = 0, op: str = "anchor") -> Wish:
    return replace(wish(op, 1, number), spoil=spoil)


def lonely(op: str, target: int = 0, number: int = 0, *others: int) -> Wish:
    """Return a wish that only these others approve."""
    return replace(wish(op, target, number), approvers=frozenset(others))


SCRIPT = (
    *(spoilt(each) for each in (*OF_BODY, "flip", "cut", "noise", "long")),
    *(spoilt(each, op="member join") for each in ("order", "twice", "type", "missing")),
    *(spoilt("type", number) for number in (1, 2)),
    # Lowering or raising the threshold takes the larger of both; joining takes it, and the new key.
    *(lonely("member threshold", 1), lonely("member threshold", 3, 0, 1), lonely("member join", 3, 0, 3)),
    *(
        lonely("member join", 3, 0, 1),
        lonely("member rotate", 3),
        wish("member join", 4),
        wish("member threshold", 2),
    ),
    # The keys of the suite that goes do not count: one modern member is not two.
    *(wish("suite retire", 0, 1), wish("suite retire", 2, 1), wish("suite allow", 0, 2), wish("suite retire", 1, 2)),
    replace(wish("ruleset"), step=2),
    replace(wish("anchor", 1), step=2),
    replace(wish("consent set"), spoil="nonce"),
    *(wish("consent set"), replace(wish("consent set"), step=0), wish("consent set", 0, 2)),
    *(lonely("consent owner", 3, 0), wish("consent restrict", signer=1), wish("consent attest")),
    *(wish("access", 0), wish("ruleset"), wish("ruleset"), replace(wish("anchor", 1), step=0)),
    replace(wish("anchor", 1), signer=6),
    *(wish("member leave", 2), wish("member leave", 2), lonely("member leave", 1), wish("member leave", 4)),
    *(wish("member leave", 1), wish("member leave", 0)),
)


def test_every_code_of_refusal_is_given_where_the_naive_ledger_gives_it() -> None:
    codes: set[str] = set()
    for threshold, may_attest in ((1, True), (2, False), (2, True), (16, True)):
        both = NaiveComparison()
        try:
            both.start(threshold=threshold, may_attest=may_attest, is_modern=False, is_settled=True)
            for each in SCRIPT:
                both.submit_all([each])
                both.newest()
            codes |= both.codes
        finally:
            both.teardown()
    assert codes == {code for name, code in vars(Rejection).items() if name.isupper()}


RUNS = int(os.environ.get("LEDGER_MODEL_RUNS", "40"))
COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck))


def test_a_ledger_does_as_the_naive_one() -> None:
    run_state_machine_as_test(NaiveComparison, settings=settings(COMMON, max_examples=12, stateful_step_count=14))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_ledger_does_as_the_naive_one_for_long() -> None:
    run_state_machine_as_test(NaiveComparison, settings=settings(COMMON, max_examples=RUNS, stateful_step_count=50))
