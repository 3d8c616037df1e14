"""What an index takes from bodies changes only together with the name of its definitions.

The digest below is our own output and proves nothing about its truth (other tests do that). It is here so that
whoever changes what is taken is told to raise ``EXTRACTION``; without that, charts on disk would keep the old values.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import msgspec

from fhir_bridge.fhir.indexing import EXTRACTION, definitions
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.search import extract
from fhir_bridge.fhir.subjects import codes
from fhir_bridge.fhir.timeline import dated

EXAMPLES = Path(__file__).resolve().parents[2] / "data" / "hl7-examples" / "r4.ndjson.gz"
TAKEN = (4, "6a19cb209ad7fbc4222d9bd0825ce019c69ed2a773ffdfbbb8356b4a8b7c8b1e")


def test_what_is_taken_from_the_official_examples_goes_with_this_version() -> None:
    digest = hashlib.sha256()
    for line in gzip.decompress(EXAMPLES.read_bytes()).splitlines():
        body = parse(line)
        digest.update(msgspec.msgpack.encode((extract(body), dated(body), codes(body)), order="deterministic"))
    assert (EXTRACTION, digest.hexdigest()) == TAKEN, "raise EXTRACTION in fhir/indexing.py, and renew TAKEN here"


def test_the_definitions_have_one_name() -> None:
    assert len(definitions()) == 16
    assert definitions() == definitions()
