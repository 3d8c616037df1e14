"""Our service and HAPI with the same records in them, and one requester who may see all of these.

The records are some of northgate's people and, as one more person, HL7's R4 examples that speak of a patient.
They come through our own line, so HAPI is given what our service shows of them: the same ids and the same content.
What is compared is searching and nothing else.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fhir_bridge.model.ids import DIRECTORY_TYPES
from tests.support.hapi import Hapi, hapi
from tests.support.hospitals import ROOT, directory, lanes
from tests.support.service import Feeder, Service, patient_at, running

Json = dict[str, Any]

HOSPITAL = "northgate"
PEOPLE = ("P0022", "P0009")
"""564 and 117 entries of 20 types."""

EXAMPLES = "hl7-examples"
_EXAMPLES_FILE = ROOT / "tests" / "data" / "hl7-examples" / "r4.ndjson.gz"
_PATIENT = re.compile(r'"Patient/[A-Za-z0-9.-]+"')
_NOT_TAKEN = frozenset({"Patient", "Bundle", "Consent", "AuditEvent", "Provenance", "OperationOutcome", "Binary"})
"""Types that are no records of a patient here, or that our service makes or keeps by rules of its own."""
_FAULTY = frozenset({"MedicationRequest/medrx0301", "Observation/clinical-gender"})
"""Examples that point to a type to which their element may not point; HAPI refuses them."""
_NO_TYPE = re.compile(r'"reference":\s*"[^"#]*\b[a-z]+/[^"/]+"')
"""In some examples the type in a reference begins with a small letter; HAPI refuses these too."""

EVERY_SEARCH = "-Dbeside.every-search=true"
QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")


@dataclass(slots=True)
class Scene:
    """Both servers, ready.

    Attributes:
        people: For each person the Patient's id and all records of the person, as served.
        directory: Records of the hospital's directory, as served.
    """

    ours: Service
    hapi: Hapi
    people: dict[str, tuple[str, list[Json]]]
    directory: list[Json]

    def get_ours(self, path: str) -> httpx.Response:
        """GET below our base, whatever the answer, with a token that has not run out; or a ``next`` link as given."""
        headers = self.ours.lasting_token(HOSPITAL)
        return self.ours.http.get(path if path.startswith("http") else f"/fhir/{path}", headers=headers)


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Start both, load both."""
    with hapi(folder, options=(EVERY_SEARCH, *QUICK_START)) as theirs, running(folder / "data") as ours:
        ours.add_institutions([HOSPITAL])
        ours.ingest(HOSPITAL, directory(HOSPITAL))
        Feeder(ours, lanes(HOSPITAL, PEOPLE)).run()
        ours.ingest(HOSPITAL, _examples())
        headers = ours.token(HOSPITAL)
        local = {person: patient_at(person, HOSPITAL).local_id for person in PEOPLE} | {EXAMPLES: EXAMPLES}
        people = {}
        for person, name in local.items():
            records = _served(ours, f"Patient/{name}/$everything", headers)
            patient = next(each["id"] for each in records if each["resourceType"] == "Patient")
            people[person] = (patient, records)
        admin = [each for name in sorted(DIRECTORY_TYPES) for each in _served(ours, name, headers, _count="1000")]
        theirs.wait_ready()
        # In this order, and a person at once: HAPI does not find references to what comes later.
        for records in (admin, *(records for _, records in people.values())):
            theirs.load(records)
        yield Scene(ours, theirs, people, admin)


def _served(service: Service, path: str, headers: dict[str, str], **params: str) -> list[Json]:
    return [json.loads(each) for each in service.entries(path, headers, **params)]


def _examples() -> bytes:
    """Return HL7's examples that name a patient, as records of one made-up patient, in a batch."""
    taken: list[Json] = [{"resourceType": "Patient", "id": EXAMPLES, "active": True, "name": [{"family": "Éxample"}]}]
    for line in gzip.decompress(_EXAMPLES_FILE.read_bytes()).decode().splitlines():
        made, count = _PATIENT.subn(f'"Patient/{EXAMPLES}"', line)
        resource = json.loads(made)
        name = f"{resource['resourceType']}/{resource['id']}"
        if count and resource["resourceType"] not in _NOT_TAKEN and name not in _FAULTY and not _NO_TYPE.search(line):
            taken.append(resource)
    return json.dumps(_batch(taken)).encode()


def _batch(resources: Sequence[Json]) -> Json:
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources
    ]
    return {"resourceType": "Bundle", "type": "batch", "entry": entries}
