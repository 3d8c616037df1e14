"""Signed JSON Web Tokens, read strictly; the only place that speaks to the JOSE library.

For the token endpoint (client assertions) and for the check of access tokens.
The library verifies signatures; everything that has gone wrong in other
people's token code is decided here, before it is asked: which algorithms a key
may be used with, which header members are taken, and how JSON is read.

Invariants:
    * the key decides the algorithm, never the token: ``none`` and ``HS*`` are not in any table;
    * keys come from a set the caller trusts; ``jwk``, ``jku``, ``x5u`` and ``x5c`` in a header refuse the token,
      and so does ``crit``, because no extension is implemented;
    * one token, one reading: canonical base64url, no duplicate members, no NaN;
    * nothing is verified twice with different eyes: the claims returned are the bytes that were signed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from joserfc.jws import JWSAlgModel, JWSRegistry  # type: ignore[attr-defined]  # not in its __all__
from joserfc.util import urlsafe_b64decode

MAX_TOKEN_BYTES: Final = 8192
MIN_RSA_BITS: Final = 2048
CLOCK_SKEW_S: Final = 30
"""How far another machine's clock may run ahead of ours; an expiry gets no such grace."""

_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# RFC 9864 names the curve; "EdDSA" (RFC 8037) is what most libraries still write for the same signature.
_ED25519_ALGORITHMS: Final = frozenset({"EdDSA", "Ed25519"})
_KEY_SMUGGLING: Final = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip"})


class TokenBroken(Exception):
    """A token does not hold up; ``reason`` is a fixed word for logs and tests, never text from the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key under its id, with the algorithms it may verify."""

    kid: str
    algorithms: frozenset[str]
    key: Key


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart but not yet checked; its claims may only choose whose keys to try."""

    compact: bytes
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    @property
    def kid(self) -> str:
        """Id of the key the token claims to be signed with."""
        return str(self.header["kid"])


def load_keys(jwks: Iterable[Mapping[str, Any]]) -> tuple[VerificationKey, ...]:
    """Take the usable signature keys of a JWK set.

    Keys of another use, kind or strength are left out, as RFC 7517 section 5
    asks; so is every key whose ``kid`` is missing or occurs twice, since a
    token could not name it without doubt.
    """
    found: list[VerificationKey] = []
    for jwk in jwks:
        usable = _load_key(jwk)
        if usable is not None:
            found.append(usable)
    kids = [each.kid for each in found]
    return tuple(each for each in found if kids.count(each.kid) == 1)


def take_apart(token: str, types: frozenset[str]) -> Unverified:
    """Decode a compact JWS without trusting it.

    Args:
        types: Accepted ``typ`` values in lower case, without ``application/``; an empty string accepts its absence.

    Raises:
        TokenBroken: Too long, not a JWS, or a header that this project refuses.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenBroken("too-long")
    try:
        compact = token.encode("ascii")
        head, payload, _ = (urlsafe_b64decode(part) for part in _three(compact))
    except ValueError as error:
        raise TokenBroken("not-a-jws") from error
    unverified = Unverified(compact, strict_object(head), strict_object(payload))
    _check_header(unverified.header, types)
    return unverified


def verify_signature(token: Unverified, keys: Sequence[VerificationKey], allowed: frozenset[str]) -> None:
    """Check the signature with the key that the token names, out of ``keys`` that the caller trusts.

    Args:
        allowed: Algorithms this kind of token may use at all; the key narrows it further.

    Raises:
        TokenBroken: No such key, an algorithm that is not the key's, or a wrong signature.
    """
    key = next((each for each in keys if each.kid == token.kid), None)
    if key is None:
        raise TokenBroken("unknown-key")
    algorithm = token.header["alg"]
    if algorithm not in key.algorithms & allowed:
        raise TokenBroken("wrong-algorithm")
    try:
        jws.deserialize_compact(token.compact, key.key, registry=_Registry(algorithm))
    except (JoseError, ValueError) as error:
        raise TokenBroken("wrong-signature") from error


def verify_bytes(signed: bytes, signature: bytes, algorithm: str, key: VerificationKey) -> None:
    """Check a signature over bytes that are no token: the signing input of a detached JWS.

    Raises:
        TokenBroken: The algorithm is not the key's, or the signature is wrong.
    """
    if algorithm not in key.algorithms:
        raise TokenBroken("wrong-algorithm")
    try:
        holds = _Registry(algorithm).get_alg(algorithm).verify(signed, signature, key.key)
    except (JoseError, ValueError) as error:
        raise TokenBroken("wrong-signature") from error
    if not holds:
        raise TokenBroken("wrong-signature")


def sign(claims: Mapping[str, Any], private: Key, *, algorithm: str, typ: str) -> str:
    """Sign claims; the header holds ``alg``, ``kid`` and ``typ`` and nothing else."""
    private.ensure_kid()
    header = {"alg": algorithm, "kid": private.kid, "typ": typ}
    payload = json.dumps(dict(claims), separators=(",", ":")).encode()
    return jws.serialize_compact(header, payload, private, registry=_Registry(algorithm))


def signing_algorithm(private: Key) -> str:
    """Return the algorithm to sign with: ES384 and RS384 as SMART asks, ES256, or EdDSA.

    Raises:
        ValueError: No algorithm of ours fits the key.
    """
    fitting = algorithms_of(private)
    for choice in ("ES384", "RS384", "ES256", "EdDSA"):
        if choice in fitting:
            return choice
    raise ValueError("no signature algorithm fits this key")


def algorithms_of(key: Key) -> frozenset[str]:
    """Return the algorithms a key may be used with; none for symmetric and foreign keys."""
    if isinstance(key, ECKey):
        name = _EC_ALGORITHMS.get(key.curve_name)
        return frozenset({name} if name else ())
    if isinstance(key, RSAKey):
        return _RSA_ALGORITHMS
    if isinstance(key, OKPKey):
        return _ED25519_ALGORITHMS if key.curve_name == "Ed25519" else frozenset()
    return frozenset()


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate claim in seconds since 1970, or None when absent.

    Raises:
        TokenBroken: It is a string, a boolean, or not a finite number.
    """
    if name not in claims:
        return None
    value = claims[name]
    # A bound keeps later arithmetic finite and refuses dates in milliseconds; 1e11 s lies in the year 5138.
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or abs(value) > 1e11:
        raise TokenBroken(f"bad-{name}")
    return float(value)


def text_claim(claims: Mapping[str, Any], name: str) -> str:
    """Return a claim that must be a non-empty string.

    Raises:
        TokenBroken: It is absent, empty or of another type.
    """
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise TokenBroken(f"bad-{name}")
    return value


def words_claim(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a claim that must be a list of strings; empty when absent.

    Raises:
        TokenBroken: It is of another type.
    """
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TokenBroken(f"bad-{name}")
    return tuple(value)


def _load_key(jwk: Mapping[str, Any]) -> VerificationKey | None:
    kid, use = jwk.get("kid"), jwk.get("use", "sig")
    if not isinstance(kid, str) or not kid or use != "sig" or jwk.get("kty") == "oct":
        return None
    if jwk.get("kty") == "RSA" and _modulus_bits(jwk.get("n")) < MIN_RSA_BITS:
        return None
    public = {name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        key = JWKRegistry.import_key(public)
        algorithms = algorithms_of(key)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if "alg" in jwk:
        algorithms &= {jwk["alg"]} if isinstance(jwk["alg"], str) else set()
    return VerificationKey(kid, algorithms, key) if algorithms else None


def _modulus_bits(modulus: object) -> int:
    try:
        return int.from_bytes(urlsafe_b64decode(str(modulus).encode())).bit_length()
    except ValueError:
        return 0


def _three(compact: bytes) -> list[bytes]:
    parts = compact.split(b".")
    if len(parts) != 3 or not all(parts):
        raise ValueError("a compact JWS has three parts")
    return parts


def strict_object(raw: bytes) -> Mapping[str, Any]:
    """Read a JSON object that can be read in one way only.

    Raises:
        TokenBroken: It is none, or has duplicate members, NaN or Infinity.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise TokenBroken("bad-json") from error
    if not isinstance(value, dict):
        raise TokenBroken("bad-json")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


def _check_header(header: Mapping[str, Any], types: frozenset[str]) -> None:
    if _KEY_SMUGGLING & header.keys():
        raise TokenBroken("refused-header")
    if not isinstance(header.get("alg"), str) or not isinstance(header.get("kid"), str):
        raise TokenBroken("bad-header")
    typ = header.get("typ", "")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in types:
        raise TokenBroken("wrong-type")


class _Registry(JWSRegistry):
    """Exactly one algorithm; other header members were judged above.

    The library warns that ``EdDSA`` is deprecated in favour of ``Ed25519``; the
    signature is the same and ``algorithms_of`` admits only that curve.
    """

    max_header_length = MAX_TOKEN_BYTES
    max_payload_length = MAX_TOKEN_BYTES

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> JWSAlgModel:
        if name != self._algorithm:
            raise TokenBroken("wrong-algorithm")
        return self.algorithms[name]
