"""What each attack must show: the refusal, and the one function that decides it.

An exception is decided where it is raised; a code or an answer of a witness by the
function that first returns it. So a test that passes says which check stopped the
attack, and a check that is moved or taken away turns exactly its attacks red.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import CodeType, FrameType
from typing import TypeVar

import pytest

from ledger_core.codec import Value, decode, encode
from ledger_core.errors import LedgerError
from ledger_core.keys import Identity
from ledger_core.machine import Genesis, begin
from ledger_core.payloads import ChangeOwner, OpenPath, SetConsent, SetThreshold
from ledger_core.transactions import Transaction, sign
from ledger_core.witness.core import Refusal
from ledger_core.witness.service import Response
from tests.unit.ledger_core.ledger_network import Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, PATIENT, SOUTH, filler
from tests.unit.ledger_core.ledger_witness_samples import Bench

PATH = filler(60)

_T = TypeVar("_T")


@contextmanager
def stopped(by: Callable[..., object], error: type[LedgerError], words: str) -> Iterator[None]:
    """Expect ``error`` with ``words`` in its message, raised by the function ``by`` itself."""
    with pytest.raises(error, match=words) as caught:
        yield
    assert type(caught.value) is error
    *_, (innermost, _) = walk_tb(caught.value.__traceback__)
    assert innermost.f_code is _code(by), f"stopped by {innermost.f_code.co_qualname}"


def refused(net: Network, envelope: bytes, code: str, by: Callable[..., object]) -> None:
    """Expect the machine to refuse ``envelope`` with ``code``, found by ``by``, and to stay as it was."""
    before = net.state.app_hash
    said, decider = _decide(lambda: net.submit(envelope), lambda value: value == code)
    assert said == code
    assert decider is _code(by), f"found by {decider.co_qualname if decider else None}"
    assert net.state.app_hash == before


def unsigned(bench: Bench, body: bytes, status: int, by: Callable[..., object]) -> Response:
    """Expect a witness to answer ``body`` with ``status``, decided by the function ``by``, and to sign nothing."""
    before = bench.records.origins()
    answer, decider = _decide(lambda: bench.add(body), lambda value: isinstance(value, Refusal))
    assert answer.status == status
    assert decider is _code(by), f"decided by {decider.co_qualname if decider else None}"
    assert "—" not in answer.body
    assert bench.records.origins() == before
    return answer


def attacked_network() -> Network:
    """Three members, two of whom must agree, and an open consent path of one of them."""
    net = Network(begin(Genesis("attacked.example", OPERATOR.public)).state)
    net.admit(NORTH, SOUTH)
    assert net.send(SetThreshold(2), OPERATOR, [NORTH]) == ""
    assert net.send(OpenPath(PATH, PATIENT.public, filler(3)), NORTH) == ""
    return net


def owned(net: Network, payload: SetConsent | ChangeOwner, who: Identity, *by: Identity, nonce: int = 0) -> bytes:
    return sign(Transaction(net.state.network, who.public, nonce or payload.counter, payload), who, by)


def resealed(envelope: bytes, change: Callable[[list[Value]], None]) -> bytes:
    """The envelope with its outer fields [1, body, signature, approvals] changed, signatures left as they are."""
    outer = decode(envelope)
    assert isinstance(outer, tuple)
    items = list(outer)
    change(items)
    return encode(items)


def rewritten(envelope: bytes, place: int, value: Value) -> bytes:
    """The envelope with one field of its body changed: network, kind, version, signer, nonce or payload."""

    def change(items: list[Value]) -> None:
        assert isinstance(items[1], bytes)
        body = decode(items[1])
        assert isinstance(body, tuple)
        items[1] = encode((*body[:place], value, *body[place + 1 :]))

    return resealed(envelope, change)


def _decide(call: Callable[[], _T], is_verdict: Callable[[object], bool]) -> tuple[_T, CodeType | None]:
    """Return what ``call`` returns, and the code of the first function that returned a verdict."""
    found: list[CodeType] = []

    def watch(frame: FrameType, event: str, value: object) -> None:
        if event == "return" and is_verdict(value):
            found.append(frame.f_code)

    kept = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = call()
    finally:
        sys.setprofile(kept)
    return result, found[0] if found else None


def _code(function: Callable[..., object]) -> object:
    return inspect.unwrap(function).__code__
