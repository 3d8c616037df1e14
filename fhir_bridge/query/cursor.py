"""Cursors: where the next page begins, sealed so that a client can neither read nor alter it.

For the answer line. A cursor holds the sort key of the last entry, the state the
first page was pinned to, and digests of query and requester: with another query
or in other hands it is refused. Each page is authorised afresh; a cursor grants
nothing.

Invariants:
    * the text's length tells nothing but a multiple of 64 bytes;
    * every fault is the same refusal.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fhir_bridge.model.access import Requester
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.query.ordering import Key
from fhir_bridge.query.refusals import QueryRefused, invalid

_DOMAIN = b"fhir-bridge/cursor/1"
_NONCE_BYTES = 12
_PAD = 64
_MAX_CHARACTERS = 4_096


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where to go on.

    Attributes:
        after: Sort key of the last entry shown.
        pinned: State the first page was answered from, such as ``{"batch": 12}``.
    """

    after: Key
    pinned: Mapping[str, int]


class _Sealed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    after: list[int | str]
    pinned: dict[str, int]
    asked: bytes


def seal_cursor(
    cursor: Cursor,
    key: bytes,
    requester: Requester,
    target: str,
    params: Sequence[tuple[str, str]],
    random: Randomness,
) -> str:
    """Return the text of a cursor for the value of ``_cursor``.

    Args:
        key: 32 bytes, for cursors only.
        target: What is searched, such as ``Observation`` or ``Patient/x/$everything``.
        params: Parameters as asked; ``_cursor`` among them does not count.
    """
    asked = _asked(requester, target, params)
    plain = msgspec.msgpack.encode(_Sealed(list(cursor.after), dict(cursor.pinned), asked))
    padded = plain + b"\x80"
    padded += bytes(-len(padded) % _PAD)
    nonce = random.token(_NONCE_BYTES)
    return base64.urlsafe_b64encode(nonce + AESGCM(key).encrypt(nonce, padded, _DOMAIN)).decode().rstrip("=")


def open_cursor(
    text: str, key: bytes, requester: Requester, target: str, params: Sequence[tuple[str, str]]
) -> Cursor:
    """Open a cursor that was made for this query and this requester.

    Raises:
        QueryRefused: It was not, or it is not ours, or it was altered.
    """
    try:
        if len(text) > _MAX_CHARACTERS or not text.isascii():
            raise ValueError
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        padded = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _DOMAIN)
        sealed = msgspec.msgpack.decode(padded[: padded.rindex(b"\x80")], type=_Sealed)
    except (ValueError, InvalidTag, msgspec.MsgspecError):
        sealed = None
    if sealed is None or not hmac.compare_digest(sealed.asked, _asked(requester, target, params)):
        raise QueryRefused([invalid("_cursor", "does not belong to this search; start again without it")])
    return Cursor(tuple(sealed.after), sealed.pinned)


def _asked(requester: Requester, target: str, params: Sequence[tuple[str, str]]) -> bytes:
    """Return the digest of who asks for what. Scopes count, since they decide what may be asked."""
    who = (
        requester.client_id,
        requester.institution,
        requester.institution_id,
        requester.practitioner,
        requester.purpose,
        requester.patient,
        list(requester.roles),
        list(requester.scopes),
        None if requester.groups is None else list(requester.groups),
    )
    what = [list(pair) for pair in params if pair[0] != "_cursor"]
    return hashlib.sha256(msgspec.msgpack.encode([who, target, what])).digest()
