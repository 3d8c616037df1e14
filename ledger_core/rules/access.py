"""Audit heads: each member closes its own epochs, in order and never twice."""

from ledger_core.payloads import AccessHead, Rejection
from ledger_core.rules.view import Request, Verdict, View, find_access
from ledger_core.values import AccessState, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge an audit head; its epoch must follow the member's last one."""
    payload, signer = request.payload, request.signer
    assert isinstance(payload, AccessHead)
    last = find_access(view, signer.member)
    if last is not None and payload.epoch <= last.epoch:
        return Rejection.COUNTER_STALE
    return {state_path(AccessState.kind, signer.member): AccessState(payload.epoch, payload.root, payload.count)}
