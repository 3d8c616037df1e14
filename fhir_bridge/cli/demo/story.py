"""Tell the story from the first institution to the last line of the access log.

Every scene does what a person would do at the command line or over HTTP, and
checks what it then says: a claim that does not hold ends the story with exit
code 1.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fhir_bridge.cli.demo import evidence, streaming
from fhir_bridge.cli.demo.cast import HEROINE, TWINS, Cast, gather
from fhir_bridge.cli.demo.papers import TOPICS, audit_row, consent
from fhir_bridge.cli.demo.pictures import Pictures
from fhir_bridge.cli.demo.stage import Stage, new_directory
from fhir_bridge.cli.demo.timeline import Entry, by_source, entries, glucose, liveliest
from fhir_bridge.cli.failing import Failure

_TIMELINE_ROWS = 10
_GLUCOSE_ROWS = 8
_LOG = "service.log"


@dataclass(slots=True)
class Memory:
    """What earlier scenes found out for later ones."""

    institutions: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    label: str = ""
    own: list[Entry] = field(default_factory=list)
    granted: list[Entry] = field(default_factory=list)
    consent: dict[str, Any] = field(default_factory=dict)


class Story:
    """The scenes, in order."""

    def __init__(self, stage: Stage, cast: Cast, pictures: Pictures, work: Path) -> None:
        self._stage = stage
        self._cast = cast
        self._pictures = pictures
        self._work = work
        self._memory = Memory()
        self._heroine = cast.chart(HEROINE, "northgate")

    def tell(self) -> None:
        """Play every scene."""
        self._join()
        self._stream()
        self._first_question()
        self._grant()
        self._second_question()
        evidence.check_receipts(self._stage, self._pictures, self._memory.granted, self._work)
        evidence.tamper(self._stage, self._pictures)
        self._revoke()
        self._access_log()

    def last_words(self) -> list[str]:
        """Return what stays usable after the story: addresses, a token and commands."""
        url, patient = self._stage.url, self._memory.patient
        data = self._stage.data
        mrn = self._heroine.mrn
        search = f"{url}/fhir/Patient?identifier=https://northgate.example.org/mrn%7C{mrn}"
        return [
            f"FHIR API          {url}/fhir/metadata",
            f"SMART discovery   {url}/.well-known/smart-configuration",
            f"ledger checkpoint {url}/ledger/checkpoint",
            f"data directory    {data}",
            "",
            "A token of Dr. A (good for five minutes), and what she may ask:",
            f"TOKEN={self._doctor()}",
            f"curl -s -H \"Authorization: Bearer $TOKEN\" '{search}'",
            f"curl -s -H \"Authorization: Bearer $TOKEN\" '{url}/fhir/Patient/{patient}/$everything'",
            f"curl -s -H \"Authorization: Bearer $TOKEN\" '{url}/fhir/Observation?patient={patient}&_count=5'",
            "",
            f"A new token: fhir-bridge token --institution northgate --practitioner {self._cast.practitioner}"
            f" --purpose TREAT --data {data}",
        ]

    # --- scenes

    def _join(self) -> None:
        self._pictures.scene(
            "Three hospitals join the ledger",
            "Each gets an Ed25519 identity that the ledger's own rules check, its rule pack is registered by hash,"
            " and its system gets credentials. northgate sends R4, harbor R4 in house codes and units, cedar STU3.",
        )
        rows = []
        for hospital in self._cast.hospitals:
            arguments = (hospital.name, "--fhir-version", hospital.fhir_version, "--ruleset", str(hospital.ruleset))
            self._pictures.command("institution add", *arguments[:3], "--ruleset", f"mappings/{hospital.name}")
            made = json.loads(self._stage.command("institution", "add", *arguments, "--json"))
            self._memory.institutions[hospital.name] = made["id"]
            rows.append(
                (made["name"], made["fhir_version"], f"Organization/{made['id']}", made["ruleset"][:16] + "…")
            )
        self._pictures.table(("institution", "sends", "known as", "ruleset (BLAKE3)"), rows)

    def _stream(self) -> None:
        self._pictures.scene(
            "Their bundles stream in",
            "Received on the durable bus, normalised by the hospital's rules, sealed under each chart's own key,"
            " anchored on the ledger. The ledger gets salted commitments only; the vault gets ciphertext only.",
        )
        streaming.stream(self._stage, self._pictures, self._cast)
        self._pictures.command("person link", "identity.csv")
        told = self._stage.command("person", "link", str(self._cast.feed)).strip()
        self._pictures.say(f"Who is who comes from the hospitals' cross-reference feed: {told}.")
        names = " and ".join(self._cast.chart(twin, "northgate").name for twin in TWINS)
        self._pictures.say(f"{names} share birth date and address; they stay two people.")

    def _first_question(self) -> None:
        self._pictures.scene(
            "Dr. A asks for a timeline",
            "She works at northgate, finds her patient by record number and asks for everything. Nobody has permitted"
            " anything yet: she sees what northgate itself wrote, and no sign that there is more.",
        )
        token = self._doctor()
        identifier = f"https://northgate.example.org/mrn|{self._heroine.mrn}"
        answer = self._stage.ask("GET", "/fhir/Patient", token, params={"identifier": identifier}).json()
        patients = [entry for entry in entries(answer) if entry.type == "Patient"]
        _must(len(patients) == 1, "the record number finds one patient")
        self._memory.patient = str(patients[0].resource["id"])
        self._pictures.say(f"GET /fhir/Patient?identifier={identifier} → Patient/{self._memory.patient[:12]}…")
        found = self._everything(token)
        self._show_counts(found)
        _must(set(by_source(found)) == {"northgate"}, "the answer holds northgate's records only")
        self._pictures.proved("northgate's records only")

    def _grant(self) -> None:
        self._pictures.scene(
            "The patient decides",
            "Her agent holds the key that can open her charts; the ledger's rules refuse everybody else's. She lets"
            " northgate see harbor and cedar, except for one sensitive category.",
        )
        self._pictures.command("patient enrol --institution northgate --patient", self._heroine.patient)
        arguments = ("--institution", "northgate", "--patient", self._heroine.patient)
        enrolled = json.loads(self._stage.command("patient", "enrol", *arguments, "--json"))
        _must(enrolled["patient"] == self._memory.patient, "the agent is enrolled for the patient that Dr. A found")
        self._memory.own = self._everything(self._agent())
        labelled = Counter(label for entry in self._elsewhere() for label in entry.labels)
        _must(bool(labelled), "harbor or cedar hold records with a sensitivity label")
        self._memory.label = next(
            (code for code in TOPICS if code in labelled), max(labelled, key=lambda c: labelled[c])
        )
        self._pictures.say(f"She sees all of her own: {len(self._memory.own)} records from three hospitals.")
        body = consent(self._memory.patient, self._memory.institutions["northgate"], self._memory.label)
        answer = self._stage.ask("POST", "/fhir/Consent", self._agent(), json=body)
        self._memory.consent = body | {"id": _id_of(answer.headers.get("Location", ""), answer.content)}
        topic = TOPICS.get(self._memory.label, self._memory.label)
        self._pictures.proved(
            f"permit northgate, deny label {self._memory.label} ({topic}): anchored, in force from now on"
        )

    def _second_question(self) -> None:
        self._pictures.scene(
            "The same question again",
            "The same request now gives one timeline of three hospitals: one FHIR version, standard codes and units,"
            " each record with its source. What she kept back leaves no trace: no gap, no count, no error.",
        )
        found = self._everything(self._doctor())
        self._memory.granted = found
        self._show_counts(found)
        hidden = [entry for entry in self._elsewhere() if self._memory.label in entry.labels]
        seen = {entry.place for entry in found}
        _must(hidden != [], "she keeps something back")
        _must(not seen & {entry.place for entry in hidden}, "what the patient kept back is not shown")
        _must(set(by_source(found)) >= {"northgate", "harbor", "cedar"}, "all three hospitals are shown")
        self._pictures.records(liveliest(found, _TIMELINE_ROWS))
        withheld = [entry for entry in self._memory.own if entry.place not in seen]
        texts = [entry for entry in withheld if self._memory.label not in entry.labels]
        self._pictures.proved(f"{len(found)} of {len(self._memory.own)} records, from three hospitals, in time order")
        self._pictures.proved(
            f"unseen: {len(withheld) - len(texts)} with label {self._memory.label}, and {len(texts)} documents and"
            f" reports whose text could name it ({', '.join(sorted({entry.type for entry in texts}))})"
        )
        self._show_glucose(found)

    def _revoke(self) -> None:
        self._pictures.scene(
            "The patient changes her mind",
            "A withdrawal is never refused and takes effect with the block that carries it: no cache outlives it.",
        )
        consent = self._memory.consent | {"status": "inactive"}
        self._stage.ask("PUT", f"/fhir/Consent/{consent['id']}", self._agent(), json=consent)
        token = self._doctor()
        began = time.monotonic()
        found = self._everything(token)
        elapsed_ms = (time.monotonic() - began) * 1_000
        self._show_counts(found)
        _must(set(by_source(found)) == {"northgate"}, "after the withdrawal the answer is northgate's alone")
        self._pictures.proved(f"the very next answer ({elapsed_ms:.0f} ms) is northgate's alone")

    def _access_log(self) -> None:
        self._pictures.scene(
            "Who saw what",
            "Every answer was recorded before its first byte left; the entries are chained and the chain's head is on"
            " the ledger, so that dropping or back-dating one shows. The patient reads her log.",
        )
        params = {"patient": self._memory.patient, "_count": "100"}
        answer = self._stage.ask("GET", "/fhir/AuditEvent", self._agent(), params=params).json()
        events = sorted((e.resource for e in entries(answer)), key=lambda event: str(event["recorded"]))
        people = {f"Organization/{id}": name for name, id in self._memory.institutions.items()}
        people |= {
            f"Practitioner/{self._cast.practitioner}": "Dr. A",
            f"Patient/{self._memory.patient}": "the patient",
        }
        charts = {entry.place: entry.source for entry in self._memory.own if entry.type == "Patient"}
        rows = {str(event["id"]): audit_row(event, people, charts) for event in events}
        self._pictures.table(("when", "who", "asked", "chart", "records", "why"), list(rows.values()))
        timelines = [
            event for event in events if rows[event["id"]][1] == "Dr. A" and "$everything" in rows[event["id"]][2]
        ]
        _must(len({event["recorded"] for event in timelines}) == 3, "the log holds the three timelines Dr. A got")
        shown = sorted({rows[event["id"]][3] for event in timelines})
        self._pictures.proved(f"Dr. A's three timelines are there, with what each showed of {', '.join(shown)}")

    # --- what several scenes do

    def _doctor(self) -> str:
        stated = ("--practitioner", self._cast.practitioner, "--purpose", "TREAT")
        return self._stage.command("token", "--institution", "northgate", *stated).strip()

    def _agent(self) -> str:
        return self._stage.command("token", "--patient", self._memory.patient).strip()

    def _everything(self, token: str) -> list[Entry]:
        answer = self._stage.ask("GET", f"/fhir/Patient/{self._memory.patient}/$everything", token)
        return entries(answer.json())

    def _elsewhere(self) -> list[Entry]:
        return [entry for entry in self._memory.own if entry.source in ("harbor", "cedar")]

    def _show_counts(self, found: list[Entry]) -> None:
        counts = by_source(found)
        rows = [(name, str(counts[name])) for name in self._memory.institutions if counts[name]]
        self._pictures.table(("source", "records"), rows)

    def _show_glucose(self, found: list[Entry]) -> None:
        values = glucose(found)
        sources = {entry.source for entry in values}
        units = {entry.resource.get("valueQuantity", {}).get("code") for entry in values}
        _must({"northgate", "harbor"} <= sources, "glucose comes from northgate and from harbor")
        _must(units == {"mg/dL"}, "every glucose value is in mg/dL")
        harbor = [entry for entry in values if entry.source == "harbor"][: _GLUCOSE_ROWS // 2]
        others = [entry for entry in values if entry.source != "harbor"][: _GLUCOSE_ROWS // 2]
        self._pictures.records(sorted(harbor + others, key=lambda entry: entry.date))
        self._pictures.proved("harbor sent mmol/l under a house code; both now read in mg/dL under one LOINC code")


def tell(*, once: bool, data: Path | None, port: int) -> int:
    """Tell the story and, unless ``once``, serve on until Ctrl-C; return the exit code."""
    with _workplace() as work:
        stage = Stage(new_directory(data or work / "data"), port, work / _LOG)
        pictures = Pictures()
        pictures.say("fhir-bridge: hospitals push FHIR, patients decide, clinicians read, anyone can check.")
        story = Story(stage, gather(work), pictures, work)
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.default_int_handler)
        began = time.monotonic()
        try:
            stage.start()
            story.tell()
            pictures.end(f"told in {time.monotonic() - began:.0f} s", story.last_words())
            if not once:
                pictures.say("Serving until Ctrl-C.")
                stage.wait()
        except KeyboardInterrupt:
            pictures.say("Stopping.")
        finally:
            stage.stop()
    return 0


@contextmanager
def _workplace() -> Iterator[Path]:
    """Give a temporary folder; it stays only when the story failed and its log may tell why."""
    work = Path(tempfile.mkdtemp(prefix="fhir-bridge-demo-"))
    stays = False
    try:
        yield work
    except Failure:
        stays = (work / _LOG).exists()
        raise
    finally:
        if not stays:
            shutil.rmtree(work, ignore_errors=True)


def _must(holds: bool, claim: str) -> None:
    if not holds:
        raise Failure(f"the story does not hold: expected that {claim}")


def _id_of(location: str, body: bytes) -> str:
    """Return the id of a created resource, from the Location header or the body."""
    parts = location.split("/")
    if "Consent" in parts:
        return parts[parts.index("Consent") + 1]
    return str(json.loads(body)["id"])
