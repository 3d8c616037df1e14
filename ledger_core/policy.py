"""Whom a verifier trusts for what, and how fresh it wants the proof; comes from elsewhere than the receipt.

A policy is a small file that an auditor or hospital gets once, by a way it
trusts, and keeps. Everything in it narrows: a member left out is not trusted,
and every role with a quorum must be met.

The full form is JSON; ``log_keys`` and the three lists of cosigners hold C2SP
verifier keys, all but the first three fields may be left out:

    {
      "format": "ledger-core/policy/v1",
      "origin": "north.example/ledger",
      "log_keys": ["north.example/ledger+…+…", …],
      "witnesses": [], "quorum": 0,
      "replaying": [], "replaying_quorum": 0,
      "validators": [],
      "network": null, "members": null,
      "oldest_checkpoint": null, "max_age_ms": null
    }

The other form is a C2SP tlog-policy text (``log``, ``witness``, ``group`` and
``quorum`` lines). It knows plain witnesses only.

Invariants:
    * a cosigner is a name; two keys under one name count once;
    * no name and no key stands in two roles, the log's own included.
"""

import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypeVar

from ledger_core.checkpoint import NOTE_ED25519, NoteKey, check_origin, cosigner_key, log_key, parse_vkey
from ledger_core.errors import NoteInvalid, PolicyInvalid
from ledger_core.hashing import HASH_BYTES
from ledger_core.keys import SIGNATURE_SUITES

FORMAT: Final = "ledger-core/policy/v1"
MAX_POLICY_BYTES: Final = 1_048_576
MAX_GROUPS: Final = 128

_T = TypeVar("_T")

_FIELDS: Final = (
    "format",
    "origin",
    "log_keys",
    "witnesses",
    "quorum",
    "replaying",
    "replaying_quorum",
    "validators",
    "network",
    "members",
    "oldest_checkpoint",
    "max_age_ms",
)
# Lone surrogates too: they cannot be written as UTF-8.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Group:
    """At least ``needed`` of ``of`` must have cosigned; each is a cosigner's name or a group."""

    needed: int
    of: "tuple[str | Group, ...]"

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= len(self.of):
            raise PolicyInvalid("a group needs at least one and at most all of its members")

    def names(self) -> list[str]:
        """Return every name in the group and the groups inside it, repeats included."""
        return [name for item in self.of for name in ([item] if isinstance(item, str) else item.names())]


Quorum: TypeAlias = int | Group


@dataclass(frozen=True, slots=True)
class Policy:
    """Keys, quorums and freshness that a receipt must meet.

    ``log_keys`` sign checkpoints; one of each type named must have signed.
    ``witnesses`` say that the log only grew: ``quorum`` of them, or a group of
    groups. ``replaying`` witnesses have applied the machine and say so of the state
    too. ``validators`` ordered the blocks: more than two thirds of the names listed.
    ``oldest_checkpoint`` and ``max_age_ms`` speak of the time that those who are
    needed have signed.
    """

    origin: str
    log_keys: tuple[NoteKey, ...]
    witnesses: tuple[NoteKey, ...] = ()
    quorum: Quorum = 0
    network: bytes | None = None
    members: frozenset[bytes] | None = None
    oldest_checkpoint: datetime | None = None
    max_age_ms: int | None = None
    replaying: tuple[NoteKey, ...] = ()
    replaying_quorum: int = 0
    validators: tuple[NoteKey, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_origin(self.origin)
        except NoteInvalid as cause:
            raise PolicyInvalid(str(cause)) from cause
        if not self.log_keys or any(key.name != self.origin for key in self.log_keys):
            raise PolicyInvalid("log_keys need a key, all under the origin's name")
        cosigners = (*self.witnesses, *self.replaying, *self.validators)
        if any(key.type == NOTE_ED25519 for key in cosigners):
            raise PolicyInvalid("a witness or validator signs cosignatures: its key has type 4 or 6")
        _check_apart((self.log_keys, self.witnesses, self.replaying, self.validators))
        _check_quorum(self.quorum, self.witnesses)
        _check_quorum(self.replaying_quorum, self.replaying)

    @classmethod
    def for_log(cls, origin: str, public: bytes, *, network: bytes | None = None) -> "Policy":
        """Return the plainest policy: this log's Ed25519 key vouches, at any age."""
        return cls(origin, (log_key(origin, public), cosigner_key(origin, public)), network=network)

    @property
    def keys(self) -> tuple[NoteKey, ...]:
        """Every key whose signature on a checkpoint says something to this policy."""
        return (*self.log_keys, *self.witnesses, *self.replaying, *self.validators)

    def witness_group(self) -> Group | None:
        """Return which witnesses must have cosigned, or None if none need to."""
        return self.quorum if isinstance(self.quorum, Group) else _any_of(self.quorum, self.witnesses)

    def replaying_group(self) -> Group | None:
        """Return which replaying witnesses must have cosigned, or None if none need to."""
        return _any_of(self.replaying_quorum, self.replaying)

    def validator_group(self) -> Group | None:
        """Return more than two thirds of the validators, or None if there are none."""
        count = len({key.name for key in self.validators})
        return _any_of(count * 2 // 3 + 1, self.validators) if count else None

    def encode(self) -> str:
        """Return the policy as the text of a policy file (JSON)."""
        oldest = self.oldest_checkpoint
        content = {
            "format": FORMAT,
            "origin": self.origin,
            "log_keys": [key.vkey() for key in self.log_keys],
            "witnesses": [key.vkey() for key in self.witnesses],
            "quorum": _write_quorum(self.quorum),
            "replaying": [key.vkey() for key in self.replaying],
            "replaying_quorum": self.replaying_quorum,
            "validators": [key.vkey() for key in self.validators],
            "network": None if self.network is None else self.network.hex(),
            "members": None if self.members is None else sorted(key.hex() for key in self.members),
            "oldest_checkpoint": None if oldest is None else oldest.astimezone(UTC).isoformat(),
            "max_age_ms": self.max_age_ms,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def decode(cls, text: str) -> "Policy":
        """Read a policy file, JSON or C2SP tlog-policy; unknown fields and lines are refused.

        Raises:
            PolicyInvalid: Malformed, contradictory, or with something this version does not know.
        """
        if len(text) > MAX_POLICY_BYTES:
            raise PolicyInvalid("a policy is at most 1 MiB")
        return _read_json(text) if text.lstrip().startswith(("{", "[", '"')) else _read_text(text)


def _check_apart(roles: Sequence[Sequence[NoteKey]]) -> None:
    """One public key has one name, and one name has one role."""
    name_of: dict[bytes, str] = {}
    role_of: dict[str, int] = {}
    for role, keys in enumerate(roles):
        for key in keys:
            if name_of.setdefault(key.public, key.name) != key.name or role_of.setdefault(key.name, role) != role:
                raise PolicyInvalid("a key or name stands in two roles or under two names")
        if len({key.vkey() for key in keys}) != len(keys):
            raise PolicyInvalid("a key is named twice")


def _check_quorum(quorum: Quorum, keys: Sequence[NoteKey]) -> None:
    known = {key.name for key in keys}
    if isinstance(quorum, int):
        if not 0 <= quorum <= len(known):
            raise PolicyInvalid("a quorum exceeds the distinct witnesses")
        return
    named = quorum.names()
    if len(set(named)) != len(named) or not set(named) <= known:
        raise PolicyInvalid("a group names a witness twice, or one that the policy does not list")


def _any_of(needed: int, keys: Sequence[NoteKey]) -> Group | None:
    return Group(needed, tuple(sorted({key.name for key in keys}))) if needed else None


def _write_quorum(quorum: Quorum | str) -> object:
    if not isinstance(quorum, Group):
        return quorum
    return {"needed": quorum.needed, "of": [_write_quorum(item) for item in quorum.of]}


def _read_json(text: str) -> Policy:
    try:
        content = json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError):
        raise PolicyInvalid("the policy is neither JSON nor lines of a tlog-policy") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PolicyInvalid("the policy has another format")
    if not content.keys() <= set(_FIELDS):
        raise PolicyInvalid("the policy has fields that this verifier does not know")
    return _read_fields(content)


def _read_fields(content: Mapping[str, object]) -> Policy:
    def read(name: str, reader: Callable[[object], _T], default: object = None) -> _T:
        try:
            return reader(content.get(name, default))
        except (TypeError, ValueError, OverflowError, NoteInvalid, PolicyInvalid) as cause:
            raise PolicyInvalid(f"field {name!r} of the policy is missing or malformed: {cause}") from cause

    return Policy(
        origin=read("origin", _text),
        log_keys=read("log_keys", _keys),
        witnesses=read("witnesses", _keys, []),
        quorum=read("quorum", _read_quorum, 0),
        network=read("network", _network),
        members=read("members", _members),
        oldest_checkpoint=read("oldest_checkpoint", _time),
        max_age_ms=read("max_age_ms", _age),
        replaying=read("replaying", _keys, []),
        replaying_quorum=read("replaying_quorum", _count, 0),
        validators=read("validators", _keys, []),
    )


def _read_quorum(value: object, depth: int = 1) -> Quorum:
    if not isinstance(value, dict):
        return _count(value)
    if value.keys() != {"needed", "of"} or not isinstance(value["of"], list) or depth > MAX_GROUPS:
        raise TypeError(f"a group of needed and of expected, at most {MAX_GROUPS} deep")
    members: list[str | Group] = []
    for item in value["of"]:
        inner = item if isinstance(item, str) else _read_quorum(item, depth + 1)
        if isinstance(inner, int):
            raise TypeError("a name or group expected")
        members.append(inner)
    return Group(_count(value["needed"]), tuple(members))


def _keys(value: object) -> tuple[NoteKey, ...]:
    return tuple(parse_vkey(item) for item in _texts(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text expected")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("a list expected")
    return [_text(item) for item in value]


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a whole number expected, 0 or more")
    return value


def _age(value: object) -> int | None:
    return None if value is None else _count(value)


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    text = _text(value)
    if not _TIME.fullmatch(text):
        raise ValueError("a time looks like 2026-11-23T20:00:00Z or 2026-11-23T21:00:00.5+01:00")
    return datetime.fromisoformat(text).astimezone(UTC)


def _network(value: object) -> bytes | None:
    return None if value is None else _hex(value, {HASH_BYTES})


def _members(value: object) -> frozenset[bytes] | None:
    return None if value is None else frozenset(_hex(item, SIGNATURE_SUITES) for item in _texts(value))


def _hex(value: object, lengths: Container[int]) -> bytes:
    text = _text(value)
    # Not bytes.fromhex alone: it passes over white space.
    if not _HEX.fullmatch(text) or len(text) // 2 not in lengths:
        raise ValueError("lower-case hex of a known length expected")
    return bytes.fromhex(text)


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("repeated field")
    return content


class _Lines:
    """A C2SP tlog-policy being read line by line; URLs are allowed and mean nothing here."""

    def __init__(self) -> None:
        self.logs: list[NoteKey] = []
        self.witnesses: list[NoteKey] = []
        self.quorum: Quorum | None = None
        self._named: dict[str, str | Group] = {}
        self._used: set[str] = set()
        self._groups = 0

    def take(self, words: Sequence[str]) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self.logs.append(_vkey(vkey))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                key = _vkey(vkey)
                self.witnesses.append(key)
                self._define(name, key.name)
            case ["group", name, needed, *members]:
                self._define(name, self._group(needed, members))
            case ["quorum", name] if self.quorum is None:
                self.quorum = self._as_quorum(name)
            case _:
                raise PolicyInvalid("a line of the policy is malformed, unknown or a second quorum")

    def _define(self, name: str, meaning: "str | Group") -> None:
        if name == "none" or name in self._named:
            raise PolicyInvalid("a name of the policy is defined twice or reserved")
        self._named[name] = meaning

    def _group(self, needed: str, members: Sequence[str]) -> Group:
        self._groups += 1
        if self._groups > MAX_GROUPS:
            raise PolicyInvalid(f"a policy has at most {MAX_GROUPS} groups")
        for name in members:
            if name in self._used or name not in self._named:
                raise PolicyInvalid("a group member is not defined yet, or is in a group already")
            self._used.add(name)
        least = {"any": 1, "all": len(members)}.get(needed)
        if least is None:
            least = int(needed) if _NUMBER.fullmatch(needed) else 0
        return Group(least, tuple(self._named[name] for name in members))

    def _as_quorum(self, name: str) -> Quorum:
        if name == "none":
            return 0
        if name not in self._named:
            raise PolicyInvalid("the quorum is not defined yet")
        meaning = self._named[name]
        return Group(1, (meaning,)) if isinstance(meaning, str) else meaning


def _read_text(text: str) -> Policy:
    if _CONTROL.search(text):
        raise PolicyInvalid("the policy holds control characters")
    lines = _Lines()
    for line in text.split("\n"):
        words = [word for word in re.split("[ \t]+", line) if word]
        if words and not words[0].startswith("#"):
            lines.take(words)
    if lines.quorum is None:
        raise PolicyInvalid("the policy has no quorum line")
    if len({key.name for key in lines.logs}) != 1:
        raise PolicyInvalid("the policy must name exactly one log: a receipt is judged against one origin")
    if len({key.type for key in lines.logs}) != 1:
        # A tlog-policy is content with any one of its logs, this ledger's policies ask for one key of each type.
        raise PolicyInvalid("log keys of several types: say in the JSON form which must have signed")
    if len({key.name for key in lines.witnesses}) != len(lines.witnesses):
        raise PolicyInvalid("two witnesses have one key name: say in the JSON form how they count")
    return Policy(lines.logs[0].name, tuple(lines.logs), tuple(lines.witnesses), lines.quorum)


def _vkey(text: str) -> NoteKey:
    try:
        return parse_vkey(text)
    except NoteInvalid as cause:
        raise PolicyInvalid("a verifier key of the policy is malformed or of an unknown type") from cause
