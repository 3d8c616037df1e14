"""Guardians, whom an institution attests for its own chart of a patient, and papers that a patient has signed there.

For the HTTP entrance. A guardian (a child's mother, somebody whom a court
appointed) is not named by the patient: it acts on the institution's word, in an
own name, with an own key, for a scope and a period, where network policy lets
it. What it reads, signs and sees of the access log says so.

Invariants:
    * a patient's own institution attests and no other, for its own chart, in the name of a practitioner who does it;
    * whether a patient is known elsewhere changes no answer;
    * an end by institution, patient, enrolment or time stops the guardian and every permit it signed, never a denial;
    * the notice is durable before a guardian can act; a paper is its own notice, and its entry in the log follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from fhir_bridge.consent import AttestationRules, Reach
from fhir_bridge.errors import Issue, NotFound, NotPermitted, RecordRefused
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.mandates import MANDATE_PARAMETERS, read_mandate, read_texts, refused, require_given, told
from fhir_bridge.lines.people import People
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.reply import Reply
from fhir_bridge.lines.scoping import require
from fhir_bridge.model.access import Requester
from fhir_bridge.model.clients import Client, ClientKind, Jwk
from fhir_bridge.model.ingest import ChartRef, Outcome
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.proof import delegation_event

MAX_GUARDIANS: Final = 8
"""Acting ones of one patient at one institution."""

RELATIONSHIPS: Final = frozenset(
    [
        *("PRN", "MTH", "FTH", "NPRN", "NMTH", "NFTH", "ADOPTP", "ADOPTM", "ADOPTF", "STPPRN", "STPMTH", "STPFTH"),
        *("PRNFOST", "MTHFOST", "FTHFOST", "GRPRN", "GRMTH", "GRFTH", "SIB", "CHILD", "SPS", "DOMPART", "FAMMEMB"),
        *("GUARD", "GUADLTM", "POWATT", "DPOWATT", "HPOWATT", "SPOWATT", "RESPRSN"),
    ]
)
"""Codes of v3-RoleCode for who may speak for a patient: family, guardians, attorneys."""

_MAX_YEARS: Final = 25
"""A newborn's majority, with room."""
_PARAMETERS: Final = MANDATE_PARAMETERS | {"relationship", "basis"}
_PAPERS: Final = ("sourceAttachment", "sourceReference")


class GuardianshipLine:
    """Answers ``$attest-guardian``, ``$end-guardianship`` and ``$attest-consent`` on a Patient."""

    def __init__(
        self,
        *,
        clients: Clients,
        people: People,
        registry: Registry,
        grant: GrantLine,
        audit: AuditLine,
        rules: AttestationRules,
        may_attest: bool,
        clock: Clock,
        randomness: Randomness,
        is_usable: Callable[[Jwk], bool],
    ) -> None:
        self._clients = clients
        self._people = people
        self._registry = registry
        self._grant = grant
        self._audit = audit
        self._rules = rules
        self._may_attest = may_attest
        self._clock = clock
        self._randomness = randomness
        self._is_usable = is_usable
        self._changing = asyncio.Lock()

    async def attest(self, who: Requester, patient: str, body: bytes) -> Reply:
        """Register a guardian of the institution's own patient; answer with its client id and its id.

        Raises:
            NotPermitted: No institution's practitioner, or network policy lets no guardians act.
            NotFound: No patient of this institution.
            RecordRefused: Name, key, scope, period, relationship or basis are missing or cannot be.
        """
        institution = _attesting(who, self._may_attest and self._rules.guardians is not Reach.REFUSED, "guardians")
        require(who, "RelatedPerson", "create")
        given = read_texts(body, _PARAMETERS)
        require_given(given, frozenset({"relationship", "basis"}))
        mandate = read_mandate(given, self._clock.now(), self._is_usable, max_years=_MAX_YEARS)
        relationship, basis = given["relationship"], given["basis"].strip()
        if relationship not in RELATIONSHIPS:
            raise refused("relationship must be a code of v3-RoleCode for who may speak for a patient, such as MTH")
        if not 8 <= len(basis) <= 500:
            raise refused("basis must cite the paper or the law, in 8 to 500 characters")
        chart = self._own_chart(who, institution, patient)
        async with self._changing:
            now_s = self._clock.now().timestamp()
            acting = [each for each in self._clients.guardians(str(chart.patient_id)) if each.may_act(now_s)]
            if len(acting) >= MAX_GUARDIANS:
                raise refused(f"at most {MAX_GUARDIANS} guardians act for one patient")
            guardian = self._randomness.token(16).hex()
            client = Client(
                client_id=f"guardian-{self._randomness.token(12).hex()}",
                kind=ClientKind.PATIENT,
                keys=(mandate.key,),
                scopes=mandate.scopes,
                patient=chart.patient_id,
                delegate=guardian,
                period_s=mandate.period_s,
                attested_by=institution,
            )
            said = {"guardian": guardian, **mandate.texts, "relationship": relationship, "basis": basis}
            await self._tell(who, chart, said | {"attested by": f"institution {institution}"}, "attest-guardian")
            await self._clients.add(client)
        return told(client_id=client.client_id, guardian=guardian)

    async def end(self, who: Requester, patient: str, body: bytes) -> Reply:
        """End a guardian's time at once, tokens in hand and signed permits included; ending it twice changes nothing.

        Raises:
            NotPermitted: Neither a practitioner of an institution nor a patient's own agent.
            NotFound: No patient of the asker, or no guardian of this one whom this institution attested.
        """
        if who.patient is not None and who.delegate is not None:
            raise NotPermitted(
                "a guardian's time is ended by the institution that attests it, or by the patient's agent"
            )
        charts = self._charts(who, patient)
        guardian = read_texts(body, frozenset({"guardian"})).get("guardian")
        for chart in charts:
            for client in self._clients.guardians(str(chart.patient_id)):
                if client.delegate == guardian:
                    await self._end(who, chart, client, "end-guardianship")
                    return told(guardian=str(guardian))
        raise NotFound

    async def take_over(self, charts: Sequence[ChartRef]) -> None:
        """End every guardian's time of a person who is given an own agent: from now on the patient signs."""
        operator = Requester(client_id=OPERATOR, purpose="")
        for chart in charts:
            for client in self._clients.guardians(str(chart.patient_id)):
                await self._end(operator, chart, client, "enrol")

    async def attest_consent(self, who: Requester, patient: str, body: bytes) -> Outcome:
        """Take a Consent that the patient signed on paper at this institution.

        Raises:
            NotPermitted: No institution's practitioner, or network policy lets no papers count.
            NotFound: No patient of this institution.
            RecordRefused: No valid Consent about this patient that names its paper.
        """
        institution = _attesting(who, self._may_attest and self._rules.paper, "signed papers")
        require(who, "Consent", "create")
        local_id = _paper(body)
        chart = self._own_chart(who, institution, patient)
        outcome = await self._grant.attest(institution, chart, body, local_id)
        said = {"paper": f"Consent/{outcome.id}/_history/{outcome.version}"}
        await self._tell(who, chart, said | {"attested by": f"institution {institution}"}, "attest-consent")
        return outcome

    async def _end(self, who: Requester, chart: ChartRef, client: Client, operation: str) -> None:
        async with self._changing:
            if client.is_active:
                # Ended first: should anything after it fail, the guardian is out all the same.
                await self._clients.add(replace(client, is_active=False))
            await self._grant.end_guardian(chart, str(client.delegate))
            if client.is_active:
                said = {"guardian": str(client.delegate), "ended": "true"}
                await self._tell(who, chart, said | {"attested by": f"institution {client.attested_by}"}, operation)

    def _charts(self, who: Requester, patient: str) -> Sequence[ChartRef]:
        if who.patient is None:
            institution = _attesting(who, True, "")
            require(who, "RelatedPerson", "update")
            return [self._own_chart(who, institution, patient)]
        charts = self._people.person_of(who, patient)
        if not any(chart.patient_id == who.patient for chart in charts):
            raise NotFound
        return charts

    def _own_chart(self, who: Requester, institution: str, patient: str) -> ChartRef:
        for candidate in self._people.ids(who, "Patient", patient):
            chart = self._registry.chart_of_patient(candidate)
            if chart is not None and chart.institution == institution:
                return chart
        raise NotFound

    async def _tell(self, who: Requester, chart: ChartRef, texts: dict[str, str], operation: str) -> None:
        now = self._clock.now()
        await self._audit.note(
            who,
            [chart],
            lambda patient, name: delegation_event(who, now, patient, texts, event_id=name, operation=operation),
        )


def _attesting(who: Requester, is_allowed: bool, what: str) -> str:
    """Return the institution that attests; the same for every patient, for it looks at none."""
    if who.institution is None or who.practitioner is None:
        raise NotPermitted("an institution attests, in the name of a practitioner whom the token states")
    if not is_allowed:
        raise NotPermitted(f"network policy does not let {what} count on an institution's word")
    return who.institution


def _paper(body: bytes) -> str | None:
    """Return the institution's id of a Consent, if it gives one; the Consent must say which paper it stands for."""
    try:
        content = parse(body)
    except NotStrictJson as error:
        raise RecordRefused([Issue("error", "structure", "send the Consent as JSON", "Consent")]) from error
    if not any(content.get(name) for name in _PAPERS):
        problem = "name the paper: sourceAttachment (title, or hash and url of the scan) or sourceReference"
        raise RecordRefused([Issue("error", "required", problem, "Consent.source[x]")])
    found = content.get("id")
    return found if isinstance(found, str) else None
