"""Whose signature counts: edge cases of Ed25519 with and without libsodium, ML-DSA-44, suites by key length.

The second definition of Ed25519 here is written from RFC 8032 section 5.1 with
plain integers: slow, and plainly without the cofactor.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache

import pytest

from ledger_core.errors import OpeningRefused, SignatureInvalid
from ledger_core.keys import (
    SUITE_ED25519,
    SUITE_ML_DSA_44,
    Identity,
    accepts_cofactor,
    is_signed,
    is_weak,
    verify_signature,
)
from ledger_core.machine import Genesis, begin
from ledger_core.payloads import Join, Rejection, payload_map, read_payload

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]
ZERO: Point = (0, 1)


def x_of(y: int, sign: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return P - x if x & 1 != sign and x else x


def add(one: Point, two: Point) -> Point:
    product = D * one[0] * two[0] * one[1] * two[1] % P
    x = (one[0] * two[1] + two[0] * one[1]) * pow(1 + product, -1, P)
    y = (one[1] * two[1] + one[0] * two[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def times(number: int, point: Point) -> Point:
    total = ZERO
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def packed(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def unpacked(data: bytes) -> Point | None:
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    x = x_of(y % P, sign)
    return None if x is None else (x, y % P)


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE: Point = (x_of(BASE_Y, 0) or 0, BASE_Y)


def torsion() -> Point:
    """Find a point of order 8."""
    for y in range(2, 100):
        x = x_of(y, 0)
        if x is not None:
            point = times(L, (x, y))
            if times(4, point) != ZERO:
                return point
    raise AssertionError("there are such points")


EIGHT = torsion()


@lru_cache(maxsize=1024)
def holds(key: bytes, message: bytes, signature: bytes, *, cofactor: int = 1) -> bool:
    """RFC 8032 section 5.1.7, without the cofactor unless asked: R = [S]B - [k]A, as bytes."""
    point, s = unpacked(key), int.from_bytes(signature[32:], "little")
    if point is None or s >= L:
        return False
    k = challenge(signature[:32], key, message)
    expected = add(times(s, BASE), times(L * 8 - k % (L * 8), point))
    if cofactor == 1:
        return packed(expected) == signature[:32]
    given = unpacked(signature[:32])
    return given is not None and times(cofactor, expected) == times(cofactor, given)


def crafted(message: bytes, key_part: Point, r_part: Point) -> tuple[bytes, bytes, bytes]:
    """Sign with a key and an R that carry these small-order parts."""
    secret, nonce = 1234567890123456789, 987654321987654321
    key = packed(add(times(secret, BASE), key_part))
    r = packed(add(times(nonce, BASE), r_part))
    s = (nonce + challenge(r, key, message) * secret) % L
    return key, message, r + s.to_bytes(32, "little")


def edge_cases() -> Iterator[tuple[bytes, bytes, bytes]]:
    for number in range(4):
        message = bytes([number])
        yield crafted(message, ZERO, ZERO)
        yield crafted(message, EIGHT, ZERO)
        yield crafted(message, ZERO, EIGHT)
        yield crafted(message, EIGHT, times(7, EIGHT))
        for order in range(8):
            small = packed(times(order, EIGHT))
            # Small-order keys: S = 0 and a small R pass for some message without the cofactor.
            yield small, message, packed(times(order * number, EIGHT)) + bytes(32)
            yield small, message, small + bytes(32)
    key, message, signature = crafted(b"m", ZERO, ZERO)
    s = int.from_bytes(signature[32:], "little")
    yield key, message, signature[:32] + (s + L).to_bytes(32, "little")
    yield key, message, signature[:32] + (2**256 - 1).to_bytes(32, "little")
    # y = 1 and y = 0 spelled as y + p, with either sign bit: second spellings of small-order points.
    for y in (P, P + 1):
        for sign in (0, 1):
            spelled = (y | sign << 255).to_bytes(32, "little")
            for message in (b"a", b"b", b"c", b"d", b"e"):
                yield spelled, message, packed(ZERO) + bytes(32)
                yield spelled, message, spelled + bytes(32)
                yield key, message, spelled + bytes(32)
    yield (2).to_bytes(32, "little"), b"off the curve", bytes(64)


CASES = sorted(set(edge_cases()))


def test_the_edge_cases_have_teeth() -> None:
    verdicts = {(holds(*case), holds(*case, cofactor=8)) for case in CASES}
    assert verdicts == {(True, True), (False, True), (False, False)}
    small = [key for key, message, signature in CASES if times(8, unpacked(key) or BASE) == ZERO]
    assert any(holds(key, message, sig) for key, message, sig in CASES if key in small)


@pytest.mark.parametrize("case", CASES, ids=lambda case: hashlib.sha256(b"".join(case)).hexdigest()[:8])
def test_ed25519_is_verified_without_the_cofactor(case: tuple[bytes, bytes, bytes]) -> None:
    assert is_signed(*case) == holds(*case)


_PROGRAM = """
import sys
if sys.argv[1] == "without":
    sys.modules["nacl"] = None
    sys.modules["nacl.bindings"] = None
from ledger_core.keys import is_signed, _libsodium
assert (_libsodium() is None) == (sys.argv[1] == "without")
for line in sys.stdin:
    key, message, signature = (bytes.fromhex(part) for part in line.rstrip("\\n").split(","))
    print(int(is_signed(key, message, signature)), end="")
"""


@pytest.mark.parametrize("sodium", ["with", "without"])
def test_verdicts_do_not_depend_on_libsodium(sodium: str) -> None:
    if sodium == "with":
        pytest.importorskip("nacl.bindings")
    lines = "\n".join(",".join(part.hex() for part in case) for case in CASES)
    run = [sys.executable, "-W", "error", "-c", _PROGRAM, sodium]
    found = subprocess.run(run, input=lines, capture_output=True, text=True, check=True).stdout
    assert found == "".join(str(int(holds(*case))) for case in CASES)


def test_a_verifier_with_the_cofactor_would_be_noticed() -> None:
    def with_cofactor(key: bytes, message: bytes, signature: bytes) -> bool:
        return holds(key, message, signature, cofactor=8)

    assert accepts_cofactor(with_cofactor)
    assert not accepts_cofactor(holds)


@pytest.mark.parametrize(("suite", "key", "signature"), [(SUITE_ED25519, 32, 64), (SUITE_ML_DSA_44, 1312, 2420)])
def test_the_length_of_a_key_tells_its_suite(suite: int, key: int, signature: int) -> None:
    identity = Identity.generate(suite)
    signed = identity.sign(b"message")
    assert (identity.suite, len(identity.public), len(signed)) == (suite, key, signature)
    verify_signature(identity.public, b"message", signed)
    again = Identity.from_private_bytes(identity.private_bytes(), suite)
    assert again == identity
    assert len({again, identity}) == 1
    assert identity.private_bytes().hex() not in repr(identity)


@pytest.mark.parametrize("suite", [SUITE_ED25519, SUITE_ML_DSA_44])
def test_a_signature_of_another_message_key_or_length_is_refused(suite: int) -> None:
    identity, other = Identity.generate(suite), Identity.generate(suite)
    signed = identity.sign(b"message")
    turned = bytes([signed[0] ^ 1]) + signed[1:]
    for key, message, signature in [
        (identity.public, b"messagf", signed),
        (other.public, b"message", signed),
        (identity.public, b"message", turned),
        (identity.public, b"message", signed[:-1]),
        (identity.public, b"message", signed + b"\0"),
        (identity.public[:-1], b"message", signed),
        (b"", b"message", b""),
    ]:
        assert not is_signed(key, message, signature)
        with pytest.raises(SignatureInvalid):
            verify_signature(key, message, signature)


def test_a_signature_of_one_suite_is_none_of_the_other() -> None:
    old, new = Identity.generate(SUITE_ED25519), Identity.generate(SUITE_ML_DSA_44)
    assert not is_signed(old.public, b"m", new.sign(b"m"))
    assert not is_signed(new.public, b"m", old.sign(b"m"))


@pytest.mark.parametrize("suite", [0, 3, -1])
def test_an_unknown_suite_makes_no_identity(suite: int) -> None:
    with pytest.raises(ValueError, match="unknown signature suite"):
        Identity.generate(suite)
    with pytest.raises(ValueError, match="unknown signature suite"):
        Identity.from_private_bytes(bytes(32), suite)


@pytest.mark.parametrize("suite", [SUITE_ED25519, SUITE_ML_DSA_44])
def test_a_seed_of_another_length_makes_no_identity(suite: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Identity.from_private_bytes(bytes(31), suite)


def test_every_spelling_of_a_small_order_point_is_a_weak_key_and_no_other() -> None:
    small = {times(number, EIGHT) for number in range(8)}
    assert len(small) == 8
    spellings = {y | sign << 255 for _, least in small for y in (least, least + P) if y < 2**255 for sign in (0, 1)}
    assert all(is_weak(number.to_bytes(32, "little")) for number in spellings)
    near = {number ^ 1 << bit for number in spellings for bit in range(256)} - spellings
    assert not any(is_weak(number.to_bytes(32, "little")) for number in near)
    assert not any(is_weak(Identity.from_private_bytes(bytes([n]) * 32).public) for n in range(100))


@pytest.mark.parametrize("number", range(8))
def test_a_key_that_anybody_can_sign_under_gets_no_seat(number: int) -> None:
    weak = packed(times(number, EIGHT))
    content = payload_map(Join(weak, "anybody"))
    assert read_payload(Join.kind, content) == Rejection.PAYLOAD_INVALID
    assert isinstance(read_payload(Join.kind, {**content, "key": Identity.generate().public}), Join)
    with pytest.raises(OpeningRefused):
        begin(Genesis("test.example/ledger", weak))
