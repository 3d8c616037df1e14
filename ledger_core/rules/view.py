"""The state that a rule may look at while it judges, and the shape of its verdict."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from ledger_core.values import (
    ACTIVE,
    CONFIG_KEY,
    Config,
    ConsentState,
    Held,
    Member,
    decode_held,
    state_path,
)

Writes: TypeAlias = Mapping[bytes, Held]
Verdict: TypeAlias = Writes | str


class View(Protocol):
    """Current state, with the earlier transactions of the same block applied."""

    def get(self, path: bytes) -> bytes | None:
        """Return the encoded value at a state path, or None."""
        ...


def find_config(view: View) -> Config:
    """Return the network's configuration, which genesis always writes."""
    data = view.get(state_path(Config.kind, CONFIG_KEY))
    return decode_held(Config, data or b"")


def find_member(view: View, key: bytes) -> Member | None:
    """Return what is known of a member's key, active or not."""
    data = view.get(state_path(Member.kind, key))
    return None if data is None else decode_held(Member, data)


def find_consent(view: View, path: bytes) -> ConsentState | None:
    """Return the consent state at a blinded path."""
    data = view.get(state_path(ConsentState.kind, path))
    return None if data is None else decode_held(ConsentState, data)


def count_active(view: View, keys: frozenset[bytes]) -> int:
    """Count the keys that belong to active members."""
    found = [find_member(view, key) for key in sorted(keys)]
    return sum(1 for member in found if member is not None and member.status == ACTIVE)
