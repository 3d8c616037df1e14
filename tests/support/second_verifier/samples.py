"""Valid receipts of every claim, spelling and signer, and policies for them.

Receipts come from ledger_core's public door; cosignatures and policies are written here,
as docs/formats/ledger.md has it.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import ledger_core
from ledger_core import Genesis, Identity, Ledger, Opening, OpenPart, Receipt

ORIGIN = "log.example/one"
RECORD = b'{"resourceType":"Patient"}'
NOTE_TYPES = {1: 4, 2: 6}
"""Signature suite → type of its cosignature lines."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A receipt, what it was made for, and the record that it opens, if any."""

    name: str
    receipt: str
    record: bytes | None = None


@dataclass(frozen=True, slots=True)
class Cosigner:
    """Somebody who signs checkpoints under a name with one key."""

    name: str
    identity: Identity

    def vkey(self, kind: int | None = None) -> str:
        material = bytes([kind or NOTE_TYPES[self.identity.suite]]) + self.identity.public
        return f"{self.name}+{self._id(material).hex()}+{base64.b64encode(material).decode()}"

    def line(self, text: str, seconds: int, kind: int | None = None) -> str:
        """One signature line over a checkpoint's text; ``seconds`` does not matter to type 1."""
        kind = kind or NOTE_TYPES[self.identity.suite]
        if kind == 1:
            signed = self.identity.sign(text.encode())
        elif kind == 4:
            stamp = seconds.to_bytes(8, "big")
            signed = stamp + self.identity.sign(f"cosignature/v1\ntime {seconds}\n{text}".encode())
        else:
            stamp = seconds.to_bytes(8, "big")
            origin, size, root = text.split("\n")[:3]
            signed = stamp + self.identity.sign(
                b"subtree/v1\n\0"
                + b"".join([_short(self.name), stamp, _short(origin), bytes(8), int(size).to_bytes(8, "big")])
                + base64.b64decode(root)
            )
        data = self._id(bytes([kind]) + self.identity.public) + signed
        return f"\u2014 {self.name} {base64.b64encode(data).decode()}\n"

    def _id(self, material: bytes) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + material).digest()[:4]


def _short(text: str) -> bytes:
    return bytes([len(text.encode())]) + text.encode()


def _identity(word: str, suite: int = 1) -> Identity:
    return Identity.from_private_bytes(hashlib.sha256(word.encode()).digest(), suite)


LOG = Cosigner(ORIGIN, _identity("log"))
LOG_ML = Cosigner(ORIGIN, _identity("log ml", 2))
WITNESSES = tuple(Cosigner(f"w{n}.example", _identity(f"w{n}", 2 if n == 3 else 1)) for n in (1, 2, 3))
REPLAYING = Cosigner("replay.example", _identity("replay"))
VALIDATORS = tuple(Cosigner(f"v{n}.example", _identity(f"v{n}", 2 if n == 4 else 1)) for n in (1, 2, 3, 4))
STRANGER = Cosigner("stranger.example", _identity("stranger"))
OPERATOR, MEMBER, MEMBER_ML = _identity("operator"), _identity("member"), _identity("member ml", 2)
OWNER, HEIR = _identity("owner"), _identity("heir")


def opening(number: int, suite: int = 1) -> Opening:
    """An opening with every form of fact, one part opened and one sealed."""
    salts = [hashlib.sha256(f"{number} {name}".encode()).digest() for name in ("record", "fhir", "raw")]
    parts = {
        "fhir": OpenPart.of(salts[1], RECORD if number == 0 else RECORD + bytes([number]), suite),
        "raw": OpenPart.of(salts[2], b"raw", suite),
    }
    facts: dict[str, str | int | bytes] = {
        "kind": 'Patient \u00e9\u2028"\\\t\x1f',
        "version": -3,
        "big": 2**63 - 1,
        "blind": b"\x00\xff",
        "": "",
    }
    return Opening(salts[0], facts, parts, suite).sealing("raw")


def make() -> tuple[list[Sample], bytes]:
    """Run a ledger through every kind of claim; give its receipts and its network id."""
    with TemporaryDirectory() as folder:
        genesis = Genesis(name=ORIGIN, operator=OPERATOR.public, operator_name="Operator", threshold=1)
        ledger = ledger_core.open_ledger(Path(folder) / "ledger", log_identity=LOG.identity, genesis=genesis)
        try:
            return list(_spelled(_run(ledger))), ledger.network
        finally:
            ledger.close()


def _send(ledger: Ledger, payload: ledger_core.Transaction | object, *who: Identity) -> int:
    return ledger.send(payload, who[0], who[1:]).result(10).index  # type: ignore[arg-type]  # a payload


def _run(ledger: Ledger) -> Iterator[Sample]:
    yield Sample("state/absent-small", ledger.state_receipt("member", OWNER.public))
    _send(ledger, ledger_core.AllowSuite("signature", 2), OPERATOR)
    _send(ledger, ledger_core.AllowSuite("digest", 2), OPERATOR)
    joined = _send(ledger, ledger_core.Join(MEMBER.public, "Second"), OPERATOR, MEMBER)
    _send(ledger, ledger_core.Join(MEMBER_ML.public, "Third"), OPERATOR, MEMBER_ML)
    yield Sample("transaction/join", ledger.transaction_receipt(joined))
    path = bytes(range(32))
    _send(ledger, ledger_core.OpenPath(path, OWNER.public, bytes(32)), MEMBER)
    _send(ledger, ledger_core.SetConsent(path, 1, b"1" * 32), OWNER)
    since = ledger.height
    yield Sample("state/consent", ledger.state_receipt("consent", path))
    yield Sample("state/config", ledger.state_receipt("config", b""))
    yield Sample("state/absent", ledger.state_receipt("consent", bytes(32)))
    yield Sample("transaction/set", ledger.transaction_receipt(ledger.size - 2))
    _send(ledger, ledger_core.SetConsent(path, 2, b"2" * 32), OWNER)
    yield Sample("revocation/consent", ledger.revocation_receipt("consent", path, since))
    yield from _anchored(ledger)
    _send(ledger, ledger_core.AllowSuite("state-tree", 2), OPERATOR)
    yield Sample("state/blake3", ledger.state_receipt("consent", path))
    for payload in (ledger_core.RegisterRuleset(b"r" * 32), ledger_core.AccessHead(1, b"a" * 32, 5)):
        yield Sample(f"transaction/{payload.kind}", ledger.transaction_receipt(_send(ledger, payload, MEMBER)))
    yield Sample("state/ruleset", ledger.state_receipt("ruleset", b"r" * 32))
    yield Sample("state/access", ledger.state_receipt("access", MEMBER.public))
    _send(ledger, ledger_core.ChangeOwner(path, 3, HEIR.public), OWNER, HEIR)
    _send(ledger, ledger_core.Restrict(path, 1, b"3" * 32), MEMBER)
    _send(ledger, ledger_core.Attest(path, 2, b"4" * 32), MEMBER)
    _send(ledger, ledger_core.Leave(MEMBER.public), MEMBER)
    yield Sample("past-state/consent", ledger.past_state_receipt("consent", path, since))
    yield Sample("past-state/blake3", ledger.past_state_receipt("consent", path, ledger.height - 1))
    yield Sample("past-state/absent", ledger.past_state_receipt("member", OWNER.public, since))
    yield Sample("revocation/member", ledger.revocation_receipt("member", MEMBER.public, since))
    yield Sample("revocation/institution", ledger.revocation_receipt("consent", path, since))


def _anchored(ledger: Ledger) -> Iterator[Sample]:
    told = []
    for suite, signer, who in ((1, MEMBER, "member"), (2, MEMBER_ML, "post-quantum"), (1, OPERATOR, "operator")):
        openings = [opening(number, suite) for number in range(7)]
        batch = ledger_core.MerkleBatch([each.commitment() for each in openings])
        index = _send(ledger, ledger_core.Anchor(batch.root, batch.count), signer)
        told.append(ledger.anchored_records(index, batch, {0: openings[0], 3: openings[3], 4: openings[4]}))
        text = ledger.record_receipt(openings[0], batch_index=0, batch_path=batch.path(0), index=index)
        yield Sample(f"record/{who}", text, RECORD)
        yield Sample(f"transaction/anchor-by-{who}", ledger.transaction_receipt(index))
    lone = ledger_core.MerkleBatch([opening(0).commitment()])
    index = _send(ledger, ledger_core.Anchor(lone.root, 1), OPERATOR)
    yield Sample("record/alone", ledger.record_receipt(opening(0), batch_index=0, batch_path=(), index=index), RECORD)
    yield Sample("records/one", ledger.records_receipt(told[:1]), RECORD)
    yield Sample("records/three", ledger.records_receipt(told), RECORD)


def _spelled(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Each receipt in both spellings; of each claim's first one also with every cosigner's line."""
    seen: set[str] = set()
    for sample in samples:
        claim = sample.name.split("/")[0]
        receipts = {sample.name: Receipt.decode(sample.receipt)}
        if claim not in seen:
            seen.add(claim)
            receipts[f"{sample.name}+signed"] = cosigned(receipts[sample.name])
            receipts[f"{sample.name}+post-quantum"] = cosigned(receipts[sample.name], (LOG_ML, WITNESSES[2]))
        for name, receipt in receipts.items():
            yield Sample(f"{name}.json", receipt.encode(), sample.record)
            yield Sample(f"{name}.tlog-proof", receipt.encode_text(), sample.record)


def cosigned(receipt: Receipt, cosigners: Sequence[Cosigner] = ()) -> Receipt:
    """The receipt with lines of ``cosigners``; of all but ML-DSA-44 keys by default."""
    everybody = (*WITNESSES[:2], REPLAYING, *VALIDATORS[:3], STRANGER)
    text, seconds = receipt.checkpoint.partition("\n\n")[0] + "\n", int(time.time()) - 9
    lines = [each.line(text, seconds + n) for n, each in enumerate(cosigners or everybody)]
    return replace(receipt, checkpoint=receipt.checkpoint + "".join(lines))


def policies(network: bytes) -> dict[str, str | None]:
    """Policies of every kind by name; not every receipt meets each."""

    def written(*, keys: Sequence[str] = (LOG.vkey(1), LOG.vkey(4)), **fields: object) -> str:
        return json.dumps({"format": "ledger-core/policy/v1", "origin": ORIGIN, "log_keys": list(keys), **fields})

    witnesses = [each.vkey() for each in WITNESSES]
    validators = [each.vkey() for each in VALIDATORS]
    group = {"needed": 2, "of": [WITNESSES[0].name, {"needed": 1, "of": [WITNESSES[1].name, WITNESSES[2].name]}]}
    members = [each.public.hex() for each in (OPERATOR, MEMBER, MEMBER_ML, OWNER)]
    lines = [f"log {LOG.vkey(1)} https://log.example", "# witnesses"]
    lines += [f"witness X{n} {key}" for n, key in enumerate(witnesses)]
    lines += ["group  X-any any X1 X2", "group both 2 X0\tX-any", ""]
    return {
        "none": None,
        "operator": written(),
        "operator-plain": written(keys=[LOG.vkey(1)]),
        "operator-post-quantum": written(keys=[LOG.vkey(1), LOG_ML.vkey(6)]),
        "network": written(network=network.hex(), members=members, oldest_checkpoint="2020-01-01T00:00:00+00:00"),
        "stranger": written(members=[STRANGER.identity.public.hex()]),
        "aged": written(max_age_ms=3_600_000),
        "aged-without-time": written(keys=[LOG.vkey(1)], max_age_ms=3_600_000),
        "witnessed": written(witnesses=witnesses, quorum=2),
        "witnessed-all": written(witnesses=witnesses, quorum=3),
        "witnessed-post-quantum": written(witnesses=witnesses, quorum=1),
        "grouped": written(witnesses=witnesses, quorum=group, max_age_ms=3_600_000),
        "replayed": written(replaying=[REPLAYING.vkey()], replaying_quorum=1),
        "validated": written(validators=validators),
        "everybody": written(
            witnesses=witnesses, quorum=2, replaying=[REPLAYING.vkey()], replaying_quorum=1, validators=validators
        ),
        "text-none": "\n".join([*lines, "quorum none", ""]),
        "text-group": "\n".join([*lines, "quorum both", ""]),
        "text-one": "\n".join([*lines, "quorum X0", ""]),
        "text-post-quantum": "\n".join([*lines, "quorum X2", ""]),
    }
