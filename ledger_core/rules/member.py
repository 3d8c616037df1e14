"""Who belongs to the network: join, rotate a key, leave.

A join needs the new key's own signature (nobody registers a key that is not
his) and the approval of ``threshold`` active members, or of all while there are
fewer. A key that was ever registered is never registered again.
"""

from dataclasses import replace

from ledger_core.rules.view import Verdict, View, count_active, find_config, find_member
from ledger_core.transactions import Join, Leave, Rejection, Rotate
from ledger_core.values import ACTIVE, CONFIG_KEY, LEFT, ROTATED, Config, Member, state_path

_CONFIG_PATH = state_path(Config.kind, CONFIG_KEY)


def judge(
    view: View, signer: Member, key: bytes, payload: Join | Rotate | Leave, signers: frozenset[bytes]
) -> Verdict:
    """Judge a change of membership; ``signer`` is active and stands under ``key``."""
    if isinstance(payload, Join):
        return _join(view, payload, signers)
    if isinstance(payload, Rotate):
        return _rotate(view, signer, key, payload, signers)
    return _leave(view, key, payload, signers)


def _join(view: View, payload: Join, signers: frozenset[bytes]) -> Verdict:
    if find_member(view, payload.key) is not None:
        return Rejection.ALREADY_EXISTS
    if payload.key not in signers or not _enough(view, signers):
        return Rejection.APPROVALS_MISSING
    config = find_config(view)
    return {
        state_path(Member.kind, payload.key): Member(payload.key, payload.name, ACTIVE, 0),
        _CONFIG_PATH: replace(config, active=config.active + 1),
    }


def _rotate(view: View, signer: Member, key: bytes, payload: Rotate, signers: frozenset[bytes]) -> Verdict:
    if find_member(view, payload.key) is not None:
        return Rejection.ALREADY_EXISTS
    if payload.key not in signers:
        return Rejection.APPROVALS_MISSING
    return {
        state_path(Member.kind, key): replace(signer, status=ROTATED),
        state_path(Member.kind, payload.key): Member(signer.member, signer.name, ACTIVE, 0),
    }


def _leave(view: View, key: bytes, payload: Leave, signers: frozenset[bytes]) -> Verdict:
    leaver = find_member(view, payload.key)
    if leaver is None or leaver.status != ACTIVE:
        return Rejection.NOT_FOUND
    if payload.key != key and not _enough(view, signers):
        return Rejection.APPROVALS_MISSING
    config = find_config(view)
    if config.active == 1:
        return Rejection.LAST_MEMBER
    return {
        state_path(Member.kind, payload.key): replace(leaver, status=LEFT),
        _CONFIG_PATH: replace(config, active=config.active - 1),
    }


def _enough(view: View, signers: frozenset[bytes]) -> bool:
    config = find_config(view)
    return count_active(view, signers) >= min(config.threshold, config.active)
