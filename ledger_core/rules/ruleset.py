"""Rulesets: any active member may register one; the first registration stands."""

from ledger_core.rules.view import Verdict, View
from ledger_core.transactions import RegisterRuleset, Rejection
from ledger_core.values import Member, Ruleset, state_path


def judge(view: View, signer: Member, payload: RegisterRuleset) -> Verdict:
    """Judge the registration of a ruleset by its digest."""
    place = state_path(Ruleset.kind, payload.digest)
    return {place: Ruleset(signer.member)} if view.get(place) is None else Rejection.ALREADY_EXISTS
