"""What an operator does: admit institutions and patients' agents, feed files, look at dead letters, check, back up.

The command line reaches these through the control socket, and through the same
application in its own process when no server runs.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.bus_reader import BusReader
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.indexes import Indexes
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.jobs import Again
from fhir_bridge.lines.letters import Letter, open_letter, settled
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.registry import OPERATOR, Institution, Link, Registry
from fhir_bridge.lines.rules import Rules, doubts_about
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.model.clients import Client
from fhir_bridge.model.ids import canonical_id, is_canonical, network_id
from fhir_bridge.model.ingest import Anchored, ChartRef, FhirVersion, Outcome, Processed, Received, instant
from fhir_bridge.normalize import Ruleset, ruleset_under
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.rooms import Rooms
from fhir_bridge.ports.vault import LettersWanted, SealedLetter, Vault, Work

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_TOLD = 20
MakeClient = Callable[..., tuple[Client, dict[str, Any]]]
SaveCredentials = Callable[[str, dict[str, Any]], Path]


class Operations:
    """The operator's side of the service."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        clients: Clients,
        ingest: IngestLine,
        grant: GrantLine,
        reader: BusReader,
        indexes: Indexes,
        rooms: Rooms,
        notary: Notary,
        rules: Rules,
        clock: Clock,
        make_institution: MakeClient,
        make_patient: MakeClient,
        take_over: Callable[[Sequence[ChartRef]], Awaitable[None]],
        save_credentials: SaveCredentials,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._clients = clients
        self._ingest = ingest
        self._grant = grant
        self._reader = reader
        self._indexes = indexes
        self._rooms = rooms
        self._notary = notary
        self._rules = rules
        self._clock = clock
        self._make_institution = make_institution
        self._make_patient = make_patient
        self._take_over = take_over
        self._save_credentials = save_credentials

    # --- institutions and patients

    async def add_institution(
        self, name: str, fhir_version: str | None, ruleset_dir: str, author: str = "", approver: str = ""
    ) -> dict[str, Any]:
        """Admit an institution: ledger identity, rules, credentials, a stream on the bus.

        Adding it again changes version and rules and keeps its id and credentials. ``doubts`` of the answer says what
        speaks against the pack being meant for it, ``not_judged`` what its profiles demand and nobody judges here.

        Args:
            fhir_version: Release that it sends; None for the one that its pack is written for.
            author: Who answers for the rules; the institution itself, if nobody is named.

        Raises:
            SetupWrong: A name or version that cannot be, or four eyes are wanted and they are not two people's.
            RulesetBroken: The pack does not load, or one of its examples comes out otherwise.
        """
        if not _NAME.fullmatch(name) or name in ("operator", "anchor", "audit", "log", "issuer"):
            raise SetupWrong(
                "an institution's name is 1 to 40 of a-z, 0-9 and '-', begins with a letter, is not reserved"
            )
        if fhir_version is not None and fhir_version not in list(FhirVersion):
            raise SetupWrong(f"fhir version must be one of {', '.join(FhirVersion)}")
        directory = await asyncio.to_thread(Path(ruleset_dir).resolve)
        admission = await self._rules.take(name, directory, author, approver)
        ruleset = admission.taken.ruleset
        await self._notary.admit(name)
        is_new = name not in self._registry.institutions
        identity = self._notary.identity(name)
        release = ruleset.fhir_version if fhir_version is None else FhirVersion(fhir_version)
        institution = Institution(name, network_id(identity.public), release, str(directory), ruleset.hash)
        if is_new:
            # Before the institution is known: after a crash in between, adding it again makes credentials again.
            client, credentials = self._make_institution(name, institution.id)
            await self._clients.add(client)
            self._save_credentials(name, credentials)
        institution = await self._rules.admit(institution, admission)
        await self._reader.subscribe(name)
        doubts = doubts_about(name, release, ruleset)
        return {**self._describe(institution), "doubts": doubts, "not_judged": _not_judged(ruleset)}

    def institutions(self) -> list[dict[str, Any]]:
        """Return what is public about every institution."""
        return [self._describe(i) for _, i in sorted(self._registry.institutions.items())]

    async def enrol(self, institution: str, patient: str) -> dict[str, Any]:
        """Give a patient an agent: credentials, and an owner key for the consent path of every linked chart.

        Doing it again gives new credentials and ends the old ones at once. The patient takes over from whomever
        institutions attested as guardians.
        """
        chart = self._registry.chart_for(institution, patient)
        if self._registry.chart_of_patient(str(chart.patient_id)) is None:
            raise SetupWrong(
                "nothing is known of this patient at that institution yet: send its records or a link first"
            )
        opened = await self._grant.enrol(chart)
        client, credentials = self._make_patient(str(chart.patient_id))
        await self._clients.add(client)
        await self._take_over(self._registry.linked(chart))
        await self._clients.retire_agents(str(chart.patient_id), keeping=client.client_id)
        saved = self._save_credentials(f"patients/{chart.patient_id}", credentials | {"institution": institution})
        return {"patient": chart.patient_id, "credentials": str(saved), "charts": opened}

    def resolve_patient(self, patient: str, institution: str | None) -> dict[str, Any]:
        """Return the canonical id of a patient given by canonical or local id."""
        found = set()
        for name in [institution] if institution else list(self._registry.institutions):
            key = self._registry.id_key(name)
            candidate = patient if is_canonical(key, patient) else canonical_id(key, "Patient", patient)
            if self._registry.chart_of_patient(candidate) is not None:
                found.add(candidate)
        if len(found) != 1:
            problem = "is known at several institutions: add --institution" if found else "is not known here"
            raise SetupWrong(f"this patient id {problem}")
        return {"patient": found.pop()}

    async def link(self, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
        """Apply a cross-reference feed."""
        try:
            links = [Link(row["person"], row["institution"], row["patient"]) for row in rows]
        except KeyError as missing:
            raise SetupWrong(f"a link needs person, institution and patient; {missing} is missing") from None
        changed = await self._registry.link(links)
        await self._grant.follow_links()
        return {"changed": changed}

    # --- keys

    async def rotate(self, institution: str | None) -> list[dict[str, Any]]:
        """Wrap every key anew, of one institution or of all and the operator; tell the epochs.

        Raises:
            SetupWrong: There is no such institution.
        """
        known = [*sorted(self._registry.institutions), OPERATOR]
        if institution is not None and institution not in known:
            raise SetupWrong("there is no such institution: see 'fhir-bridge institution list'")
        rotated = []
        for name in known if institution is None else [institution]:
            old, new = await asyncio.to_thread(self._keys.rotate, name)
            rotated.append({"institution": name, "old_epoch": old, "new_epoch": new})
        return rotated

    # --- messages

    async def feed(self, institution: str, body: bytes, content_type: str, signature: str = "") -> dict[str, Any]:
        """Put a message on the institution's bus and tell what became of it, once it is anchored."""
        self._registry.institution(institution)
        return _summary(await self._reader.feed(institution, body, content_type, signature))

    async def preview(self, institution: str, body: bytes, content_type: str = "") -> Processed:
        """Walk a message through the pure rooms and store nothing."""
        known = self._registry.institution(institution)
        kind = content_type or "application/fhir+json"
        received = Received(institution, known.fhir_version, body, self._clock.now(), kind)
        return await self._rooms.process(received, self._registry.source(institution))

    async def letters(self, wanted: LettersWanted) -> list[dict[str, Any]]:
        """List dead letters.

        Raises:
            SetupWrong: The institution that they are wanted of is not known.
        """
        found = await self._chosen(wanted)
        return [_describe_letter(sealed, open_letter(self._keys, sealed)) for sealed in found]

    async def letter(self, letter_id: str) -> dict[str, Any]:
        """Show one dead letter with its message, for the operator who mends it."""
        sealed = await self._find_letter(letter_id)
        letter = open_letter(self._keys, sealed)
        try:
            message = letter.received.content.decode()
        except UnicodeDecodeError:
            message = "base64:" + base64.b64encode(letter.received.body).decode()
        return _describe_letter(sealed, letter) | {
            "findings": [{"index": f.index, "issues": [asdict(i) for i in f.issues]} for f in letter.findings],
            "message": message,
        }

    async def replay(self, ids: Sequence[str], wanted: LettersWanted) -> dict[str, Any]:
        """Send open letters through the line again, only those entries that were not taken; mark those now taken.

        A letter keeps what was first found. ``why`` of the answer is what keeps the first letters from being taken
        now, which may be something else.

        Raises:
            SetupWrong: There is no such letter, or no such institution.
        """
        if ids:
            chosen = [await self._find_letter(letter_id) for letter_id in dict.fromkeys(ids)]
        else:
            chosen = list(await self._chosen(wanted))
        replayed = refused = 0
        why: list[dict[str, Any]] = []
        for sealed in (one for one in chosen if one.status == "open"):
            letter = open_letter(self._keys, sealed)
            anchored = await self._ingest.push(self._again(letter), Again(_entries(letter)))
            if _is_whole(anchored):
                await self._vault.commit(Work(letters=[settled(sealed)]), None)
                replayed += 1
            else:
                refused += 1
                if len(why) < _TOLD:
                    why += [{"letter": sealed.id, **each} for each in _why(anchored)]
        return {"replayed": replayed, "still_refused": refused, "why": why[:_TOLD]}

    # --- the bus

    def halted(self) -> list[dict[str, Any]]:
        """Return every partition that is not read on, and the offset whose message is gone."""
        return [{"stream": p.stream, "partition": p.partition, "offset": p.offset} for p in self._reader.halted()]

    async def go_on(self, stream: str, partition: int) -> dict[str, Any]:
        """Give up what a halted partition has lost and read on with the oldest message that is still there.

        Raises:
            SetupWrong: That partition is not halted.
        """
        for halted in self._reader.halted():
            if (halted.stream, halted.partition) == (stream, partition):
                oldest = await self._reader.go_on(halted)
                return {"stream": stream, "partition": partition, "stood": halted.offset, "offset": oldest.offset}
        raise SetupWrong("this partition is not halted: see 'fhir-bridge bus halted'")

    # --- looking

    async def status(self) -> dict[str, Any]:
        """Return counters and heights."""
        return {
            "counters": dict(self._ingest.counters),
            "height": self._notary.height,
            "vault": await self._vault.counts(),
            "index": self._indexes.state,
        }

    async def reindex(self) -> AsyncIterator[dict[str, Any]]:
        """Make anew what other definitions made; tell after each chart how far it is, then how much there was."""
        told: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        work = asyncio.create_task(self._indexes.renew_all(told))
        try:
            while not (work.done() and told.empty()):
                following = asyncio.create_task(told.get())
                await asyncio.wait([work, following], return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    done, every = following.result()
                    yield {"progress": {"charts": done, "of": every}}
                else:
                    following.cancel()
            yield {"done": {"segments": work.result()}}
        finally:
            work.cancel()

    def _describe(self, institution: Institution) -> dict[str, Any]:
        return {
            "id": institution.id,
            "name": institution.name,
            "fhir_version": institution.fhir_version.value,
            "ruleset": institution.ruleset,
            "ruleset_with_value_sets": ruleset_under(institution.ruleset, bytes.fromhex(self._registry.sets[0])),
            "ruleset_dir": institution.ruleset_dir,
            "topic": f"fhir.{institution.name}.in",
            "credentials": f"credentials/{institution.name}.json",
        }

    def _again(self, letter: Letter) -> Received:
        """Return the letter's message without its place on the bus, which has been committed long ago.

        What its sender had agreed to then holds if it still does.
        """
        first, known = letter.received, self._registry.institution(letter.received.institution)
        return replace(
            first,
            position=None,
            same_as=(),
            patients=(),
            must_be_signed=first.must_be_signed and bool(known.signing_keys),
            must_be_encrypted=first.must_be_encrypted and known.must_encrypt,
        )

    async def _chosen(self, wanted: LettersWanted) -> Sequence[SealedLetter]:
        if wanted.institution is not None:
            self._registry.institution(wanted.institution)
        return await self._vault.letters(wanted)

    async def _find_letter(self, letter_id: str) -> SealedLetter:
        sealed = await self._vault.letter(letter_id)
        if sealed is None:
            raise SetupWrong("there is no such dead letter: see 'fhir-bridge dead-letters list'")
        return sealed


def chart_count(charts: Sequence[ChartRef]) -> int:
    """Return how many charts of patients are among ``charts``."""
    return sum(not chart.is_directory for chart in charts)


def _not_judged(ruleset: Ruleset) -> list[str]:
    """Say what an institution's profiles demand of its records and nobody judges."""
    return [] if ruleset.profiles is None else list(ruleset.profiles.notes)


def _summary(anchored: Anchored) -> dict[str, Any]:
    outcomes: dict[str, int] = {}
    for outcome in anchored.outcomes:
        status = _status_class(outcome)
        outcomes[status] = outcomes.get(status, 0) + 1
    issues = [asdict(i) for i in anchored.refused]
    issues += [asdict(i) for o in anchored.outcomes if _status_class(o) == "4xx" for i in o.issues]
    return {
        "outcomes": outcomes,
        "refused": issues,
        "dead_letters": list(anchored.dead_letters),
        "height": anchored.height,
    }


def _status_class(outcome: Outcome) -> str:
    return "4xx" if outcome.status.startswith("4") else outcome.status[:3]


def _describe_letter(sealed: SealedLetter, letter: Letter) -> dict[str, Any]:
    return {
        "id": sealed.id,
        "institution": sealed.institution,
        "reason": sealed.reason,
        "received_at": instant(instant_of(sealed.received_at_us)),
        "status": sealed.status,
        "entries": len(letter.findings),
    }


def _entries(letter: Letter) -> frozenset[int] | None:
    """Return the numbers of the entries a letter is about; None for the whole message."""
    numbers = [finding.index for finding in letter.findings]
    return None if None in numbers else frozenset(n for n in numbers if n is not None)


def _is_whole(anchored: Anchored) -> bool:
    return not anchored.refused and not any(_is_open(outcome) for outcome in anchored.outcomes)


def _is_open(outcome: Outcome) -> bool:
    """Tell whether an entry was refused or quarantined."""
    return _status_class(outcome) in ("4xx", "202")


def _why(anchored: Anchored) -> Iterator[dict[str, Any]]:
    """Yield the first finding of the message, or of each entry that was not taken."""
    found = [(None, anchored.refused), *((o.index, o.issues) for o in anchored.outcomes if _is_open(o))]
    for index, issues in found:
        if issues:
            yield {"index": index, "issue": asdict(issues[0])}
