"""A record on its way in: Received → Validated → Normalized → Sealed → Anchored.

Skipping a room is a type error. All values are frozen; bodies are FHIR JSON
whose numbers keep their text (see ``fhir_bridge.fhir.json``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from fhir_bridge.errors import Issue

if TYPE_CHECKING:
    Bytes = bytes | memoryview
else:
    # What is stored is read back as bytes; msgspec refuses a choice of two kinds of them.
    Bytes = bytes

Body = dict[str, Any]
"""A decoded FHIR JSON object."""

SearchValues = Mapping[str, tuple[Any, ...]]
"""Search parameter → values: token ``[system, code]``, date ``[low µs, high µs]`` (half-open, UTC since
1970), reference ``"Type/id"`` or ``"|system|value"`` for a logical one, string, uri: ``str``."""


class FhirVersion(StrEnum):
    """Releases that institutions may send; R4 is the one inside."""

    STU3 = "STU3"
    R4 = "R4"
    R4B = "R4B"
    R5 = "R5"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a message stood on its bus; the vault stores ``offset + 1`` as the next to read."""

    bus: str
    stream: str
    partition: int
    offset: int


class Interaction(msgspec.Struct, frozen=True):
    """What the sender asks for one resource: RESTful create, update or delete.

    ``id`` is the sender's local id. ``if_match`` is a bare version id,
    ``if_none_exist`` a query string, both as FHIR R4 http.html defines them.
    ``if_none_match`` is ``*`` (RFC 9110 section 13.1.2: create only) or None.
    ``match`` is the query string of a conditional update or delete: it must match the
    record of this interaction when that is committed, or none if no ``id`` is named.
    """

    method: str
    type: str
    id: str | None = None
    if_match: str | None = None
    if_none_exist: str | None = None
    if_none_match: str | None = None
    match: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes as they came, from a sender who is known before a byte is parsed.

    ``interaction`` is set for a single resource over HTTP; a bundle carries
    its own. ``position`` is set for what came by bus. ``same_as`` names records
    that conditional creates of this message would have doubled: the canonical
    id that an entry would have got, and that of the record which is there.
    ``patients`` are the sender's Patients that its conditional references
    found: ``system|value`` and canonical id. ``signature`` is the sender's
    detached JWS over the message; the sender had agreed by then to sign, or to
    encrypt, what it sends by bus where ``must_be_signed`` or ``must_be_encrypted``.
    ``has_unknown_release`` says that a header names a release that there is not.
    A large ``body`` is a view of memory that processes share (``shared_bytes.py``).
    """

    institution: str
    fhir_version: FhirVersion
    body: Bytes
    received_at: datetime
    content_type: str = "application/fhir+json"
    interaction: Interaction | None = None
    position: Position | None = None
    same_as: tuple[tuple[str, str], ...] = ()
    patients: tuple[tuple[str, str], ...] = ()
    signature: str = ""
    must_be_signed: bool = False
    must_be_encrypted: bool = False
    has_unknown_release: bool = False

    @property
    def content(self) -> bytes:
        """The body as bytes: itself, or a copy of shared memory."""
        return bytes(self.body)


@dataclass(frozen=True, slots=True)
class Signed:
    """A message whose sender's signature holds.

    Attributes:
        id: Of the message, keyed: tells nothing of its content.
        key: The public key that it holds under, as JWK.
        thumbprint: Of that key (RFC 7638): its ``kid`` is only what somebody called it.
    """

    id: str
    key: Mapping[str, Any]
    thumbprint: str


@dataclass(frozen=True, slots=True)
class Validated:
    """One entry that may be stored: structure, formats and required bindings hold.

    Attributes:
        index: Number of the entry in its bundle, 0 for a single resource.
        original: The exact byte slice of the entry (of the resource when single).
        resource: The decoded resource in the sender's FHIR release; None for DELETE.
        flags: Data-quality findings that do not refuse the record.
    """

    index: int
    interaction: Interaction
    full_url: str | None
    original: bytes
    resource: Body | None
    flags: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """One entry the sender must mend."""

    index: int
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class Reception:
    """What intake made of one message, in the order of its entries.

    ``kind`` is ``transaction``, ``batch``, ``collection`` or ``single``. For a
    refused message (undecodable, or a transaction with a refused entry)
    ``refused`` says why and ``entries`` is empty: nothing of it may be stored.
    ``whole`` is set for a large bundle, which is not held decoded: its entries
    have neither bytes nor resource until it gives them, each time anew.
    """

    kind: str
    entries: tuple[Validated | Refusal, ...] = ()
    refused: tuple[Issue, ...] = ()
    bundle_id: str | None = None
    whole: Callable[[Validated], Validated] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A ruleset that is tried beside the one in force, on a share of what comes, counted in ten-thousandths.

    What a canary makes of its share is stored; what a shadow makes is compared and forgotten.
    """

    ruleset: str
    ruleset_dir: str
    share: int
    is_canary: bool


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What normalisation needs to know about a sender; crosses to worker processes.

    Attributes:
        institution: Name, as in ``institution add NAME``.
        institution_id: Public id (FHIR id), goes to ``meta.source`` and the origin tag.
        id_key: 32 bytes; canonical ids of this institution are keyed with it.
        ruleset_dir: Folder of the copy of the rule pack, below one named by its hash.
        ruleset: Hash of the pack in force; another hash makes workers load another copy.
        sets: Hex digest of the value sets in force; empty for those that ship with the package.
        sets_file: Their canonical bytes.
    """

    institution: str
    institution_id: str
    fhir_version: FhirVersion
    id_key: bytes = field(repr=False)
    ruleset_dir: str = ""
    ruleset: str = ""
    sets: str = ""
    sets_file: str = ""
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class ChartRef:
    """One patient's records at one institution, or the institution's directory.

    ``chart`` is a pseudonym: 32 hex digits, keyed by the institution's id key.
    """

    institution: str
    chart: str
    patient_id: str | None

    @property
    def is_directory(self) -> bool:
        """True for administrative resources that every valid token may read."""
        return self.patient_id is None


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One element that a rule changed; ``before``/``after`` are JSON values, None for absent.

    Its JSON is what lineage is made of: the members by these names, without those that say nothing.

    Attributes:
        element: Where it stands at that moment, as ``Observation.code.coding[1]``; empty for what is said of the
            whole message.
        sources: Where parts of ``after`` come from: path below ``element`` (empty for itself) → place just before
            this change. What is not named stands where it stood, or is the rule's own. Lineage written before
            2026-11 names none.
        table: Table that the rule went by, with the factor where it holds one.
    """

    element: str
    before: Any
    after: Any
    rule: str
    reason: str
    sources: Mapping[str, str] | None = None
    table: str = ""


class IndexRow(msgspec.Struct, frozen=True, dict=True):
    """What search, consent and ordering need of one record version; lives only in the sealed chart index.

    Two thirds of a row are values that hardly anybody asks for. They stay packed from where the row is made, and
    :meth:`values_of` unpacks those of one parameter when somebody does.

    Attributes:
        id: Canonical id.
        version: ``meta.versionId``, opaque.
        deleted: The version is a tombstone.
        origin: Institution (name) whose feed or agent wrote it.
        author: ``institution``; ``agent`` for what a patient's agent wrote, ``guardian`` for what an attested
            guardian signed, ``paper`` for a signed paper that a clerk entered.
        last_updated_us: ``meta.lastUpdated``, µs since 1970 UTC.
        source_updated_us: The sender's own ``meta.lastUpdated`` when it gave one.
        dated_us: Start of the element that dates the type (``fhir/timeline.py``).
        labels: ``meta.security`` as ``system|code``.
        codes: Every coding of the elements that say what the record is, as ``system|code``.
        data_period_us: Clinically relevant time [low, high) for ``dataPeriod``; None if undated.
        search: Values of the searchable parameters, as :func:`pack_values` packs them.
        references: All outgoing literal references, as ``Type/id``.
        content: Keyed digest of the content, to recognise an unchanged resend.
    """

    type: str
    id: str
    version: str
    deleted: bool
    origin: str
    author: str
    last_updated_us: int
    source_updated_us: int | None
    dated_us: int | None
    labels: tuple[str, ...]
    codes: tuple[str, ...]
    data_period_us: tuple[int, int] | None
    search: msgspec.Raw
    references: tuple[str, ...]
    content: bytes

    def values_of(self, name: str) -> tuple[Any, ...]:
        """Return the values of a search parameter, lists in place of tuples within; empty if there are none.

        The first time some 1.5 µs; then they are in the row's own ``__dict__``, beside the fields, where no encoder
        and no comparison looks. An underscore keeps our names apart from those of parameters, which have hyphens.
        """
        found: tuple[Any, ...] | None = self.__dict__.get(name)
        if found is None:
            found = self.__dict__[name] = unpack_values(self.packed_values_of(name))
        return found

    def packed_values_of(self, name: str) -> bytes:
        """Return the values of a search parameter as they are packed, for comparing rows; nothing is remembered."""
        return bytes(_finder(name)(self.search).values)


def pack_values(values: SearchValues) -> msgspec.Raw:
    """Pack the values of all search parameters of a row."""
    return msgspec.Raw(_pack(values))


unpack_values: Final = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
"""Return the values of one parameter."""
_pack = msgspec.msgpack.Encoder().encode
_NO_VALUES = msgspec.Raw(_pack(()))


@cache
def _finder(name: str) -> Callable[[msgspec.Raw], Any]:
    """Return what finds the values of one parameter and reads over all others; of R4's there are some 600."""
    fields = [("values", msgspec.Raw, _NO_VALUES)]
    return msgspec.msgpack.Decoder(msgspec.defstruct("Values", fields, rename={"values": name})).decode


class Keeping(Protocol):
    """Where records are that are too many to be held whole."""

    def whole(self, index: int) -> Normalized:
        """Return the record of an entry whole."""
        ...


class Normalized(msgspec.Struct, frozen=True):
    """One record in R4 with canonical ids, ready to be versioned and sealed.

    Attributes:
        content: R4 JSON without ``meta.versionId`` and ``meta.lastUpdated``; starts
            ``{"resourceType":…,"id":…,"meta":{`` and ``stamp_at`` is the offset right
            after that brace, where :func:`stamped` puts both. Empty for a deletion.
        row: Index row with ``version`` empty and ``last_updated_us`` 0 until stamped.
        identifiers: ``system|value`` of a Patient's identifiers (record numbers), for the
            institution's own look-up; empty for other types.
        lineage: JSON bytes of the changes (``[{element, before, after, rule, reason, sources?, table?}]``).
        kept: Set for a slim record, which has neither ``original``, ``content`` nor ``lineage``, and of ``row`` what
            the ingest line decides by; :attr:`whole` is the record itself.
    """

    index: int
    interaction: Interaction
    chart: ChartRef
    type: str
    id: str
    local_id: str
    original: bytes
    content: bytes
    stamp_at: int
    row: IndexRow
    identifiers: tuple[str, ...]
    lineage: bytes
    ruleset: str
    flags: tuple[Issue, ...] = ()
    kept: Keeping | None = None

    @property
    def whole(self) -> Normalized:
        """The record with everything that belongs to it."""
        return self if self.kept is None else self.kept.whole(self.index)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One entry our rules cannot convert yet: kept sealed, counted, never passed off as converted."""

    index: int
    interaction: Interaction
    original: bytes
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial on one message: names, paths, codes and counts, no values.

    Attributes:
        entries: Entries of the message.
        worse: Those of them that only the rules in force take.
        is_used: The message was made by the candidate.
        failed: Class of the exception that the candidate raised; empty for none.
        differences: ``(what, rule, path, code)`` and how often.
    """

    ruleset: str
    entries: int
    worse: int
    is_used: bool
    failed: str = ""
    differences: tuple[tuple[tuple[str, str, str, str], int], ...] = ()


@dataclass(frozen=True, slots=True)
class Processed:
    """A message after the pure rooms: what to store, what to quarantine, what to refuse.

    ``sets`` is the hex digest of the value sets that labelled the records; empty for what no set labels.
    ``wanted`` are identifiers, ``system|value``, of conditional references to Patients that no entry is.
    ``opened`` is the message as it was inside its wrapping, ``signed`` whose signature it bears.
    ``rules`` is the hash of the pack that made the records, empty for what no pack made; ``tried`` what a trial
    found.
    """

    kind: str
    records: Sequence[Normalized] = ()
    quarantined: tuple[Quarantined, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    refused: tuple[Issue, ...] = ()
    sets: str = ""
    wanted: tuple[str, ...] = ()
    opened: Received | None = None
    signed: Signed | None = None
    rules: str = ""
    tried: Tried | None = None


class Sealed(msgspec.Struct, frozen=True):
    """What may leave memory: three envelopes and a commitment.

    ``lineage`` and ``original`` hold what normalisation removed, so they are
    opened only for those who may see every record they name.
    """

    chart: str
    id: str
    version: str
    normalised: bytes
    original: bytes
    lineage: bytes
    commitment: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What became of one entry, for the transaction-response and the summary.

    ``status`` is an HTTP status line such as ``201 Created``; ``version`` and
    ``last_updated`` are set for what was stored or already there.
    """

    index: int
    status: str
    type: str = ""
    id: str = ""
    version: str = ""
    last_updated: datetime | None = None
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True, slots=True)
class Anchored:
    """A message whose records are durable and anchored at ``height``; ``kind`` as in :class:`Reception`.

    ``status`` is the HTTP status line of a message that is ``refused`` as a whole.
    ``elsewhere`` is set where that is because its criteria match another record than
    it is about: the id of that record, empty for none.
    """

    kind: str
    outcomes: tuple[Outcome, ...]
    height: int | None
    refused: tuple[Issue, ...] = ()
    dead_letters: tuple[str, ...] = ()
    status: str = "400 Bad Request"
    elsewhere: str | None = None


def stamped(record: Normalized, *, version: str, last_updated: datetime) -> bytes:
    """Return the exact bytes that are committed, stored and served.

    Args:
        version: ``meta.versionId``.
        last_updated: Aware UTC instant; written with millisecond precision and ``Z``.
    """
    stamp = f'"versionId":"{version}","lastUpdated":"{instant(last_updated)}"'.encode()
    head, tail = record.content[: record.stamp_at], record.content[record.stamp_at :]
    return head + stamp + (b"" if tail.startswith(b"}") else b",") + tail


@lru_cache(maxsize=16)
def instant(moment: datetime) -> str:
    """Write an aware UTC datetime as a FHIR instant with milliseconds; all records of a commit have the same."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
