"""Who answers for rules: people by name here, by key on the ledger, and what they sign.

A person's key is made from a key of this node and the name, so no list of names is kept for it and the same name
signs with the same key for ever. It is the node that signs: the ledger proves what the operator said.
"""

from __future__ import annotations

from unicodedata import normalize

from blake3 import blake3

from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.rule_life import Person, Step
from ledger_core import Identity

_PERSON = b"fhir-bridge/rules-person/1\0"
_MAX_NAME = 100
# Letters and marks that show nothing: with one of them a name would be another one to us and the same to its readers.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | frozenset(
    map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


class RulePeople:
    """Knows people by their names, and signs for them."""

    def __init__(self, notary: Notary, key: bytes) -> None:
        """Take the node's own key, which the people's are made from."""
        self._notary = notary
        self._key = key

    def person(self, name: str) -> Person:
        """Return who goes by a name, whatever its spacing and case, and however its accents are written.

        Raises:
            SetupWrong: Nobody can be called so.
        """
        told = normalize("NFKC", " ".join(normalize("NFKC", name).split()).casefold())
        if not told or len(told) > _MAX_NAME or not told.isprintable() or not _UNSEEN.isdisjoint(told):
            raise SetupWrong(f"whoever answers for rules needs a name of 1 to {_MAX_NAME} characters")
        return Person(told, self._identity(told).public.hex())

    def institution(self, name: str) -> Person:
        """Return an institution, for what nobody in particular answers for."""
        return Person("", self._notary.identity(name).public.hex())

    def signed(self, institution: str, step: Step) -> bytes:
        """Return the transaction that tells a step, signed by everybody it names."""
        author = self._notary.identity(institution) if not step.by.name else self._identity(step.by.name)
        approvers = [self._identity(each.name) for each in step.approvers]
        return self._notary.sign_use(bytes.fromhex(step.ruleset), step.share, institution, author, approvers)

    def _identity(self, person: str) -> Identity:
        return Identity.from_private_bytes(blake3(_PERSON + person.encode(), key=self._key).digest())
