"""Make up what rests on an institution's word: signed papers, guardians and what they sign, own records that close.

For the two-world harness; docs/consent.md ("On an institution's word", "Several
Consents") and docs/access.md ("Guardians", "Signed papers") say what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.support.worlds import (
    ASKING,
    Attested,
    EndGuardian,
    Guardian,
    GuardianSign,
    Json,
    Paper,
)
from tests.support.worlds_consents import Consents, plain, to

Homes = dict[str, tuple[tuple[str, str], ...]]
Made = tuple[list[Attested], Json]
"""Steps, and the content of the policies file."""

_LATER = "2034-05-01"
_ENDED = "2026-03-01"
"""Up to and with this day: before the questions are asked."""


class Words:
    """Makes what is attested about given persons."""

    def __init__(self, random: Random, homes: Homes, consents: Consents) -> None:
        self._random = random
        self._homes = homes
        self._consents = consents

    def closed(self) -> Made:
        """Return a network where denials may close what an institution wrote itself."""
        return [], _policies(own_records=self._random.choice(["closed-by-provision", "closed-by-any"]))

    def papers(self) -> Made:
        """Return papers that other institutions than the asking one enter, and perhaps what ends or replaces one."""
        steps: list[Attested] = []
        for institution, person in self._elsewhere():
            papers = [Paper(institution, person, f"paper-{person}-{n}", self._body()) for n in range(self._some())]
            steps += papers
            if papers and self._random.random() < 0.25:
                again = self._body() if self._random.random() < 0.5 else None
                steps.append(Paper(institution, person, papers[0].id, again))
        return steps, _policies(attestation={"paper": "counts"})

    def guardians(self) -> Made:
        """Return guardians of other institutions' charts, what they sign, and how their time ends, if it does."""
        steps: list[Attested] = []
        for institution, person in self._elsewhere():
            until = self._random.choice([_LATER, _LATER, _ENDED])
            steps.append(Guardian(institution, person, until))
            steps += self._signed(institution, person)
            if self._random.random() < 0.25:
                steps.append(EndGuardian(institution, person))
        reach = self._random.choice(["own-chart", "person"])
        return steps, _policies(attestation={"guardians": reach})

    def guarding(self) -> Made:
        """Return a guardian of P who asks; what it signs would have another id in each world, as guardians have."""
        institution = self._random.choice([name for name, _ in self._homes["P"]])
        reach = self._random.choice(["own-chart", "own-chart", "person"])
        return [Guardian(institution, "P", _LATER)], _policies(attestation={"guardians": reach})

    def _elsewhere(self) -> Sequence[tuple[str, str]]:
        """Return charts that are not at the asking institution, P's most often."""
        places = [(i, person) for person, homes in self._homes.items() for i, _ in homes if i != ASKING]
        return [place for place in places if place[1] == "P" or self._random.random() < 0.3]

    def _signed(self, institution: str, person: str) -> list[Attested]:
        signed = [GuardianSign(institution, person, f"g{number}", self._body()) for number in range(self._some())]
        steps: list[Attested] = [*signed]
        if signed and self._random.random() < 0.2:
            again = self._body() if self._random.random() < 0.5 else None
            steps.append(GuardianSign(institution, person, "g0", again))
        return steps

    def _some(self) -> int:
        return self._random.choice([1, 1, 2])

    def _body(self) -> Json:
        made = self._consents
        bodies = [
            made.permit_but(made.condition()),
            made.one_condition(),
            made.one_condition(),
            made.any(),
            plain({"type": "deny", "actor": [to(ASKING)], **made.condition()}, "OPTIN"),
        ]
        return self._random.choice(bodies)


def _policies(**stated: object) -> Json:
    return {"format": 1, "own_records": "open", "emergency": {}, "policies": [], **stated}
