"""Default policies: any active member may register one; the first registration stands."""

from ledger_core.rules.view import Verdict, View
from ledger_core.transactions import RegisterPolicy, Rejection
from ledger_core.values import DefaultPolicy, Member, state_path


def judge(view: View, signer: Member, payload: RegisterPolicy) -> Verdict:
    """Judge the registration of a default policy by its digest."""
    place = state_path(DefaultPolicy.kind, payload.digest)
    return {place: DefaultPolicy(signer.member)} if view.get(place) is None else Rejection.ALREADY_EXISTS
