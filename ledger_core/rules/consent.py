"""Consent paths: only the owner's key widens, the institution's only restricts or attests.

The machine cannot see what a list contains; it checks who changes which list.
Each side has its own list and counter and cannot touch the other's.
"""

from dataclasses import replace

from ledger_core.payloads import (
    Attest,
    ChangeOwner,
    InstitutionPayload,
    OpenPath,
    OwnerPayload,
    Rejection,
    SetConsent,
)
from ledger_core.rules.view import Request, Verdict, View, find_config, find_consent
from ledger_core.values import NO_LIST, ConsentState, Member, state_path


def judge(view: View, request: Request) -> Verdict:
    """Judge a change of a consent path, by its owner or by the institution that opened it."""
    payload = request.payload
    if isinstance(payload, SetConsent | ChangeOwner):
        return _judge_owner(view, request, payload)
    assert isinstance(payload, InstitutionPayload)
    return _judge_institution(view, request.signer, payload)


def _judge_institution(view: View, signer: Member, payload: InstitutionPayload) -> Verdict:
    state = find_consent(view, payload.path)
    place = state_path(ConsentState.kind, payload.path)
    if isinstance(payload, OpenPath):
        if state is not None:
            return Rejection.ALREADY_EXISTS
        return {place: ConsentState(payload.owner, signer.member, payload.secret, 0, NO_LIST, 0, NO_LIST, 0)}
    if state is None:
        return Rejection.NOT_FOUND
    if state.institution != signer.member:
        return Rejection.NOT_PERMITTED
    if payload.counter <= state.institution_counter:
        return Rejection.COUNTER_STALE
    changed = replace(state, institution_counter=payload.counter, institution_list=payload.list_hash)
    if isinstance(payload, Attest):
        if not find_config(view).may_attest:
            return Rejection.ATTEST_NOT_ALLOWED
        changed = replace(changed, attested=payload.counter)
    return {place: changed}


def _judge_owner(view: View, request: Request, payload: OwnerPayload) -> Verdict:
    # Owners are not members: their counter is their nonce.
    state = find_consent(view, payload.path)
    if state is None:
        return Rejection.NOT_FOUND
    if state.owner != request.key:
        return Rejection.NOT_PERMITTED
    if payload.counter <= state.owner_counter or request.nonce != payload.counter:
        return Rejection.COUNTER_STALE
    changed = replace(state, owner_counter=payload.counter)
    if isinstance(payload, ChangeOwner):
        if payload.owner not in request.signers:
            return Rejection.APPROVALS_MISSING
        changed = replace(changed, owner=payload.owner)
    else:
        changed = replace(changed, owner_list=payload.list_hash)
    return {state_path(ConsentState.kind, payload.path): changed}
