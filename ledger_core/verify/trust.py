"""Whose word a checkpoint rests on: a policy applied to the keys that signed.

    operator-attested   the log's key says so, nobody else
    witnessed           besides, a quorum of witnesses saw the log only grow
    replayed            besides, witnesses applied the machine: the state follows from the log
    quorum              more than two thirds of the validators agreed on the block
    not-authenticated   no policy: the receipt is sound in itself, nobody vouches

Invariants:
    * every role with a quorum in the policy must be met, else nothing is;
    * the word is that of the strongest role met, never of one merely present;
    * with any quorum the operator's own clock counts for nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ledger_core.checkpoint import Checkpoint, NoteKey, Vouching
from ledger_core.errors import NoteInvalid, PolicyUnmet
from ledger_core.policy import Group, Policy

OPERATOR_ATTESTED: Final = "operator-attested"
WITNESSED: Final = "witnessed"
REPLAYED: Final = "replayed"
QUORUM: Final = "quorum"
NOT_AUTHENTICATED: Final = "not-authenticated"

_CLOCK_SKEW: Final = timedelta(minutes=5)
# Stands for a cosignature that claims no time; every claimed time is later.
_NO_TIME: Final = 0


@dataclass(frozen=True, slots=True)
class Trust:
    """The strongest role met, who stands behind each role met, and the time they signed.

    ``signed_at`` is the latest time that enough of those needed stand behind; with
    several roles, the earliest of theirs. None if too few signed one.
    """

    vouched: str
    vouchers: Mapping[str, tuple[str, ...]]
    signed_at: datetime | None


NOBODY: Final = Trust(NOT_AUTHENTICATED, {}, None)


def apply_policy(policy: Policy, checkpoint: Checkpoint, vouchings: Sequence[Vouching], now: datetime) -> Trust:
    """Return whose word ``checkpoint`` is, by keys that have truly signed it.

    Raises:
        PolicyUnmet: Another log, a needed signature is missing, or it is too old.
    """
    if checkpoint.origin != policy.origin:
        raise PolicyUnmet("the checkpoint is of another log")
    # One key of each type named: else a spoilt time would pass for an unknown key's.
    signed = {item.key.type for item in vouchings if item.key in policy.log_keys}
    if signed != {key.type for key in policy.log_keys}:
        raise PolicyUnmet("the log's key has not signed the checkpoint, or not its time")
    vouched, times = OPERATOR_ATTESTED, []
    vouchers: dict[str, tuple[str, ...]] = {OPERATOR_ATTESTED: (policy.origin,)}
    for word, keys, group in _roles(policy):
        if group is not None:
            moments = _moments(vouchings, keys)
            times.append(_meet(word, group, moments))
            vouchers[word] = tuple(sorted(moments))
            vouched = word
    if not times:
        times = list(_moments(vouchings, policy.log_keys).values())
    signed_at = _as_time(min(times))
    _check_age(policy, signed_at, now)
    return Trust(vouched, vouchers, signed_at)


def _roles(policy: Policy) -> tuple[tuple[str, Sequence[NoteKey], Group | None], ...]:
    """Every role that can be asked for, the weakest first."""
    return (
        (WITNESSED, policy.witnesses, policy.witness_group()),
        (REPLAYED, policy.replaying, policy.replaying_group()),
        (QUORUM, policy.validators, policy.validator_group()),
    )


def _moments(vouchings: Sequence[Vouching], keys: Sequence[NoteKey]) -> dict[str, int]:
    """The latest time that each name among ``keys`` signed."""
    moments: dict[str, int] = {}
    for item in vouchings:
        if item.key in keys:
            moments[item.key.name] = max(moments.get(item.key.name, _NO_TIME), item.time_s or _NO_TIME)
    return moments


def _meet(word: str, group: Group, moments: Mapping[str, int]) -> int:
    moment = _moment_of(group, moments)
    if moment is None:
        raise PolicyUnmet(f"too few cosigned to call it {word}: {len(moments)} did, {group.needed} are needed")
    return moment


def _moment_of(group: Group, moments: Mapping[str, int]) -> int | None:
    """The latest time that as many members as needed stand behind; None if too few cosigned."""
    found = [moments.get(item) if isinstance(item, str) else _moment_of(item, moments) for item in group.of]
    known = sorted((item for item in found if item is not None), reverse=True)
    return known[group.needed - 1] if len(known) >= group.needed else None


def _as_time(moment: int) -> datetime | None:
    if moment == _NO_TIME:
        return None
    try:
        return datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        raise NoteInvalid("a cosignature has an impossible time") from None


def _check_age(policy: Policy, signed_at: datetime | None, now: datetime) -> None:
    if signed_at is not None and signed_at - now > _CLOCK_SKEW:
        raise PolicyUnmet("the checkpoint is signed in the future")
    if policy.oldest_checkpoint is None and policy.max_age_ms is None:
        return
    if signed_at is None:
        raise PolicyUnmet("the policy asks for a fresh checkpoint, and too few trusted keys signed a time")
    if policy.oldest_checkpoint is not None and signed_at < policy.oldest_checkpoint:
        raise PolicyUnmet("the checkpoint is older than the policy accepts")
    # In integers: a policy's limit may exceed what a timedelta can hold.
    if policy.max_age_ms is not None and (now - signed_at) // timedelta(microseconds=1) > policy.max_age_ms * 1000:
        raise PolicyUnmet("the checkpoint is older than the policy accepts")
