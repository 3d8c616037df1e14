"""A verifier's policy, as JSON or as C2SP tlog-policy text, and whether a checkpoint meets it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from tests.support.second_verifier.cbor import Value
from tests.support.second_verifier.entries import Transaction
from tests.support.second_verifier.hashes import SIGNATURE_LENGTHS
from tests.support.second_verifier.notes import Note, NoteKey, check_origin, from_decimal, parse_vkey, signed_times
from tests.support.second_verifier.refusal import Refused, require
from tests.support.second_verifier.spellings import list_of, number_of, text_of

MAX_POLICY = 1_048_576
MAX_GROUPS = 128
MAX_AHEAD = timedelta(minutes=5)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
OLDEST = -1
"""Time of a line that claims none, so that it sorts before every other."""

FIRST_FIELDS = ["format", "origin", "log_keys"]
ROLE_FIELDS = ["witnesses", "quorum", "replaying", "replaying_quorum", "validators"]
FIELDS = {*FIRST_FIELDS, *ROLE_FIELDS, "network", "members", "oldest_checkpoint", "max_age_ms"}


@dataclass(frozen=True, slots=True)
class Group:
    """``needed`` of these names and groups."""

    needed: int
    of: tuple["str | Group", ...]

    def time(self, times: dict[str, int]) -> int | None:
        """The latest time that as many as needed stand behind; None if too few signed."""
        found = [times.get(each) if isinstance(each, str) else each.time(times) for each in self.of]
        latest = sorted((time for time in found if time is not None), reverse=True)
        return latest[self.needed - 1] if len(latest) >= self.needed else None


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom a verifier trusts; ``roles`` pairs the word of each role asked for with its group, weakest first."""

    origin: str
    log_keys: tuple[NoteKey, ...]
    cosigners: tuple[NoteKey, ...]
    roles: tuple[tuple[str, Group], ...]
    network: bytes | None = None
    members: frozenset[bytes] | None = None
    oldest: datetime | None = None
    max_age_ms: int | None = None


def judge(policy: Policy, note: Note, transactions: Sequence[Transaction], now: datetime) -> tuple[str, int | None]:
    """The word that stands behind a checkpoint, and the time in seconds; Refused where the policy is unmet."""
    require(note.origin == policy.origin, "a checkpoint of another log")
    for transaction in transactions:
        require(policy.network in (None, transaction.network), "a transaction of another network")
        require(policy.members is None or transaction.signer in policy.members, "a signer the policy does not accept")
    times = signed_times(note, (*policy.log_keys, *policy.cosigners))
    for kind in {key.type for key in policy.log_keys}:
        require(any(key.type == kind and key in times for key in policy.log_keys), "the log did not sign")
    word, time = _time(policy, times)
    _check_age(policy, time, now)
    return word, time


def _time(policy: Policy, times: dict[NoteKey, int | None]) -> tuple[str, int | None]:
    if not policy.roles:
        said = [time for key in policy.log_keys if (time := times.get(key)) is not None]
        return "operator-attested", max(said, default=None)
    names: dict[str, int] = {}
    for key in policy.cosigners:
        if key in times:
            time = times[key]
            names[key.name] = max(names.get(key.name, OLDEST), OLDEST if time is None else time)
    found = []
    for word, group in policy.roles:
        behind = group.time(names)
        if behind is None:
            raise Refused(f"the policy asks for more: {word}")
        found.append(behind)
    earliest = min(found)
    return policy.roles[-1][0], None if earliest == OLDEST else earliest


def _check_age(policy: Policy, time: int | None, now: datetime) -> None:
    if time is None:
        require(policy.oldest is None and policy.max_age_ms is None, "an age limit, and no time")
        return
    moment = time * 1_000_000
    require(moment <= _micros(now + MAX_AHEAD), "a time in the future")
    require(policy.oldest is None or moment >= _micros(policy.oldest), "older than the oldest accepted")
    if policy.max_age_ms is not None:
        require(_micros(now) - moment <= policy.max_age_ms * 1000, "too old")


def _micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def read_policy(text: str) -> Policy:
    require(len(text) <= MAX_POLICY, "the policy is too long")
    return _read_json(text) if text.lstrip().startswith("{") else _read_text(text)


def _unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    require(len({name for name, _ in pairs}) == len(pairs), "a field twice")
    return dict(pairs)


def _read_json(text: str) -> Policy:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refused("a policy that is not JSON") from error
    require(isinstance(value, dict) and set(value) <= FIELDS, "a policy with unknown fields")
    require(all(name in value for name in FIRST_FIELDS), "a policy without its first three fields")
    require(value["format"] == "ledger-core/policy/v1", "a policy of another format")
    log_keys = _keys(value["log_keys"])
    witnesses, replaying, validators = (
        _keys(value.get(role, [])) for role in ("witnesses", "replaying", "validators")
    )
    roles = (
        ("witnessed", _quorum(value.get("quorum", 0), witnesses)),
        ("replayed", _count(value.get("replaying_quorum", 0), replaying)),
        ("quorum", _two_thirds(validators)),
    )
    _check_names(text_of(value["origin"]), log_keys, witnesses, replaying, validators)
    network, members = value.get("network"), value.get("members")
    oldest, max_age = value.get("oldest_checkpoint"), value.get("max_age_ms")
    return Policy(
        value["origin"],
        log_keys,
        witnesses + replaying + validators,
        tuple((word, group) for word, group in roles if group is not None),
        None if network is None else _hex(network, 32),
        None if members is None else frozenset(_hex(each, *SIGNATURE_LENGTHS) for each in list_of(members)),
        None if oldest is None else _moment(text_of(oldest)),
        None if max_age is None else _age(max_age),
    )


def _keys(value: Value) -> tuple[NoteKey, ...]:
    return tuple(parse_vkey(text_of(each)) for each in list_of(value))


def _names(keys: Sequence[NoteKey]) -> tuple[str, ...]:
    return tuple(sorted({key.name for key in keys}))


def _count(value: Value, keys: Sequence[NoteKey]) -> Group | None:
    names, needed = _names(keys), number_of(value)
    require(needed <= len(names), "a quorum larger than its names")
    return Group(needed, names) if needed else None


def _two_thirds(keys: Sequence[NoteKey]) -> Group | None:
    names = _names(keys)
    return Group(2 * len(names) // 3 + 1, names) if names else None


def _quorum(value: Value, keys: Sequence[NoteKey]) -> Group | None:
    if not isinstance(value, dict):
        return _count(value, keys)
    seen: list[str] = []
    group = _group(value, set(_names(keys)), seen)
    require(len(set(seen)) == len(seen), "a name twice in a group")
    return group


def _group(value: dict[str, Value], names: set[str], seen: list[str], depth: int = 1) -> Group:
    require(depth <= MAX_GROUPS, "groups nested too deeply")
    require(set(value) == {"needed", "of"}, "a group with other fields")
    of: list[str | Group] = []
    for each in list_of(value["of"]):
        if isinstance(each, dict):
            of.append(_group(each, names, seen, depth + 1))
        else:
            require(text_of(each) in names, "a group of somebody unknown")
            seen.append(text_of(each))
            of.append(text_of(each))
    needed = number_of(value["needed"])
    require(1 <= needed <= len(of), "a group that needs none or too many")
    return Group(needed, tuple(of))


def _check_names(origin: str, log_keys: Sequence[NoteKey], *roles: Sequence[NoteKey]) -> None:
    check_origin(origin)
    require(len(log_keys) > 0 and all(key.name == origin for key in log_keys), "log keys named otherwise, or none")
    require(all(key.type in (4, 6) for key in chain(*roles)), "a cosigner's key of another type")
    names = [origin, *chain.from_iterable(_names(role) for role in roles)]
    require(len(set(names)) == len(names), "a name in two roles")
    require(len(set(chain(log_keys, *roles))) == len(list(chain(log_keys, *roles))), "a key named twice")
    owners: dict[bytes, str] = {}
    for key in chain(log_keys, *roles):
        require(owners.setdefault(key.public, key.name) == key.name, "a public key under two names")


def _hex(value: Value, *lengths: int) -> bytes:
    text = text_of(value)
    require(len(text) in [2 * length for length in lengths], "hex of another length")
    require(set(text) <= set("0123456789abcdef"), "not hex in lower case")
    return bytes.fromhex(text)


def _age(value: Value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused("an age that is no number")
    return value


def _moment(text: str) -> datetime:
    require(RFC3339.fullmatch(text) is not None, "a time of another form")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Refused("no time of the calendar") from error


def _read_text(text: str) -> Policy:
    require(
        not any((letter < " " and letter not in "\t\n") or letter == "\x7f" for letter in text), "a control character"
    )
    require(not any("\ud800" <= letter <= "\udfff" for letter in text), "a lone surrogate")
    log_keys: list[NoteKey] = []
    witnesses: list[NoteKey] = []
    known: dict[str, str | Group | None] = {"none": None}
    used: set[str] = {"none"}
    quorums: list[str | Group | None] = []
    for line in text.split("\n"):
        items = line.replace("\t", " ").split(" ")
        items = [item for item in items if item]
        if not items or items[0].startswith("#"):
            continue
        word, *rest = items
        if word == "log":
            require(1 <= len(rest) <= 2, "a log line of another form")
            log_keys.append(parse_vkey(rest[0]))
        elif word == "witness":
            require(2 <= len(rest) <= 3 and rest[0] not in known, "a witness line of another form, or a name twice")
            witnesses.append(parse_vkey(rest[1]))
            known[rest[0]] = witnesses[-1].name
        elif word == "group":
            require(len(rest) >= 3 and rest[0] not in known, "a group line of another form, or a name twice")
            known[rest[0]] = _text_group(rest[1], rest[2:], known, used)
        else:
            require(word == "quorum" and len(rest) == 1 and rest[0] in known, "an unknown line or name")
            quorums.append(known[rest[0]])
    require(sum(isinstance(each, Group) for each in known.values()) <= MAX_GROUPS, "too many groups")
    return _text_policy(log_keys, witnesses, quorums)


def _text_group(needed: str, names: list[str], known: dict[str, str | Group | None], used: set[str]) -> Group:
    of: list[str | Group] = []
    for name in names:
        each = known.get(name)
        if each is None or name in used:
            raise Refused("a group member that is unknown or used before")
        used.add(name)
        of.append(each)
    if needed in ("all", "any"):
        return Group(len(of) if needed == "all" else 1, tuple(of))
    number = from_decimal(needed)
    require(1 <= number <= len(of), "a group that needs none or too many")
    return Group(number, tuple(of))


def _text_policy(log_keys: list[NoteKey], witnesses: list[NoteKey], quorums: list[str | Group | None]) -> Policy:
    require(len(quorums) == 1 and len(log_keys) > 0, "no quorum, several, or no log")
    for keys in (log_keys, witnesses):
        require(len({key.public for key in keys}) == len(keys), "a public key twice")
    require(len({key.type for key in log_keys}) == 1, "log keys of several types")
    require(len(_names(witnesses)) == len(witnesses), "two witnesses under one key name")
    _check_names(log_keys[0].name, log_keys, witnesses)
    asked = Group(1, (quorums[0],)) if isinstance(quorums[0], str) else quorums[0]
    roles = () if asked is None else (("witnessed", asked),)
    return Policy(log_keys[0].name, tuple(log_keys), tuple(witnesses), roles)
