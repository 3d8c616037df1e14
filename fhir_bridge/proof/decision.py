"""The bytes of a decision: what its receipt shows to whoever asked, and what opens to the patient.

docs/formats/decisions.md writes them down.

A decision is committed to as a record is: facts, and three parts of which the
requester's receipt opens two (the request, the names of what was shown) and
leaves one closed (the grounds). The grounds are a list of salted digests, one
for each chart that was looked at, among ones of nobody; a chart's digest opens to
that chart's patient alone.

Invariants:
    * facts and parts are named alike for every decision, whatever it rests on;
    * the same work is done for no chart and for up to :data:`SLOTS` of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.model.access import Requester
from fhir_bridge.ports.ambient import Randomness

SLOTS: Final = 4
"""Charts of one person up to which nothing about a decision is larger or takes longer."""
SALT_BYTES: Final = 32

REQUEST: Final = "request"
SHOWN: Final = "shown"
GROUNDS: Final = "grounds"

_GROUNDS: Final = "fhir-bridge/decision-grounds/1"
_CHART: Final = b"fhir-bridge/decision-chart/1\0"
_COMMITMENT: Final = b"ledger-core/commitment/v1"
_BLAKE3: Final = 1
_FORMAT: Final = 1

Name = tuple[str, str, str]
"""Type, id and version of a record that was shown."""


@dataclass(frozen=True, slots=True)
class ChartGrounds:
    """Everything that the decision on one chart rested on; only its patient, and whom she shows it, reads this.

    Attributes:
        request: The request's exact bytes.
        requester: All that the evaluator looks at, and who authenticated.
        chart, home, patient: The chart's pseudonym, its institution's name, its canonical Patient id.
        linked: Canonical Patient ids of the person's charts then.
        instant_us: µs since 1970 UTC.
        height, batch: Ledger height of the consent state, and the newest batch of records then visible.
        basis, consents: As the decision states them.
        base_url: FHIR base below which references in consents are ours.
        policies: BLAKE3 digest of the network's policies.
        lists: Hashes of the owner's list, the institution's and its kept one; None for none.
        path: The chart's blinded path on the ledger; None if it was never opened.
        is_sound: The stored lists had the hashes that the ledger held.
        is_attested: The ledger said that the institution attested its list as it was.
        in_emergency: Emergency access to this chart was open.
        shown: What was shown of this chart.
        withheld: ``(type, id)`` of a record that the question named and that was not shown.
    """

    request: bytes
    requester: Requester
    chart: str
    home: str
    patient: str
    linked: tuple[str, ...]
    instant_us: int
    height: int
    batch: int
    evaluator: str
    basis: str
    base_url: str
    policies: bytes
    lists: tuple[bytes | None, bytes | None, bytes | None]
    path: bytes | None
    is_sound: bool
    is_attested: bool
    in_emergency: bool
    consents: tuple[tuple[str, str], ...] = ()
    shown: tuple[Name, ...] = ()
    withheld: tuple[tuple[str, str], ...] = ()

    def encode(self, asked: bytes | None = None) -> bytes:
        """Return the one encoding.

        Args:
            asked: What :func:`encode_asked` gives for this request and requester, if it is at hand.
        """
        told: list[Any] = [
            _FORMAT,
            encode_asked(self.request, self.requester) if asked is None else asked,
            self.chart,
            self.home,
            self.patient,
            sorted(self.linked),
            self.instant_us,
            self.height,
            self.batch,
            self.evaluator,
            self.basis,
            self.base_url,
            self.policies,
            self.lists,
            self.path,
            self.is_sound,
            self.is_attested,
            self.in_emergency,
            self.consents,
            encode_shown(self.shown),
            self.withheld,
        ]
        # Arrays, text, bytes and integers have one encoding in cbor2 without its slower canonical mode.
        return cbor2.dumps(told)

    @classmethod
    def decode(cls, data: bytes) -> ChartGrounds:
        """Read what :meth:`encode` wrote.

        Raises:
            IntegrityBroken: The bytes are no chart's grounds, or not in their one form.
        """
        try:
            number, asked, *rest = cbor2.loads(data)
            if number != _FORMAT:
                raise IntegrityBroken("a decision's grounds are of an unknown format")
            chart, home, patient, linked, at, height, batch, evaluator, basis, base_url, policies, *last = rest
            lists, path, is_sound, is_attested, in_emergency, consents, shown, withheld = last
            owner, institution, kept = lists
            request, who = _decode_asked(asked)
            decoded = cls(
                request=request,
                requester=who,
                chart=chart,
                home=home,
                patient=patient,
                linked=tuple(linked),
                instant_us=at,
                height=height,
                batch=batch,
                evaluator=evaluator,
                basis=basis,
                base_url=base_url,
                policies=policies,
                lists=(owner, institution, kept),
                path=path,
                is_sound=is_sound,
                is_attested=is_attested,
                in_emergency=in_emergency,
                consents=tuple((i, v) for i, v in consents),
                shown=_decode_shown(shown),
                withheld=tuple((t, i) for t, i in withheld),
            )
            again = decoded.encode()
        except (ValueError, TypeError, KeyError, AttributeError, cbor2.CBORDecodeError) as broken:
            raise IntegrityBroken("a decision's grounds do not decode") from broken
        if again != data:
            raise IntegrityBroken("a decision's grounds are not in their one form")
        return decoded


def encode_asked(request: bytes, who: Requester) -> bytes:
    """Return the part of grounds that is the same for every chart: what was asked and by whom."""
    groups = None if who.groups is None else list(who.groups)
    stated = [who.client_id, who.institution, who.institution_id, who.practitioner, list(who.roles), who.purpose]
    return cbor2.dumps([request, *stated, who.patient, who.delegate, who.attested_by, groups])


def _decode_asked(data: bytes) -> tuple[bytes, Requester]:
    request, client, institution, institution_id, practitioner, roles, purpose, *rest = cbor2.loads(data)
    patient, delegate, attested_by, groups = rest
    who = Requester(
        client_id=client,
        institution=institution,
        institution_id=institution_id,
        practitioner=practitioner,
        roles=tuple(roles),
        purpose=purpose,
        patient=patient,
        delegate=delegate,
        attested_by=attested_by,
        groups=None if groups is None else tuple(groups),
    )
    return request, who


def chart_digest(salt: bytes, content: bytes) -> bytes:
    """Return SHA-256(domain ‖ salt ‖ SHA-256(content)), the digest that stands for one chart in the grounds."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return hashlib.sha256(_CHART + salt + hashlib.sha256(content).digest()).digest()


def encode_grounds(digests: Sequence[bytes], randomness: Randomness) -> bytes:
    """Return the content of the grounds part: the digests among random ones, sorted, a power of two of them."""
    size = slots_for(len(digests))
    padding = [randomness.token(32) for _ in range(size - len(digests))]
    return cbor2.dumps([_GROUNDS, sorted([*digests, *padding])])


def decode_grounds(content: bytes) -> frozenset[bytes]:
    """Return the digests of a grounds part.

    Raises:
        IntegrityBroken: The bytes are no grounds, or not in their one form.
    """
    try:
        name, digests = cbor2.loads(content)
        is_good = name == _GROUNDS and list(digests) == sorted(digests) and all(len(each) == 32 for each in digests)
        again = cbor2.dumps([name, digests])
    except (ValueError, TypeError, cbor2.CBORDecodeError) as broken:
        raise IntegrityBroken("a decision's grounds do not decode") from broken
    if not is_good or again != content:
        raise IntegrityBroken("a decision's grounds are not in their one form")
    return frozenset(digests)


def slots_for(count: int) -> int:
    """Return how many places the grounds of ``count`` charts take: a power of two, at least :data:`SLOTS`."""
    return max(SLOTS, 1 << max(count - 1, 0).bit_length())


def decision_commitment(salt: bytes, facts: Mapping[str, str | int], parts: Mapping[str, bytes]) -> bytes:
    """Return what ``ledger_core.commit`` returns for the same values, in a quarter of its time.

    Args:
        parts: Name → s(part), which :class:`ledger_core.OpenPart` gives.
    """
    body = cbor2.dumps({"facts": facts, "parts": parts, "suite": _BLAKE3}, canonical=True)
    joined = b"".join(len(each).to_bytes(8, "big") + each for each in (salt, body))
    return hashlib.sha256(bytes((len(_COMMITMENT),)) + _COMMITMENT + joined).digest()


def encode_shown(names: Iterable[Name]) -> bytes:
    """Return the content of the part ``shown``: a line ``Type/id/_history/version`` each, in the answer's order."""
    return "".join([f"{kind}/{name}/_history/{version}\n" for kind, name, version in names]).encode()


def _decode_shown(content: bytes) -> tuple[Name, ...]:
    """Read what :func:`encode_shown` wrote; what is not in its form comes out in another one."""
    lines = (line.split("/") for line in content.decode().splitlines())
    return tuple((kind, name, version) for kind, name, _, version in lines)


def decision_facts(
    who: Requester, decision_id: str, *, instant: str, evaluator: str, height: int, shown: int
) -> Mapping[str, str | int]:
    """Return the facts that a receipt shows to whoever asked.

    Args:
        instant: FHIR instant.
        height: Of the ledger when the question was answered.
        shown: How many records the answer showed; none is a denial, whether something is hidden or nothing is there.
    """
    return {
        "kind": "decision",
        "id": decision_id,
        "instant": instant,
        "client": who.client_id,
        "institution": who.institution_id or "",
        "practitioner": who.practitioner or "",
        "purpose": who.purpose,
        "roles": " ".join(who.roles),
        "agent-of": who.patient or "",
        "delegate": who.delegate or "",
        "evaluator": evaluator,
        "height": height,
        "outcome": "permit" if shown else "deny",
        "shown": shown,
    }
