"""The state that a rule may look at while it judges, and the shape of its verdict."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, TypeVar

from ledger_core.errors import IntegrityBroken
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


def count_active(view: View, keys: frozenset[bytes]) -> int:
    """Count the keys that belong to active members."""
    found = [find_member(view, key) for key in sorted(keys)]
    return sum(1 for member in found if member is not None and member.status == ACTIVE)


def _find(view: View, shape: type[_T], key: bytes) -> _T | None:
    value = view.get(state_path(shape.kind, key))
    if value is None or isinstance(value, shape):
        return value
    raise IntegrityBroken(f"a state value of kind {shape.kind} holds something else")
