"""Rulesets: any active member may register one; the first registration stands.

What an institution uses one for is signed by the institution and by whoever answers for it, whoever brings it. Only
what is known can be withdrawn.
"""

from ledger_core.payloads import RegisterRuleset, Rejection, UseRuleset
from ledger_core.rules.view import Request, Verdict, View, find_active
from ledger_core.values import Ruleset, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge the registration of a ruleset by its digest, or its use."""
    payload = request.payload
    assert isinstance(payload, RegisterRuleset | UseRuleset)
    place = state_path(Ruleset.kind, payload.digest)
    is_known = view.get(place) is not None
    if isinstance(payload, UseRuleset):
        return _use(view, payload, request, place, is_known)
    return Rejection.ALREADY_EXISTS if is_known else {place: Ruleset(request.signer.member, payload.suite)}


def _use(view: View, payload: UseRuleset, request: Request, place: bytes, is_known: bool) -> Verdict:
    if payload.author not in request.signers:
        return Rejection.APPROVALS_MISSING
    if not find_active(view, request.signers & {payload.institution}):
        return Rejection.APPROVALS_MISSING
    if is_known:
        return {}
    return {place: Ruleset(request.signer.member, payload.suite)} if payload.share else Rejection.NOT_FOUND
