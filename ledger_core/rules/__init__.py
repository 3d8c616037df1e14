"""What each kind of transaction may do: one file a kind, all of one shape.

Each file offers ``judge(view, request)`` and returns either the values to
write, by path, or a fixed rejection code. A rule is pure: it reads the view it
is given, raises for nothing a sender can cause, and writes nothing itself.

The machine has seen to everything that holds for all kinds before it asks: the
form, the network, the suites of every key and of the payload, membership and
nonce of the signer, and that every signature is true. A new kind is its
payload, one file here and one line in ``RULES``.
"""

from collections.abc import Mapping
from typing import Final

from ledger_core.rules import access, anchor, consent, member, policy, ruleset, suite
from ledger_core.rules.view import Rule

RULES: Final[Mapping[str, Rule]] = {
    "access": access.judge,
    "anchor": anchor.judge,
    "consent": consent.judge,
    "member": member.judge,
    "policy": policy.judge,
    "ruleset": ruleset.judge,
    "suite": suite.judge,
}
