"""Forms of what the ledger encodes: keys, numbers, names, payloads and state values."""

from collections.abc import Callable, Sequence

from tests.support.second_verifier.cbor import Value, decode
from tests.support.second_verifier.hashes import (
    BATCH_TREE_SUITES,
    DIGEST_SUITES,
    SIGNATURE_LENGTHS,
    STATE_TREE_SUITES,
    SUITES_OF_USE,
    is_small,
)
from tests.support.second_verifier.refusal import Refused, require

Form = Callable[[Value], bool]

_NEVER_IN_A_NAME = frozenset(
    {
        *range(0x001F + 1),
        *range(0x007F, 0x009F + 1),
        *(0x00AD, 0x061C, 0x180E, 0xFEFF, 0xFFFE, 0xFFFF),
        *range(0x200B, 0x200F + 1),
        *range(0x2028, 0x202E + 1),
        *range(0x2060, 0x206F + 1),
        *range(0xD800, 0xDFFF + 1),
        *range(0xFFF9, 0xFFFB + 1),
        *range(0xE0000, 0xE0FFF + 1),
    }
)
"""Code points of the formats page, Names and numbers: what no name of a network or member has."""


def is_number(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def is_positive(value: Value) -> bool:
    return is_number(value) and value != 0


def is_hash(value: Value) -> bool:
    return isinstance(value, bytes) and len(value) == 32


def is_key(value: Value) -> bool:
    return isinstance(value, bytes) and len(value) in SIGNATURE_LENGTHS and not is_small(value)


def is_name(value: Value) -> bool:
    if not isinstance(value, str) or not _NEVER_IN_A_NAME.isdisjoint(map(ord, value)):
        return False
    return 1 <= len(value.encode("utf-8")) <= 200


def is_threshold(value: Value) -> bool:
    return is_number(value) and isinstance(value, int) and 1 <= value <= 16


def is_flag(value: Value) -> bool:
    return isinstance(value, bool)


def is_status(value: Value) -> bool:
    return value in ("active", "rotated", "left")


def is_use(value: Value) -> bool:
    return isinstance(value, str) and value in SUITES_OF_USE


def suite_of(suites: Sequence[int]) -> Form:
    return lambda value: is_number(value) and value in suites


def suites_of(suites: Sequence[int]) -> Form:
    def form(value: Value) -> bool:
        if not (isinstance(value, list) and value and all(is_number(item) and item in suites for item in value)):
            return False
        numbers = [item for item in value if isinstance(item, int)]
        return numbers == sorted(set(numbers))

    return form


def is_pair_of_numbers(value: Value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def is_share(value: Value) -> bool:
    return is_number(value) and isinstance(value, int) and value <= 10_000


CONSENT_CHANGE: dict[str, Form] = {"path": is_hash, "counter": is_positive, "list_hash": is_hash}
DIGEST: dict[str, Form] = {"digest": is_hash, "suite": suite_of(DIGEST_SUITES)}
ANY_SUITE: dict[str, Form] = {"use": is_use, "suite": is_number}

PAYLOADS: dict[tuple[str, str | None], dict[str, Form]] = {
    ("member", "join"): {"key": is_key, "name": is_name},
    ("member", "rotate"): {"key": is_key},
    ("member", "leave"): {"key": is_key},
    ("member", "threshold"): {"threshold": is_threshold},
    ("suite", "allow"): ANY_SUITE,
    ("suite", "retire"): ANY_SUITE,
    ("anchor", None): {"root": is_hash, "count": is_positive, "suite": suite_of(BATCH_TREE_SUITES)},
    ("consent", "open"): {"path": is_hash, "owner": is_key, "secret": is_hash},
    ("consent", "set"): CONSENT_CHANGE,
    ("consent", "owner"): {"path": is_hash, "counter": is_positive, "owner": is_key},
    ("consent", "restrict"): CONSENT_CHANGE,
    ("consent", "attest"): CONSENT_CHANGE,
    ("ruleset", None): DIGEST,
    ("ruleset", "use"): {**DIGEST, "institution": is_key, "author": is_key, "share": is_share},
    ("policy", None): DIGEST,
    ("access", None): {"epoch": is_number, "root": is_hash, "count": is_number},
}

VALUES: dict[str, tuple[Form, ...]] = {
    "config": (
        is_threshold,
        is_flag,
        is_pair_of_numbers,
        suite_of(STATE_TREE_SUITES),
        suites_of(SUITES_OF_USE["signature"]),
        suites_of(DIGEST_SUITES),
        suites_of(BATCH_TREE_SUITES),
    ),
    "member": (is_key, is_name, is_status, is_number),
    "consent": (is_key, is_key, is_hash, is_number, is_hash, is_number, is_hash, is_number),
    "ruleset": (is_key, suite_of(DIGEST_SUITES)),
    "policy": (is_key, suite_of(DIGEST_SUITES)),
    "access": (is_number, is_hash, is_number),
}


KEYS: dict[str, Form] = {
    "config": lambda key: key == b"",
    "member": is_key,
    "consent": is_hash,
    "ruleset": is_hash,
    "policy": is_hash,
    "access": is_key,
}


def check_payload(kind: str, payload: Value) -> dict[str, Value]:
    """Give the payload back if its fields are exactly those of its kind and op."""
    if not isinstance(payload, dict):
        raise Refused("a payload that is no map")
    op = payload.get("op")
    require(op is None or isinstance(op, str), "an op that is no text")
    forms = PAYLOADS.get((kind, op if isinstance(op, str) else None))
    if forms is None:
        raise Refused("unknown kind or op")
    expected = {*forms, "op"} if op is not None else set(forms)
    require(set(payload) == expected, "a payload with other fields")
    require(all(form(payload[name]) for name, form in forms.items()), "a payload field of another form")
    if kind == "suite":
        require(payload["suite"] in SUITES_OF_USE[str(payload["use"])], "an unknown suite")
    return payload


def read_value(kind: str, data: bytes) -> list[Value]:
    """The fields of a state value after its kind and version."""
    value = decode(data)
    if not isinstance(value, list):
        raise Refused("a state value that is no array")
    forms = VALUES[kind]
    require(len(value) == 2 + len(forms) and value[0] == kind, "a state value of another kind")
    require(is_number(value[1]) and value[1] == 1, "a state value of another version")
    fields = value[2:]
    require(all(form(field) for form, field in zip(forms, fields, strict=True)), "a state value of another form")
    return fields
