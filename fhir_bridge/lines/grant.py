"""A patient's decision: consent → anchor. The only way by which anybody's view can widen.

A consent is a record of the patient's chart, and an entry in the sealed list
of every chart it covers; each list's hash stands on the ledger under a blinded
path of that chart, changed by the path's owner key alone. Charts of one person
have unrelated paths, keys and transactions.

Invariants:
    * a list counts only while its hash is the one the ledger holds now;
    * a signed change is stored before it is submitted, so a crash between the
      two is made good at the next start;
    * an institution's own Consents enter a list of its own, which only narrows; signed papers and what guardians
      signed enter it too, and then the institution attests the list as a whole;
    * while such a Consent is stored and not yet in its list, the chart is closed to all but the patient.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import msgspec
from msgspec import structs

from fhir_bridge.consent import (
    AttestationRules,
    ConsentEntry,
    ConsentList,
    Reach,
    attestation_of,
    compile_consent,
    narrowed,
)
from fhir_bridge.errors import (
    IntegrityBroken,
    Issue,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    RecordRefused,
    Unavailable,
)
from fhir_bridge.fhir.json import parse
from fhir_bridge.lines.agents import agent_record, patient_of, restated_record, told_in_r4
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.ingest import RESTRICTIONS, IngestLine
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.past_lists import ConsentLists, ListHashes, PastLists
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.signatories import AGENT, GUARDIAN, Signatory, agent_of, clerk_of, guardian_of, same_again
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.lines.withdrawal import find_withdrawn, stored_body
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import (
    ChartRef,
    FhirVersion,
    Interaction,
    Normalized,
    Outcome,
    Processed,
    Received,
    instant,
    stamped,
)
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob
from fhir_bridge.telemetry import logger
from ledger_core import ConsentState, Identity

_log = logger("grant")
_R4 = FhirVersion.R4
_LISTS = "consents"
_AGENTS = "agents"
_OWNER = "owner"
_INSTITUTION = "institution"
_KEPT = "kept"
"""An institution's list of a chart whose path is not open: no ledger vouches for it, so it only ever narrows."""
_RETRY_S = 0.5


class _Stored(msgspec.Struct, array_like=True):
    """A sealed list with the counter of its change; ``envelope`` is the signed transaction that installs it."""

    counter: int
    content: bytes
    envelope: bytes


@lru_cache(maxsize=1_024)
def _decoded(content: bytes) -> tuple[ConsentList, bytes]:
    """Return a stored list with its hash, worked out once for the same bytes."""
    listed = ConsentList.decode(content)
    return listed, listed.list_hash()


class GrantLine:
    """Enrols patients' agents, takes consents, and gives the lists that decisions rest on."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        notary: Notary,
        ingest: IngestLine,
        clients: Clients,
        rules: AttestationRules,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._notary = notary
        self._ingest = ingest
        self._clients = clients
        self._rules = rules
        self._clock = clock
        self._randomness = randomness
        # An agent's write waits for the ingest line, and the ingest line waits for restrict(): two locks, lest
        # each wait for the other.
        self._writing = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._unsettled: dict[str, int] = {}
        self._held: dict[tuple[str, str], list[_Stored]] = {}
        self._enrolled: set[str] = set()
        self.past = PastLists(vault=vault, registry=registry, randomness=randomness)

    async def start(self) -> None:
        """Read the lists and submit every signed change that a crash kept from the ledger."""
        for chart_id, _ in await self._vault.documents(_AGENTS):
            self._enrolled.add(chart_id)
        for key, value in await self._vault.documents(_LISTS):
            chart_id, who, _ = key.split("/")
            chart = self._registry.chart(chart_id)
            if chart is None:
                _log.error("consent list of an unknown chart")
                continue
            stored = msgspec.msgpack.decode(
                open_blob(self._registry.chart_key(chart), _LISTS, key, value), type=_Stored
            )
            self._held.setdefault((chart_id, who), []).append(stored)
        chart_lists = [(key, each.content) for key, versions in self._held.items() for each in versions]
        await self.past.keep([(chart_id, _decoded(content)[1], content) for (chart_id, _), content in chart_lists])
        for (chart_id, who), versions in list(self._held.items()):
            newest = max(versions, key=lambda stored: stored.counter)
            chart = self._registry.chart(chart_id)
            if chart is not None and newest.envelope and self._counter(chart, who) < newest.counter:
                await self._notary.submit(newest.envelope)
        for key, version in await self._vault.documents(RESTRICTIONS):
            chart_id, _, consent_id = key.partition("/")
            chart = self._registry.chart(chart_id)
            if chart is not None:
                await self.restrict(chart, consent_id, version.decode())
        await self.follow_links()
        await self._end_former_guardians()

    # --- agents

    async def enrol(self, chart: ChartRef) -> int:
        """Make owner keys for every chart of the person and open their consent paths; return how many are open."""
        async with self._changing:
            await self._vault.commit(Work(documents=[Document(_AGENTS, chart.chart, b"1")]), None)
            self._enrolled.add(chart.chart)
            return await self._open_paths(chart)

    async def follow_links(self) -> None:
        """Open paths for charts that were linked to an enrolled patient since; no consent covers them yet."""
        async with self._changing:
            for chart_id in sorted(self._enrolled):
                chart = self._registry.chart(chart_id)
                if chart is not None:
                    await self._open_paths(chart)

    async def _open_paths(self, chart: ChartRef) -> int:
        linked = self._registry.linked(chart)
        for each in linked:
            await self._open_path(each)
        return len(linked)

    async def _open_path(self, chart: ChartRef) -> None:
        owner = Identity.from_private_bytes(self._key(KeyKind.PATH_OWNER, chart))
        await self._notary.open_path(self._key(KeyKind.CONSENT_SECRET, chart), owner.public, chart.institution)
        if self._newest(chart, _KEPT) is not None:
            await self._publish_restriction(chart, self._list(chart, _INSTITUTION), [])

    # --- consents

    async def write(
        self, who: Requester, interaction: Interaction, body: bytes, release: FhirVersion | None = None
    ) -> Outcome:
        """Take a Consent from a patient's agent, or its withdrawal; it is in force when this returns.

        A deletion makes a new version with status ``inactive``. An R5 Consent is stored in R4's words, its own bytes
        beside them. What an attested guardian signs goes to the institution's list, with the institution's word.

        Raises:
            NotPermitted: Another resource type, or a guardian whom network policy does not let sign.
            NotFound: A deletion of what is no consent of this patient.
            RecordRefused: The body is no valid Consent about this patient, and withdraws none.
            Unavailable: Not taken; safe to retry.
        """
        if interaction.type != "Consent":
            raise NotPermitted("a patient's token writes Consent resources only")
        home = self._registry.chart_of_patient(who.patient or "")
        if home is None:
            raise NotPermitted("this patient is not enrolled here")
        received = Received(home.institution, _R4, body, self._clock.now(), interaction=interaction)
        received = replace(received, body=told_in_r4(body)) if release is FhirVersion.R5 else received
        by = self._guardian(who, home) if who.attested_by is not None else agent_of(who, home, self._registry)
        async with self._writing:
            record = structs.replace(await self._record(received, home, by), original=body)
            outcome = await self._take(received, record)
        return structs.replace(outcome, status="204 No Content") if interaction.method == "DELETE" else outcome

    async def attest(self, institution: str, chart: ChartRef, body: bytes, local_id: str | None) -> Outcome:
        """Take a Consent signed on paper, on its institution's word; it is in force when this returns.

        Args:
            chart: The institution's own chart of the patient.
            local_id: The institution's id of the Consent; a known one gets a new version.

        Raises:
            NotPermitted: Network policy does not let papers count.
            RecordRefused: The body is no valid Consent about this patient.
            Unavailable: Not taken; safe to retry.
        """
        if not (self._rules.paper and self._notary.may_attest):
            raise NotPermitted("network policy does not let signed papers count on an institution's word")
        interaction = Interaction("POST" if local_id is None else "PUT", "Consent", local_id)
        received = Received(institution, _R4, body, self._clock.now(), interaction=interaction)
        async with self._writing:
            by = clerk_of(chart, self._registry)
            record = agent_record(received, chart, self._registry, self._randomness, by)
            self._check_patient(patient_of(record), [chart])
            return await self._take(received, record)

    async def _take(self, received: Received, record: Normalized) -> Outcome:
        """Store a signed Consent and bring the list that it belongs to into force."""
        is_owners = record.row.author == AGENT
        async with self._changing:
            # Before it is stored: a list that is not on the ledger cannot be attested.
            await (self._open_paths(record.chart) if is_owners else self._open_path(record.chart))
        done = await self._ingest.push_processed(received, Processed("single", (record,)))
        if done.refused:
            raise (PreconditionFailed if done.status.startswith("412") else RecordRefused)(done.refused)
        outcome = done.outcomes[0]
        if outcome.last_updated is None:
            raise IntegrityBroken("a stored consent has no time")
        if is_owners:
            stored = stamped(record, version=outcome.version, last_updated=outcome.last_updated)
            async with self._changing:
                await self._install(record.chart, outcome, stored)
        elif self._unsettled.get(record.chart.chart):
            raise Unavailable("the consent is stored and its chart closed until the ledger has its list")
        return outcome

    async def _record(self, received: Received, home: ChartRef, by: Signatory) -> Normalized:
        """Return what an agent wants stored: its Consent or, where it says less, the stored one withdrawn."""
        found = await find_withdrawn(received, home, self._registry, self._vault, by)
        if found is None and received.interaction is not None and received.interaction.method == "DELETE":
            raise NotFound
        try:
            record = agent_record(received, home, self._registry, self._randomness, by)
            self._check_patient(patient_of(record), self._registry.linked(home) if by.author == AGENT else [home])
            if found is None or found.id == record.id:
                self._check_guardian(record)
                return record
        except RecordRefused:
            if found is None:
                raise
        by = same_again(found.author, found.body, by)
        return restated_record(received, found.id, found.body, found.ends_as, found.chart, self._registry, by)

    # --- guardians

    def _guardian(self, who: Requester, home: ChartRef) -> Signatory:
        client = self._clients.guardian(str(who.delegate))
        if client is None or client.period_s is None or home.institution != client.attested_by:
            raise NotPermitted("this guardian's attestation does not hold")
        until = instant(instant_of(client.period_s[1] * 1_000_000))
        return guardian_of(str(who.delegate), until, home, self._registry)

    def _check_guardian(self, record: Normalized) -> None:
        """Refuse what a guardian signs where nothing that is signed so counts; a withdrawal is never refused."""
        is_allowed = self._rules.guardians is not Reach.REFUSED and self._notary.may_attest
        if record.row.author == GUARDIAN and not is_allowed and parse(record.content).get("status") == "active":
            raise NotPermitted("network policy does not let guardians sign on an institution's word")

    async def end_guardian(self, chart: ChartRef, guardian: str) -> None:
        """Let no permit that a guardian signed count from now on; denials stay, so that an end never widens anything.

        Raises:
            Unavailable: Not all ended; safe to retry.
        """
        async with self._writing:
            now = self._clock.now().replace(microsecond=0)
            for entry in self._list(chart, _INSTITUTION).entries:
                word = attestation_of(entry.body)
                if word is None or word.guardian != guardian or word.has_ended(microseconds(now)):
                    continue
                asked = Interaction("PUT", "Consent", entry.id)
                received = Received(chart.institution, _R4, entry.body, self._clock.now(), interaction=asked)
                by = guardian_of(guardian, instant(now), chart, self._registry)
                record = restated_record(received, entry.id, entry.body, entry.status, chart, self._registry, by)
                await self._take(received, record)

    async def _end_former_guardians(self) -> None:
        """End what a crash left standing of guardians who act no more."""
        for chart_id, who in list(self._held):
            chart = self._registry.chart(chart_id)
            if who != _INSTITUTION or chart is None or not self._vouched(chart).is_sound:
                continue
            words = [attestation_of(entry.body) for entry in self._list(chart, _INSTITUTION).entries]
            for guardian in {word.guardian for word in words if word is not None and word.guardian is not None}:
                client = self._clients.guardian(guardian)
                if client is None or not client.is_active:
                    await self.end_guardian(chart, guardian)

    async def restrict(self, chart: ChartRef, consent_id: str, version: str) -> None:
        """Enter a Consent that an institution sent, as stored, into that institution's own list of the chart.

        Returns when the ledger has it. What cannot be entered leaves the chart closed to all but the patient,
        and is tried again at the next start.
        """
        self._unsettled[chart.chart] = self._unsettled.get(chart.chart, 0) + 1
        while True:
            try:
                async with self._changing:
                    await self._restrict(chart, consent_id, version)
                break
            except Unavailable as error:
                _log.error("restriction not entered yet", code=error.code)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                _log.error("restriction not entered", code=getattr(error, "code", type(error).__name__))
                return
        self._unsettled[chart.chart] -= 1

    async def _restrict(self, chart: ChartRef, consent_id: str, version: str) -> None:
        body = await stored_body(chart, consent_id, version, self._registry, self._vault)
        listed = self._list(chart, _INSTITUTION)
        before = listed.find(consent_id)
        done = [Document(RESTRICTIONS, f"{chart.chart}/{consent_id}", None)]
        if body:
            listed = listed.with_entry(self._entry(consent_id, version, body, (chart.chart,)))
        elif before is not None:
            # Deleted by its author: it stays in the list, so that the history of the list can be told.
            listed = listed.with_entry(replace(before, version=version, status="inactive"))
        else:
            await self._vault.commit(Work(documents=done), None)
            return
        await self._publish_restriction(chart, listed, done)

    async def _install(self, home: ChartRef, outcome: Outcome, body: bytes) -> None:
        """Sign the consent into the list of every chart it covers, store all, then submit all to one block."""
        before = self._list(home, _OWNER).find(outcome.id)
        linked = list(self._registry.linked(home))
        covered = tuple(chart.chart for chart in linked)
        formerly = before.charts if before is not None else ()
        charts = linked + [c for c in map(self._registry.chart, formerly) if c is not None and c.chart not in covered]
        changes = []
        for chart in charts:
            entry = self._entry(outcome.id, outcome.version, body, covered)
            listed = self._list(chart, _OWNER).with_entry(entry)
            owner = Identity.from_private_bytes(self._key(KeyKind.PATH_OWNER, chart))
            counter = self._counter(chart, _OWNER) + 1
            envelope = self._notary.sign_consent(self._path(chart), counter, listed.list_hash(), owner)
            changes.append((chart, _OWNER, _Stored(counter, listed.encode(), envelope)))
        await self._store(changes)
        await self._notary.submit_together([stored.envelope for _, _, stored in changes])

    async def _publish_restriction(self, chart: ChartRef, listed: ConsentList, also: Sequence[Document]) -> None:
        """Put the institution's list into force: on the ledger if the path is open, else by keeping it."""
        if self._state(chart) is None:
            await self._store([(chart, _KEPT, _Stored(0, listed.encode(), b""))], also)
            return
        counter = self._counter(chart, _INSTITUTION) + 1
        sign = self._notary.sign_attestation if self._is_to_attest(listed) else self._notary.sign_restriction
        envelope = sign(self._path(chart), counter, listed.list_hash(), chart.institution)
        await self._store([(chart, _INSTITUTION, _Stored(counter, listed.encode(), envelope))], also)
        await self._notary.submit(envelope)
        if self._held.pop((chart.chart, _KEPT), None):
            await self._vault.commit(Work(documents=[Document(_LISTS, f"{chart.chart}/{_KEPT}/0", None)]), None)

    def _is_to_attest(self, listed: ConsentList) -> bool:
        """Tell whether a list holds what rests on the institution's word, and the ledger takes its word."""
        words = (attestation_of(entry.body) for entry in listed.entries if entry.status == "active")
        return self._notary.may_attest and any(word is not None for word in words)

    async def _store(self, changes: Iterable[tuple[ChartRef, str, _Stored]], also: Sequence[Document] = ()) -> None:
        """Store new lists beside the ones in force: until the ledger takes the change, the old one counts."""
        documents = list(also)
        for chart, who, stored in changes:
            key = f"{chart.chart}/{who}/{stored.counter % 2}"
            sealed = seal_blob(
                self._registry.chart_key(chart), _LISTS, key, msgspec.msgpack.encode(stored), self._randomness
            )
            past = self.past.document(chart, _decoded(stored.content)[1], stored.content)
            documents += [Document(_LISTS, key, sealed), past]
        await self._vault.commit(Work(documents=documents), None)
        for chart, who, stored in changes:
            held = self._held.setdefault((chart.chart, who), [])
            held[:] = [old for old in held if old.counter % 2 != stored.counter % 2] + [stored]

    # --- what decisions rest on

    def lists_of(self, charts: Sequence[ChartRef]) -> list[ConsentLists]:
        """Return the lists of charts as one block of the ledger holds them: the ledger goes on in another thread."""
        while True:
            height = self._notary.height
            found = [self.lists(chart) for chart in charts]
            if self._notary.height == height:
                return found

    def lists(self, chart: ChartRef) -> ConsentLists:
        """Return the chart's lists whose hashes the ledger holds now."""
        if self._unsettled.get(chart.chart):
            return ConsentLists(None, None, self._notary.height, is_sound=False)
        return self._vouched(chart)

    def _vouched(self, chart: ChartRef) -> ConsentLists:
        state = self._state(chart)
        kept = self._newest(chart, _KEPT)
        narrowing, kept_hash = (None, None) if kept is None else _decoded(kept.content)
        if state is None:
            hashes = ListHashes(kept=kept_hash)
            return ConsentLists(None, narrowing or ConsentList(), self._notary.height, hashes=hashes)
        current, height = state
        owner = self._in_force(chart, _OWNER, current.owner_counter, current.owner_list)
        own = self._in_force(chart, _INSTITUTION, current.institution_counter, current.institution_list)
        if owner is None or own is None:
            _log.error("consent list disagrees with the ledger")
            return ConsentLists(None, None, height, is_sound=False)
        is_attested = 0 < current.attested == current.institution_counter
        hashes = ListHashes(
            current.owner_list if current.owner_counter else None,
            current.institution_list if current.institution_counter else None,
            kept_hash,
            self._path(chart),
        )
        return ConsentLists(owner, narrowed(own, narrowing), height, is_attested=is_attested, hashes=hashes)

    @property
    def height(self) -> int:
        """Height of the ledger now."""
        return self._notary.height

    def _in_force(self, chart: ChartRef, who: str, counter: int, list_hash: bytes) -> ConsentList | None:
        if counter == 0:
            return ConsentList()
        for stored in self._held.get((chart.chart, who), ()):
            if stored.counter == counter:
                listed, found = _decoded(stored.content)
                return listed if found == list_hash else None
        return None

    def _list(self, chart: ChartRef, who: str) -> ConsentList:
        lists = self._vouched(chart)
        if not lists.is_sound:
            raise IntegrityBroken("the stored consent list is not the one on the ledger: run fsck")
        found = lists.owner if who == _OWNER else lists.institution
        return found or ConsentList()

    def _state(self, chart: ChartRef) -> tuple[ConsentState, int] | None:
        secret = self._keys.find(KeyName(KeyKind.CONSENT_SECRET, chart.institution, chart.chart))
        if secret is None:
            return None
        state, height = self._notary.consent_state(self._notary.consent_path(secret))
        return None if state is None else (state, height)

    def _counter(self, chart: ChartRef, who: str) -> int:
        found = self._state(chart)
        if found is None:
            kept = self._newest(chart, who)
            return 0 if kept is None else kept.counter
        state, _ = found
        return state.owner_counter if who == _OWNER else state.institution_counter

    def _newest(self, chart: ChartRef, who: str) -> _Stored | None:
        return max(self._held.get((chart.chart, who), ()), key=lambda stored: stored.counter, default=None)

    def _path(self, chart: ChartRef) -> bytes:
        return self._notary.consent_path(self._key(KeyKind.CONSENT_SECRET, chart))

    def _key(self, kind: KeyKind, chart: ChartRef) -> bytes:
        name = KeyName(kind, chart.institution, chart.chart)
        return self._keys.ensure([name])[name]

    def _entry(self, consent_id: str, version: str, body: bytes, charts: Sequence[str]) -> ConsentEntry:
        content = parse(body)
        policy = compile_consent(content)
        return ConsentEntry(
            id=consent_id,
            version=version,
            status=str(content.get("status", "")),
            valid=policy.valid,
            salt=self._randomness.token(32),
            body=body,
            signed_at_us=microseconds(self._clock.now()),
            charts=tuple(charts),
        )

    def _check_patient(self, reference: str | None, charts: Sequence[ChartRef]) -> None:
        if reference not in {f"Patient/{chart.patient_id}" for chart in charts}:
            problem = "patient must refer to the Patient whose agent asks"
            raise RecordRefused([Issue("error", "invalid", problem, "Consent.patient")])
