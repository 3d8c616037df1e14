"""What a rule is given, what it may look at while it judges, and the shape of its verdict."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from ledger_core.errors import IntegrityBroken
from ledger_core.keys import SIGNATURE_SUITES
from ledger_core.payloads import Payload
from ledger_core.values import (
    ACTIVE,
    CONFIG_KEY,
    AccessState,
    Config,
    ConsentState,
    Held,
    Member,
    state_path,
)

Writes: TypeAlias = Mapping[bytes, Held]
Verdict: TypeAlias = Writes | str
_T = TypeVar("_T", Config, Member, ConsentState, AccessState)


class View(Protocol):
    """Current state, with the earlier transactions of the same block applied."""

    def get(self, path: bytes) -> Held | None:
        """Return the value at a state path, or None."""
        ...


class Request(NamedTuple):
    """A transaction whose form, suites and signatures are in order.

    ``member`` is the signer, active and with this nonce already counted, or
    None where an owner signed. ``signers`` are the signer and the approvers.
    """

    key: bytes
    nonce: int
    payload: Payload
    signers: frozenset[bytes]
    member: Member | None

    @property
    def signer(self) -> Member:
        """The member who signed; the machine asks only owners' rules without one."""
        if self.member is None:
            raise IntegrityBroken("a rule for members was asked about an owner's transaction")
        return self.member


Rule: TypeAlias = Callable[[View, Request], Verdict]


def find_config(view: View) -> Config:
    """Return the network's configuration, which genesis always writes."""
    config = _find(view, Config, CONFIG_KEY)
    if config is None:
        raise IntegrityBroken("the state holds no configuration")
    return config


def find_member(view: View, key: bytes) -> Member | None:
    """Return what is known of a member's key, active or not."""
    return _find(view, Member, key)


def find_consent(view: View, path: bytes) -> ConsentState | None:
    """Return the consent state at a blinded path."""
    return _find(view, ConsentState, path)


def find_access(view: View, member: bytes) -> AccessState | None:
    """Return the last audit epoch that a member has closed."""
    return _find(view, AccessState, member)


def find_active(view: View, keys: frozenset[bytes]) -> list[bytes]:
    """Return those of the keys that belong to active members, sorted."""
    found = [(key, find_member(view, key)) for key in sorted(keys)]
    return [key for key, member in found if member is not None and member.status == ACTIVE]


def has_enough(view: View, signers: frozenset[bytes]) -> bool:
    """Tell whether enough active members signed to change the network."""
    return len(find_active(view, signers)) >= find_config(view).needed


def key_suite(key: bytes) -> int:
    """Return the signature suite of a key that has passed the check of its form."""
    return SIGNATURE_SUITES[len(key)]


def _find(view: View, shape: type[_T], key: bytes) -> _T | None:
    value = view.get(state_path(shape.kind, key))
    if value is None or isinstance(value, shape):
        return value
    raise IntegrityBroken(f"a state value of kind {shape.kind} holds something else")
