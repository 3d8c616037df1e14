"""Identities to the byte: RFC 8032 section 7.1, and what one identity is to another."""

import sys
from collections.abc import Iterator

import pytest

from ledger_core import keys
from ledger_core.errors import SignatureInvalid
from ledger_core.keys import (
    SIGNATURE_LENGTHS,
    SIGNATURE_SUITES,
    Identity,
    accepts_cofactor,
    is_signed,
    verify_signature,
)

# RFC 8032 section 7.1, tests 1 and 2: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_an_identity_is_that_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    identity = Identity.from_private_bytes(bytes.fromhex(seed))
    assert (identity.suite, identity.public.hex(), identity.private_bytes().hex()) == (1, public, seed)
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    assert is_signed(identity.public, bytes.fromhex(message), bytes.fromhex(signature))


def test_the_first_suite_is_the_one_made_when_none_is_named() -> None:
    assert (Identity.generate().suite, len(Identity.generate().public)) == (1, 32)
    assert len(Identity.generate().private_bytes()) == keys.SEED_BYTES == 32
    assert SIGNATURE_SUITES == {32: 1, 1312: 2}
    assert SIGNATURE_LENGTHS == {32: 64, 1312: 2420}


def test_identities_are_equal_by_public_key_and_to_nothing_else() -> None:
    one, same, other = (Identity.from_private_bytes(bytes([number]) * 32) for number in (1, 1, 2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != one.public
    assert hash(one) == hash(one.public)


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_is_32_bytes(suite: int, length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Identity.from_private_bytes(bytes(length), suite)


def test_a_true_signature_raises_nothing_and_a_false_one_does() -> None:
    identity = Identity.from_private_bytes(bytes(32))
    verify_signature(identity.public, b"m", identity.sign(b"m"))
    for public, message, signature in (
        (identity.public, b"n", identity.sign(b"m")),
        (bytes(33), b"m", bytes(64)),
        (bytes(33), b"m", b""),
        (identity.public, b"m", bytes(2420)),
        (bytes(1312), b"m", bytes(2420)),
        (b"\xff" * 32, b"m", bytes(64)),
    ):
        with pytest.raises(SignatureInvalid):
            verify_signature(public, message, signature)


def test_either_vector_gives_a_cofactor_away() -> None:
    keys: list[bytes] = []

    def never(public: bytes, message: bytes, signature: bytes) -> bool:
        assert (len(public), message, len(signature)) == (32, b"\x00", 64)
        keys.append(public)
        return False

    assert not accepts_cofactor(never)
    assert len(set(keys)) == 2
    for telling in keys:
        assert accepts_cofactor(lambda public, message, signature, telling=telling: public == telling)  # type: ignore[misc]
    # Neither is true without the cofactor.
    assert not accepts_cofactor(is_signed)


def test_no_byte_moves_between_a_signature_and_its_message() -> None:
    # Libsodium takes both joined, so only their lengths tell where one ends.
    identity = Identity.from_private_bytes(bytes(32))
    signature = identity.sign(b"ab")
    assert is_signed(identity.public, b"ab", signature)
    assert not is_signed(identity.public, b"b", signature + b"a")
    assert not is_signed(identity.public, b"", signature + b"ab")
    assert not is_signed(identity.public, signature[63:] + b"ab", signature[:63])
    assert not is_signed(identity.public, signature + b"ab", b"")


def test_a_large_key_is_never_read_as_a_small_one() -> None:
    # A key of the second suite whose beginning is one of the first, and a signature made to fit that.
    small = Identity.from_private_bytes(bytes(32))
    rest = bytes(2420 - 64)
    assert not is_signed(small.public + bytes(1312 - 32), b"m", small.sign(rest + b"m") + rest)


@pytest.fixture
def without_libsodium(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    keys._libsodium.cache_clear()
    yield
    keys._libsodium.cache_clear()


@pytest.mark.usefixtures("without_libsodium")
def test_signatures_are_checked_where_there_is_no_libsodium() -> None:
    identity = Identity.from_private_bytes(bytes(32))
    assert is_signed(identity.public, b"m", identity.sign(b"m"))
    assert not is_signed(identity.public, b"n", identity.sign(b"m"))


@pytest.fixture
def asked_anew() -> Iterator[None]:
    keys._libsodium.cache_clear()
    yield
    keys._libsodium.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_libsodium_is_asked_where_it_is_sound() -> None:
    pytest.importorskip("nacl.bindings")
    identity, check = Identity.from_private_bytes(bytes(32)), keys._libsodium()
    assert check is not None
    assert check(identity.public, b"m", identity.sign(b"m"))
    assert not check(identity.public, b"n", identity.sign(b"m"))


@pytest.mark.usefixtures("asked_anew")
def test_a_libsodium_that_takes_too_much_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nacl.bindings")
    monkeypatch.setattr("nacl.bindings.crypto_sign_open", lambda signed, public: signed[64:])
    assert keys._libsodium() is None
    identity = Identity.from_private_bytes(bytes(32))
    assert not is_signed(identity.public, b"n", identity.sign(b"m"))
