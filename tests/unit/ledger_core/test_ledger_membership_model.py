"""Random changes of a network, against membership kept in plain dictionaries."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledger_core.keys import Identity
from ledger_core.machine import Genesis, StateView, begin
from ledger_core.payloads import AllowSuite, Anchor, Join, Leave, Payload, RetireSuite, Rotate, SetThreshold
from ledger_core.rules.view import find_member
from ledger_core.transactions import Transaction, sign
from tests.unit.ledger_core.ledger_network import CRYSTAL, EAST, LATTICE, WEST, Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, SOUTH, filler, identity

KEYS = [OPERATOR, NORTH, SOUTH, EAST, WEST, identity(11), LATTICE, CRYSTAL]
WHO = st.sampled_from(KEYS)
BY = st.lists(WHO, max_size=5, unique_by=lambda who: who.public)
SUITE = {each.public: each.suite for each in KEYS}


class Model:
    """Membership as plain dictionaries; says which code a transaction must get, in words of the format page."""

    def __init__(self) -> None:
        self.active: dict[bytes, int] = {OPERATOR.public: 0}
        self.known: set[bytes] = {OPERATOR.public}
        self.threshold = 1
        self.suites = {1}

    def able(self) -> set[bytes]:
        return {key for key in self.active if SUITE[key] in self.suites}

    def judge(self, payload: Payload, who: bytes, nonce: int, signed: set[bytes]) -> str:
        fresh = {payload.key} if isinstance(payload, Join | Rotate) else set()
        if not {SUITE[key] for key in signed | fresh} <= self.suites:
            return "suite-not-allowed"
        if who not in self.active:
            return "not-a-member"
        if nonce <= self.active[who]:
            return "nonce-stale"
        code = self.change(payload, who, signed)
        if not code and who in self.active:
            self.active[who] = nonce
        return code

    def change(self, payload: Payload, who: bytes, signed: set[bytes]) -> str:
        count, needed = len(signed & self.able()), min(self.threshold, len(self.able()))
        match payload:
            case Join(key=key) | Rotate(key=key) if key in self.known:
                return "already-exists"
            case Join(key=key) | Rotate(key=key) if key not in signed:
                return "approvals-missing"
            case Join() if count < needed:
                return "approvals-missing"
            case Leave(key=key) if key not in self.active:
                return "not-found"
            case Leave(key=key) if key != who and count < needed:
                return "approvals-missing"
            case Leave(key=key) if self.able() == {key}:
                return "last-member"
            case SetThreshold(threshold=k) if k == self.threshold:
                return "already-exists"
            case SetThreshold(threshold=k) if count < min(max(k, self.threshold), len(self.able())):
                return "approvals-missing"
            case AllowSuite(suite=suite) if suite in self.suites:
                return "already-exists"
            case AllowSuite() if count < needed:
                return "approvals-missing"
            case RetireSuite(suite=suite) if suite not in self.suites:
                return "not-found"
            case RetireSuite() if len(self.suites) == 1:
                return "last-suite"
            case RetireSuite(suite=s) if len({key for key in signed & self.able() if SUITE[key] != s}) < needed:
                return "approvals-missing"
        self.accept(payload, who)
        return ""

    def accept(self, payload: Payload, who: bytes) -> None:
        match payload:
            case Join(key=key) | Rotate(key=key):
                self.known.add(key)
                self.active[key] = 0
                if isinstance(payload, Rotate):
                    del self.active[who]
            case Leave(key=key):
                del self.active[key]
            case SetThreshold(threshold=k):
                self.threshold = k
            case AllowSuite(suite=suite):
                self.suites.add(suite)
            case RetireSuite(suite=suite):
                self.suites.discard(suite)


class Governance(RuleBasedStateMachine):
    """Random changes of a network, and random repeats of what was ever sent."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network(begin(Genesis("model.example", OPERATOR.public)).state)
        self.model = Model()
        self.sent: list[tuple[bytes, Payload, bytes, int, set[bytes]]] = []

    def _send(self, payload: Payload, who: Identity, by: Sequence[Identity], step: int = 1) -> None:
        nonce = max(1, self.model.active.get(who.public, 0) + step)
        others = [each for each in by if each != who]
        envelope = sign(Transaction(self.net.state.network, who.public, nonce, payload), who, others)
        signed = {who.public, *(each.public for each in others)}
        self.sent.append((envelope, payload, who.public, nonce, signed))
        self._check(len(self.sent) - 1)

    def _check(self, place: int) -> None:
        envelope, payload, who, nonce, signed = self.sent[place]
        assert self.net.submit(envelope) == self.model.judge(payload, who, nonce, signed)

    @rule(who=WHO, key=WHO, by=BY, consents=st.booleans())
    def join(self, who: Identity, key: Identity, by: list[Identity], consents: bool) -> None:
        self._send(Join(key.public, "name"), who, list({*by, key}) if consents else by)

    @rule(who=WHO, key=WHO, by=BY)
    def rotate(self, who: Identity, key: Identity, by: list[Identity]) -> None:
        self._send(Rotate(key.public), who, list({*by, key}))

    @rule(who=WHO, key=WHO, by=BY)
    def leave(self, who: Identity, key: Identity, by: list[Identity]) -> None:
        self._send(Leave(key.public), who, by)

    @rule(who=WHO, threshold=st.integers(1, 4), by=BY)
    def set_threshold(self, who: Identity, threshold: int, by: list[Identity]) -> None:
        self._send(SetThreshold(threshold), who, by)

    @rule(who=WHO, suite=st.sampled_from([1, 2]), by=BY, allow=st.booleans())
    def suite(self, who: Identity, suite: int, by: list[Identity], allow: bool) -> None:
        self._send((AllowSuite if allow else RetireSuite)("signature", suite), who, by)

    @rule(who=WHO, step=st.integers(-2, 3))
    def anchor(self, who: Identity, step: int) -> None:
        self._send(Anchor(filler(1), 1), who, [], step)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self._check(data.draw(st.integers(0, len(self.sent) - 1)))

    @invariant()
    def the_state_says_the_same(self) -> None:
        config, view = self.net.config, StateView(self.net.state.tree)
        assert (config.threshold, set(config.signatures)) == (self.model.threshold, self.model.suites)
        assert config.active == len(self.model.able()) >= 1
        assert sum(config.members) == len(self.model.active)
        for key in KEYS:
            found = find_member(view, key.public)
            assert (found is not None) == (key.public in self.model.known)
            nonce = found.nonce if found is not None and found.status == "active" else None
            assert nonce == self.model.active.get(key.public)


TestGovernance = Governance.TestCase
TestGovernance.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
