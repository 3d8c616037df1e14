"""Train the dictionary that envelopes are compressed with: ``python -m tools.train_dictionary FILE``.

From what two of the made-up hospitals send, and nothing else: normalised forms, originals and lineages. The third,
northgate, is left out, so that what is measured with its records is measured with records that the dictionary has
not seen. Every UUID and every canonical id is drawn anew first, so that no record's own is in the dictionary.

A dictionary that has sealed anything never changes: a better one gets the next number (docs/formats/envelopes.md).
"""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import zstandard

from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import FhirVersion, Normalized, Received, SourceContext, stamped

_ROOT = Path(__file__).parents[1]
_HOSPITALS = {"harbor": (FhirVersion.R4, "bundles"), "cedar": (FhirVersion.STU3, "bundles-stu3")}
_NUMBER = 1
_BYTES = 64 << 10
_SAMPLES = 2_500
"""So many records of each hospital."""
_LONGEST = 20_000
_UUID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_CANONICAL = re.compile(rb"\b[a-z2-7]{32}\b")
_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567"


def main() -> int:
    """Train, write, and tell the digest by which the program knows it."""
    random = Random(_NUMBER)
    drawn = [each for name in _HOSPITALS for each in random.sample(list(_records(name)), _SAMPLES)]
    # Like beside like: the trainer takes something of every stretch of what it is given.
    samples = [part for kind in zip(*map(_parts, drawn), strict=True) for part in _usable(kind, random)]
    made = zstandard.train_dictionary(_BYTES, [*samples], level=3, dict_id=_NUMBER).as_bytes()
    Path(sys.argv[1]).write_bytes(made)
    print(f"{len(samples)} samples, {len(made)} bytes, SHA-256 {hashlib.sha256(made).hexdigest()}")
    return 0


def _records(name: str) -> Iterator[Normalized]:
    release, file = _HOSPITALS[name]
    source = SourceContext(name, f"institution-{name}", release, bytes(32), str(_ROOT / "mappings" / name))
    folder = _ROOT / "tests" / "data" / "hospitals" / name
    for each in ("directory.json", f"{file}.ndjson"):
        for body in gzip.decompress((folder / f"{each}.gz").read_bytes()).splitlines():
            yield from process(Received(name, release, body, datetime.now(UTC)), source, Limits()).records


def _parts(record: Normalized) -> tuple[bytes, bytes, bytes]:
    body = stamped(record, version="a" * 20, last_updated=datetime(2026, 1, 1, tzinfo=UTC))
    return body, record.original, record.lineage


def _usable(parts: Iterable[bytes], random: Random) -> Iterator[bytes]:
    return (_without_ids(part, random) for part in parts if len(part) <= _LONGEST)


def _without_ids(text: bytes, random: Random) -> bytes:
    text = _UUID.sub(lambda _: _hex(random), text)
    return _CANONICAL.sub(lambda _: bytes(random.choices(_BASE32, k=32)), text)


def _hex(random: Random) -> bytes:
    digits = f"{random.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()


if __name__ == "__main__":
    sys.exit(main())
