"""A network for tests of the machine alone: one transaction a block, no store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger_core.keys import SUITE_ML_DSA_44, Identity
from ledger_core.machine import Header, State, StateView, apply_block
from ledger_core.payloads import Join, Payload
from ledger_core.rules.view import find_config
from ledger_core.transactions import Transaction, sign
from ledger_core.values import Config
from tests.unit.ledger_core.ledger_samples import OPERATOR, filler, identity

EAST, WEST = identity(6), identity(7)
LATTICE, CRYSTAL = (Identity.from_private_bytes(filler(number), SUITE_ML_DSA_44) for number in (8, 9))


@dataclass(slots=True)
class Network:
    """A machine that takes one transaction a block and counts nonces by itself."""

    state: State
    nonces: dict[bytes, int] = field(default_factory=dict)

    def submit(self, envelope: bytes) -> str:
        here = self.state.header
        result = apply_block(self.state, Header(here.height + 1, here.time_ms), [envelope])
        self.state = result.state
        return result.results[0].code

    def envelope(self, payload: Payload, who: Identity, by: Sequence[Identity] = ()) -> bytes:
        self.nonces[who.public] = self.nonces.get(who.public, 0) + 1
        return sign(Transaction(self.state.network, who.public, self.nonces[who.public], payload), who, by)

    def send(self, payload: Payload, who: Identity, by: Sequence[Identity] = ()) -> str:
        return self.submit(self.envelope(payload, who, by))

    def admit(self, *members: Identity) -> None:
        for member in members:
            assert self.send(Join(member.public, "member"), OPERATOR, [member]) == ""

    @property
    def config(self) -> Config:
        return find_config(StateView(self.state.tree))
