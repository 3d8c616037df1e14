"""Compare two verifiers on changed receipts, records and policies, in two processes.

Run as ``python -m tests.support.second_verifier.campaign``; LEDGER_MUTATIONS says how many cases
(a million by default). Results are kept under .build, named by the code that was compared, so a
campaign that was interrupted goes on where it stopped.

Invariants:
    * case n of the same samples is the same case in every run;
    * a case counts as sound only if both verifiers say the same, whatever it is;
    * what both accept must be a receipt that was valid before, or one that the formats page names as true too.
"""

import base64
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import ledger_core
from tests.support.second_verifier import cbor, samples, verify
from tests.support.second_verifier.mutations import mutate, note_of
from tests.support.second_verifier.notes import from_base64, parse_vkey
from tests.support.second_verifier.refusal import Refused
from tests.support.second_verifier.samples import Sample

ROOT = Path(__file__).resolve().parents[3]
CHUNK = 2_000
Said = tuple[object, ...]
REFUSED: Said = ("refused",)


@dataclass(frozen=True, slots=True)
class Case:
    """What both verifiers are asked, and what it was made from."""

    number: int
    sample: Sample
    policy_name: str
    receipt: str
    record: bytes | None
    policy: str | None
    is_policy_changed: bool


@dataclass(slots=True)
class Tally:
    """What became of some cases; ``faults`` holds those that should not be."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, str]] = field(default_factory=list)


def first(receipt: str, record: bytes | None, policy: str | None, now: datetime) -> Said:
    """What ledger_core says of a receipt; an error that is not its own comes through."""
    try:
        trusted = None if policy is None else ledger_core.Policy.decode(policy)
        outcome = ledger_core.verify_receipt(receipt, record=record, policy=trusted, now=now)
    except ledger_core.LedgerError:
        return REFUSED
    signed = None if outcome.signed_at is None else int(outcome.signed_at.timestamp())
    facts = tuple(dict(each.facts) for each in outcome.records)
    matched = tuple(name for each in outcome.records for name in each.matched)
    return outcome.vouched, signed, outcome.claim.split(":")[0], matched, facts


def second(receipt: str, record: bytes | None, policy: str | None, now: datetime) -> Said:
    """What the second verifier says, in the same words."""
    verdict = verify(receipt, record=record, policy_text=policy, now=now)
    if not verdict.is_sound:
        return REFUSED
    presence = "state present" if verdict.is_present else "state absent"
    claim = {
        "records": f"{len(verdict.facts)} records",
        "state": presence,
        "past-state": f"{presence} as of height {verdict.height}",
        "revocation": f"state of height {verdict.height} revoked",
    }.get(verdict.claim, verdict.claim)
    return verdict.vouched, verdict.time_s, claim, verdict.matched, verdict.facts


class World:
    """Samples, policies, and what may be accepted among changed receipts."""

    def __init__(self, made: Sequence[Sample], network: bytes, now: datetime) -> None:
        self.now, self.samples, self.policies = now, list(made), samples.policies(network)
        self.receipts = {sample.receipt for sample in made}
        self.lines: dict[str, set[str]] = {}
        self.claims: set[str] = set()
        self.stands = {stand_of(sample.receipt) for sample in made}
        self.ends = {
            stand_of(sample.receipt) for sample in made if sample.name.split("/")[0] in ("state", "revocation")
        }
        for sample in made:
            self.claims.update(claim_of(sample.receipt, claim) for claim in ("", "past-state", "state"))
            self.lines.setdefault(text_of(sample.receipt), set()).update(lines_of(sample.receipt))
        self.known = {name: _known(policy) for name, policy in self.policies.items()}
        self.said = {
            (sample.name, name): second(sample.receipt, sample.record, policy, now)
            for sample in self.samples
            for name, policy in self.policies.items()
        }
        self.sound = {
            sample.name: [name for name in self.policies if self.said[sample.name, name] != REFUSED]
            for sample in self.samples
        }

    @classmethod
    def make(cls) -> "World":
        made, network = samples.make()
        return cls(made, network, datetime.now(UTC))

    @classmethod
    def kept(cls, file: Path) -> "World":
        """The world of a file, made if it is not there."""
        if not file.exists():
            made, network = samples.make()
            data = [[each.name, each.receipt, each.record and each.record.decode()] for each in made]
            file.write_text(json.dumps([data, network.hex(), datetime.now(UTC).isoformat()]))
        data, network_hex, now = json.loads(file.read_text())
        made = [Sample(name, receipt, record and record.encode()) for name, receipt, record in data]
        return cls(made, bytes.fromhex(network_hex), datetime.fromisoformat(now))

    def case(self, number: int) -> Case:
        random = Random(number)
        sample = random.choice(self.samples)
        spelling = sample.name.rpartition(".")[2]
        alike = [each for each in self.samples if each.name.endswith(spelling)]
        near = [each for each in alike if each.name.split("/")[0] == sample.name.split("/")[0]]
        other = random.choice(random.choice((alike, near)))
        name = random.choice(self.sound[sample.name])
        policy = self.policies[name]
        receipt, record = sample.receipt, sample.record
        what = random.randrange(25)
        if what == 0 and policy is not None:
            changed = mutate(random, policy, self.policies[random.choice(list(self.policies))] or policy)
            return Case(number, sample, name, receipt, record, changed, True)
        if what == 1 and record is not None:
            record = bytes([record[0] ^ 1 << random.randrange(8)]) + record[1:]
        else:
            receipt = mutate(random, receipt, other.receipt)
        return Case(number, sample, name, receipt, record, policy, False)

    def judge(self, case: Case) -> tuple[str, Said, Said]:
        """One word for what became of a case; ``fault: …`` for what should not be."""
        asked = (case.receipt, case.record, case.policy, self.now)
        try:
            one, two = first(*asked), second(*asked)
        except Exception as error:
            return f"fault: {type(error).__name__} {error}", REFUSED, REFUSED
        if one != two:
            return "fault: disagreement", one, two
        return ("refused" if one == REFUSED else self._accepted(case)), one, two

    def _accepted(self, case: Case) -> str:
        if case.is_policy_changed:
            return "accepted: another policy"
        if case.record != case.sample.record:
            return "fault: another record accepted"
        if case.receipt in self.receipts:
            return "accepted: unchanged, or another valid receipt"
        if claim_of(case.receipt) not in self.claims:
            return "fault: another claim accepted"
        if case.policy is None:
            return "accepted: another checkpoint, which nobody vouches for"
        known, lines = self.known[case.policy_name], self.lines.get(text_of(case.receipt), set())
        held = {line for line in lines_of(case.receipt) if _label(line) in known}
        stands = self.ends if _apart(case.receipt)[0]["claim"] == "state" else self.stands
        if stand_of(case.receipt) not in stands or not held <= lines:
            return "fault: accepted, though something that counts is changed"
        is_same = claim_of(case.receipt, keep=True) == claim_of(case.sample.receipt, keep=True)
        return "accepted: other signature lines" if is_same else "accepted: another statement, true as well"


def claim_of(receipt: str, claim: str = "", keep: bool = False) -> str:
    """A receipt's claim alone; kind and key of an absence count for nothing, unless kept.

    A ``claim`` takes the place of the one in a state receipt.
    """
    value, _ = _apart(receipt)
    if "state" in value:
        value["claim"] = claim or value["claim"]
        if value["state"]["value"] is None and not keep:
            value["state"]["kind"] = value["state"]["key"] = ""
    return repr(value)


def stand_of(receipt: str) -> str:
    """Where a receipt stands: primary entry, index, path and the checkpoint's text."""
    value, log = _apart(receipt)
    inner = value.get("current", value.get("batches", [value])[0])
    return repr((inner.get("entry", inner.get("transaction")), log, text_of(receipt)))


def _apart(receipt: str) -> tuple[dict[str, Any], object]:
    """The fields of a claim, of either spelling, and what the other lines say of the log."""
    if receipt.startswith("{"):
        value = json.loads(receipt)
        del value["checkpoint"]
        return value, value.pop("log")
    lines = receipt.partition("\n\n")[0].split("\n")
    decoded: Any = cbor.decode(from_base64(lines.pop(1).removeprefix("extra ")))
    return decoded, lines


def text_of(receipt: str) -> str:
    parted = note_of(receipt)
    return parted[0] if parted else ""


def lines_of(receipt: str) -> list[str]:
    parted = note_of(receipt)
    return parted[1] if parted else []


def _label(line: str) -> tuple[str, bytes]:
    _, name, token = line.split(" ")
    return name, base64.b64decode(token)[:4]


def _known(policy: str | None) -> set[tuple[str, bytes]]:
    if policy is None:
        return set()
    found = set()
    for word in policy.replace('"', " ").replace(",", " ").split():
        try:
            key = parse_vkey(word)
        except Refused:
            continue
        found.add((key.name, key.id))
    return found


def run(world: World, numbers: Sequence[int]) -> Tally:
    """Judge these cases one by one."""
    tally = Tally()
    for number in numbers:
        case = world.case(number)
        word, one, two = world.judge(case)
        tally.outcomes[word.split(" ")[0] if word.startswith("fault: Exc") else word] += 1
        if word.startswith("fault"):
            tally.faults.append(
                {
                    "case": str(number),
                    "sample": case.sample.name,
                    "policy": case.policy_name,
                    "what": word,
                    "ledger_core": repr(one),
                    "second": verify(case.receipt, record=case.record, policy_text=case.policy, now=world.now).reason
                    or repr(two),
                    "receipt": case.receipt,
                    "policy_text": case.policy or "",
                }
            )
    return tally


@cache
def _world(file: str) -> World:
    return World.kept(Path(file))


def _chunk(file: str, chunk: int, count: int) -> tuple[int, Tally]:
    return chunk, run(_world(file), range(chunk * CHUNK, min((chunk + 1) * CHUNK, count)))


def _code() -> str:
    """Names the code that is compared."""
    digest = hashlib.sha256()
    for folder in ("ledger_core", "tests/support/second_verifier"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _done(kept: Path, count: int) -> Iterator[tuple[int, Tally]]:
    for line in kept.read_text().splitlines() if kept.exists() else ():
        row = json.loads(line)
        if row["chunk"] * CHUNK < count and row["cases"] == min(CHUNK, count - row["chunk"] * CHUNK):
            yield row["chunk"], Tally(Counter(row["outcomes"]), row["faults"])


def main() -> int:
    count = int(os.environ.get("LEDGER_MUTATIONS", "1000000"))
    folder = ROOT / ".build" / "second-verifier" / _code()
    folder.mkdir(parents=True, exist_ok=True)
    World.kept(folder / "samples.json")
    kept, whole = folder / "chunks.jsonl", Tally()
    done = dict(_done(kept, count))
    for tally in done.values():
        whole.outcomes.update(tally.outcomes)
        whole.faults.extend(tally.faults)
    if done:
        print(f"going on after {whole.outcomes.total():,} cases", flush=True)
    started, before = time.monotonic(), whole.outcomes.total()
    with ProcessPoolExecutor(2) as pool, kept.open("a") as keeping:
        chunks = [number for number in range(-(-count // CHUNK)) if number not in done]
        for ended in as_completed(
            [pool.submit(_chunk, str(folder / "samples.json"), each, count) for each in chunks]
        ):
            chunk, tally = ended.result()
            row = {
                "chunk": chunk,
                "cases": tally.outcomes.total(),
                "outcomes": tally.outcomes,
                "faults": tally.faults,
            }
            print(json.dumps(row), file=keeping, flush=True)
            whole.outcomes.update(tally.outcomes)
            whole.faults.extend(tally.faults)
            rate = (whole.outcomes.total() - before) / (time.monotonic() - started)
            if chunk % 10 == 0:
                print(f"{whole.outcomes.total():>9,} cases, {rate:,.0f}/s, {len(whole.faults)} faults", flush=True)
    for word, number in sorted(whole.outcomes.items()):
        print(f"{number:>9,} {word}")
    for fault in whole.faults[:10]:
        print(f"case {fault['case']} ({fault['sample']}, policy {fault['policy']}): {fault['what']}")
    print(f"{whole.outcomes.total():,} cases tried, {len(whole.faults)} faults; kept in {kept.relative_to(ROOT)}")
    return 1 if whole.faults else 0


if __name__ == "__main__":
    sys.exit(main())
