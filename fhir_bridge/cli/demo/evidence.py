"""The scenes about evidence: receipts checked offline, and a changed byte found and located."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fhir_bridge.cli.demo.pictures import Pictures
from fhir_bridge.cli.demo.stage import Stage
from fhir_bridge.cli.demo.timeline import Entry
from fhir_bridge.cli.failing import Failure

_SOURCES = ("northgate", "harbor", "cedar")


def check_receipts(stage: Stage, pictures: Pictures, found: Sequence[Entry], work: Path) -> None:
    """Fetch the receipts of one record of each hospital and verify them with the offline verifier."""
    pictures.scene(
        "Evidence for somebody who trusts none of us",
        "A receipt leads from the record's exact bytes to a signed checkpoint of the log. The verifier needs no"
        " network; whom to trust stands in a policy file that came another way.",
    )
    policy = work / "policy.json"
    pictures.command("ledger policy --out", policy.name)
    stage.command("ledger", "policy", "--out", str(policy))
    token = stage.command("token", "--institution", "northgate").strip()
    rows = []
    for source in _SOURCES:
        entry = next(e for e in found if e.source == source and e.type in ("Observation", "Condition"))
        rows.append((source, entry.type, _check(stage, token, entry, policy, work), entry.words))
    pictures.table(("source", "record", "the verifier says", "what"), rows)
    pictures.proved("verified offline; the same records with one bit changed were refused")
    pictures.say("'operator-attested' says on whose word it rests: one machine's own key can be worth no more.")


def _check(stage: Stage, token: str, entry: Entry, policy: Path, work: Path) -> str:
    record, receipt = work / "record.json", work / "record.receipt"
    record.write_bytes(stage.ask("GET", f"/fhir/{entry.place}", token).content)
    receipt.write_bytes(stage.ask("GET", f"/fhir/{entry.place}/$receipt", token).content)
    said = stage.verify(receipt, record, policy)
    _refuse_changed(stage, record, receipt, policy)
    return said.splitlines()[0]


def _refuse_changed(stage: Stage, record: Path, receipt: Path, policy: Path) -> None:
    body = bytearray(record.read_bytes())
    body[-2] ^= 1
    record.write_bytes(body)
    try:
        stage.verify(receipt, record, policy)
    except Failure:
        return
    raise Failure("the story does not hold: a changed record must not verify")


def tamper(stage: Stage, pictures: Pictures) -> None:
    """Change one byte of one ciphertext in the file, have it found and located, and put it back."""
    pictures.scene(
        "Somebody edits the file",
        "The service stops; one bit of one ciphertext in vault.db is flipped. The check names the place without"
        " opening a single record.",
    )
    stage.stop()
    vault = stage.data / "vault.db"
    place = _flip(vault)
    pictures.say(f"vault.db: one bit of the ciphertext at {place} flipped")
    pictures.command("fsck")
    said = stage.command("fsck", expect=1).strip().splitlines()
    for line in said[:4]:
        pictures.say(line)
    _flip(vault)
    stage.command("fsck")
    pictures.proved("found and located; put back, the file agrees with the ledger again")
    stage.start()


def _flip(vault: Path) -> str:
    """Flip one bit of the normalised form's envelope in the middle of the vault; doing it twice changes nothing."""
    with closing(sqlite3.connect(vault)) as connection, connection:
        (count,) = connection.execute("SELECT count(*) FROM records").fetchone()
        middle = "SELECT seq, normalised FROM records ORDER BY seq LIMIT 1 OFFSET ?"
        seq, envelope = connection.execute(middle, (count // 2,)).fetchone()
        changed = bytearray(envelope)
        changed[len(changed) // 2] ^= 1
        connection.execute("UPDATE records SET normalised = ? WHERE seq = ?", (bytes(changed), seq))
    return f"records, row {seq} of {count}, byte {len(changed) // 2}"
