"""Who may write what: a requester's institution, and what its token is good for."""

from __future__ import annotations

from typing import Final

from fhir_bridge.errors import NotPermitted
from fhir_bridge.model.access import Requester
from fhir_bridge.model.scopes import allows

INTERACTIONS: Final = {"POST": "create", "PUT": "update", "DELETE": "delete"}
"""Method → what scopes call it."""


def sender_of_bundles(who: Requester) -> str:
    """Return the institution of a requester who may send bundles.

    Raises:
        NotPermitted: The token is a patient's, or its scopes do not cover writing.
    """
    institution = institution_of(who)
    # Their entries are known only later; a token that may not do all of this sends single resources.
    for interaction in INTERACTIONS.values():
        require(who, "*", interaction)
    return institution


def require(who: Requester, type_name: str, interaction: str) -> None:
    """Check that a token is good for an interaction on a type; raises NotPermitted."""
    if not allows(who, type_name, interaction):
        raise NotPermitted(f"this token is not good for this interaction on {type_name}")


def institution_of(who: Requester) -> str:
    """Return the institution that writes; a patient's token raises NotPermitted."""
    if who.institution is None:
        raise NotPermitted("a patient's token writes Consent resources only")
    return who.institution
