"""Audit heads: each member closes its own epochs, in order and never twice."""

from ledger_core.rules.view import Verdict, View, find_access
from ledger_core.transactions import AccessHead, Rejection
from ledger_core.values import AccessState, Member, state_path


def judge(view: View, signer: Member, payload: AccessHead) -> Verdict:
    """Judge an audit head; its epoch must follow the member's last one."""
    place = state_path(AccessState.kind, signer.member)
    last = find_access(view, signer.member)
    if last is not None and payload.epoch <= last.epoch:
        return Rejection.COUNTER_STALE
    return {place: AccessState(payload.epoch, payload.root, payload.count)}
