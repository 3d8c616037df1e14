"""Default policies: any active member may register one; the first registration stands."""

from ledger_core.payloads import RegisterPolicy, Rejection
from ledger_core.rules.view import Request, Verdict, View
from ledger_core.values import DefaultPolicy, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge the registration of a default policy by its digest."""
    payload = request.payload
    assert isinstance(payload, RegisterPolicy)
    place = state_path(DefaultPolicy.kind, payload.digest)
    if view.get(place) is not None:
        return Rejection.ALREADY_EXISTS
    return {place: DefaultPolicy(request.signer.member, payload.suite)}
