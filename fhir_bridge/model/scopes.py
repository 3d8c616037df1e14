"""SMART scopes: parse, compare, and tell whether a requester may attempt an interaction at all.

For the token endpoint, which grants no more than a client was registered for,
and for the HTTP entrance, which asks :func:`allows` before a line is entered.
A scope never widens what a patient permits: it is a second, coarser fence.

Grammar: SMART App Launch 2.2, "Scopes for requesting FHIR resources", plus the
version 1 words ``read``, ``write`` and ``*``. Finer-grained scopes
(``…?category=…``) are refused, because ignoring the query would widen them.

Invariants:
    * whatever the scopes say, a patient writes nothing but Consent;
    * who may update a patient's Consent may delete it: that withdraws it, as a new status does;
    * an interaction without an entry in ``_NEEDS`` is allowed to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fhir_bridge.model.access import Requester

INSTITUTION_SCOPES: Final = ("system/*.cruds",)
PATIENT_SCOPES: Final = ("patient/*.rs", "patient/Consent.cu")
MAX_SCOPES: Final = 64

_SCOPE: Final = re.compile(r"(patient|user|system)/(\*|[A-Z][A-Za-z]{1,63})\.(read|write|\*|c?r?u?d?s?)")
_V1: Final = {"read": "rs", "write": "cud", "*": "cruds"}
_NEEDS: Final = {
    "create": "c",
    "read": "r",
    "vread": "r",
    "update": "u",
    "patch": "u",
    "delete": "d",
    "search": "s",
    "history": "r",
    "history-type": "s",
    "everything": "rs",
}
_INSTITUTION_CONTEXTS: Final = frozenset({"system", "user"})
_PATIENT_CONTEXTS: Final = frozenset({"patient"})


@dataclass(frozen=True, slots=True)
class Scope:
    """One parsed scope; ``letters`` is a subset of ``cruds``, ``type`` a resource type or ``*``."""

    context: str
    type: str
    letters: frozenset[str]

    def covers(self, context: str, type_name: str, letter: str) -> bool:
        """Tell whether this scope alone gives ``letter`` on ``type_name`` (``*`` asks for every type)."""
        return self.context == context and self.type in ("*", type_name) and letter in self.letters


class ScopeUnknown(ValueError):
    """A scope that this server does not grant to anybody; the message holds the scope's position, not its text."""


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Parse the space-separated value of a ``scope`` parameter or claim.

    Raises:
        ScopeUnknown: One of them is not a plain resource scope, or there are more than ``MAX_SCOPES``.
    """
    words = text.split()
    if len(words) > MAX_SCOPES:
        raise ScopeUnknown(f"more than {MAX_SCOPES} scopes")
    return tuple(_parse(word, number) for number, word in enumerate(words, 1))


def is_within(requested: Iterable[Scope], allowed: Iterable[Scope]) -> bool:
    """Tell whether every permission in ``requested`` is covered by one in ``allowed``."""
    fence = tuple(allowed)
    return all(
        any(other.covers(scope.context, scope.type, letter) for other in fence)
        for scope in requested
        for letter in scope.letters
    )


def allows(requester: Requester, type_name: str, interaction: str) -> bool:
    """Tell whether the requester's token is good for attempting ``interaction`` on ``type_name``.

    Args:
        type_name: Resource type; ``*`` for the whole system, which needs a scope on ``*``.
        interaction: ``create``, ``read``, ``vread``, ``update``, ``patch``, ``delete``, ``search``, ``history``,
            ``history-type`` or ``everything``; any other is refused.
    """
    needed = _NEEDS.get(interaction)
    if needed is None:
        return False
    if requester.patient is not None and (type_name, interaction) == ("Consent", "delete"):
        needed = _NEEDS["update"]
    if requester.patient is not None and not _patient_may(type_name, needed):
        return False
    return all(_gives(requester, type_name, letter) for letter in needed)


def readable_types(requester: Requester) -> Callable[[str], bool]:
    """Return the test that says of a resource type whether the token may read it.

    For answers that mix types ($everything, includes, system search): a type
    outside the token's scopes is not part of that requester's world.
    """
    return lambda type_name: _gives(requester, type_name, "r")


def _parse(word: str, number: int) -> Scope:
    match = _SCOPE.fullmatch(word)
    if match is None or not match[3]:
        raise ScopeUnknown(f"scope number {number} is not a plain resource scope")
    return Scope(match[1], match[2], frozenset(_V1.get(match[3], match[3])))


def _patient_may(type_name: str, needed: str) -> bool:
    return set(needed) <= {"r", "s"} or (type_name == "Consent" and set(needed) <= {"c", "u"})


def _gives(requester: Requester, type_name: str, letter: str) -> bool:
    contexts = _PATIENT_CONTEXTS if requester.patient is not None else _INSTITUTION_CONTEXTS
    scopes = _granted(requester.scopes)
    return any(scope.covers(context, type_name, letter) for scope in scopes for context in contexts)


@lru_cache(maxsize=1024)
def _granted(scopes: tuple[str, ...]) -> tuple[Scope, ...]:
    """Parse a token's scopes once, not once a row; one that does not parse voids them all."""
    try:
        return parse_scopes(" ".join(scopes))
    except ScopeUnknown:
        return ()
