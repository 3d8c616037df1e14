"""When one state supersedes an earlier one: the only definition of what a revocation receipt shows.

Two values at one place merely differ; which came later would rest on the
heights alone, and those are the operator's word. So the values themselves must
show it, by what the machine lets only rise or move one way:

    consent  a counter rose together with its own list's change, neither counter fell
    member   the key was active and has since been rotated or left

Anything else is refused, whatever its heights say.
"""

from ledger_core.errors import ReceiptInvalid
from ledger_core.values import ACTIVE, LEFT, ROTATED, ConsentState, Held, Member


def check_superseded(past: Held | None, current: Held | None) -> str:
    """Return what superseded ``past``, in words for the outcome; None stands for an absence.

    Raises:
        ReceiptInvalid: ``current`` does not show by itself that it came later and revokes ``past``.
    """
    if isinstance(past, ConsentState) and isinstance(current, ConsentState):
        return _consent(past, current)
    if isinstance(past, Member) and isinstance(current, Member):
        return _member(past, current)
    raise ReceiptInvalid("only consent and membership can be shown revoked")


def _consent(past: ConsentState, current: ConsentState) -> str:
    if (past.institution, past.secret) != (current.institution, current.secret):
        raise ReceiptInvalid("the two consent states are of different paths")
    if current.owner_counter < past.owner_counter or current.institution_counter < past.institution_counter:
        raise ReceiptInvalid("a counter fell: the current state is not the later one")
    changed = []
    if current.owner_counter > past.owner_counter and current.owner_list != past.owner_list:
        changed.append("owner's list replaced")
    if current.institution_counter > past.institution_counter and current.institution_list != past.institution_list:
        changed.append("institution's list replaced")
    if not changed:
        raise ReceiptInvalid("no counter rose with a change of its list: nothing was revoked")
    return " and ".join(changed)


def _member(past: Member, current: Member) -> str:
    if (past.member, past.status) != (current.member, ACTIVE):
        raise ReceiptInvalid("the earlier state is not the active membership of the same member")
    if current.status not in (ROTATED, LEFT) or current.nonce < past.nonce:
        raise ReceiptInvalid("the key is still active, or its nonce fell")
    return f"key has {current.status}" if current.status == LEFT else "key was rotated"
