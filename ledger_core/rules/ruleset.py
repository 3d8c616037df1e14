"""Rulesets: any active member may register one; the first registration stands."""

from ledger_core.payloads import RegisterRuleset, Rejection
from ledger_core.rules.view import Request, Verdict, View
from ledger_core.values import Ruleset, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge the registration of a ruleset by its digest."""
    payload = request.payload
    assert isinstance(payload, RegisterRuleset)
    place = state_path(Ruleset.kind, payload.digest)
    if view.get(place) is not None:
        return Rejection.ALREADY_EXISTS
    return {place: Ruleset(request.signer.member, payload.suite)}
