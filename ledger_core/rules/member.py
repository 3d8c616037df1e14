"""Who belongs to the network: join, rotate a key, leave, and how many must agree.

A join needs the new key's own signature (nobody registers a key that is not
his) and the approval of ``threshold`` active members, or of all while there are
fewer. A key that was ever registered is never registered again, so nothing that
was once signed by it or approved by it can count a second time.
"""

from dataclasses import replace

from ledger_core.payloads import Join, Leave, Rejection, Rotate, SetThreshold
from ledger_core.rules.view import (
    Request,
    Verdict,
    View,
    find_active,
    find_config,
    find_member,
    has_enough,
    key_suite,
)
from ledger_core.values import ACTIVE, CONFIG_PATH, LEFT, ROTATED, Config, Member, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge a change of membership."""
    payload = request.payload
    if isinstance(payload, Join):
        return _join(view, payload, request.signers)
    if isinstance(payload, Rotate):
        return _rotate(view, payload, request)
    if isinstance(payload, Leave):
        return _leave(view, payload, request)
    assert isinstance(payload, SetThreshold)
    return _set_threshold(view, payload, request.signers)


def _join(view: View, payload: Join, signers: frozenset[bytes]) -> Verdict:
    if find_member(view, payload.key) is not None:
        return Rejection.ALREADY_EXISTS
    if payload.key not in signers or not has_enough(view, signers):
        return Rejection.APPROVALS_MISSING
    return {
        state_path(Member.kind, payload.key): Member(payload.key, payload.name, ACTIVE, 0),
        CONFIG_PATH: _counted(find_config(view), payload.key, 1),
    }


def _rotate(view: View, payload: Rotate, request: Request) -> Verdict:
    signer = request.signer
    if find_member(view, payload.key) is not None:
        return Rejection.ALREADY_EXISTS
    if payload.key not in request.signers:
        return Rejection.APPROVALS_MISSING
    return {
        state_path(Member.kind, request.key): replace(signer, status=ROTATED),
        state_path(Member.kind, payload.key): Member(signer.member, signer.name, ACTIVE, 0),
        CONFIG_PATH: _counted(_counted(find_config(view), request.key, -1), payload.key, 1),
    }


def _leave(view: View, payload: Leave, request: Request) -> Verdict:
    is_own = payload.key == request.key
    leaver = request.signer if is_own else find_member(view, payload.key)
    if leaver is None or leaver.status != ACTIVE:
        return Rejection.NOT_FOUND
    if not is_own and not has_enough(view, request.signers):
        return Rejection.APPROVALS_MISSING
    left = _counted(find_config(view), payload.key, -1)
    if left.active == 0:
        return Rejection.LAST_MEMBER
    return {state_path(Member.kind, payload.key): replace(leaver, status=LEFT), CONFIG_PATH: left}


def _set_threshold(view: View, payload: SetThreshold, signers: frozenset[bytes]) -> Verdict:
    config = find_config(view)
    if payload.threshold == config.threshold:
        return Rejection.ALREADY_EXISTS
    # The larger of both: a few must not lower what binds them, nor raise it above what they are.
    changed = replace(config, threshold=payload.threshold)
    if len(find_active(view, signers)) < max(config.needed, changed.needed):
        return Rejection.APPROVALS_MISSING
    return {CONFIG_PATH: changed}


def _counted(config: Config, key: bytes, change: int) -> Config:
    counts = list(config.members)
    counts[key_suite(key) - 1] += change
    return replace(config, members=tuple(counts))
