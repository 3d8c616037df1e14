"""Messages that come signed by their sender (JWS) or encrypted to us (JWE): the algorithms without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Jwk = Mapping[str, Any]
"""A JSON Web Key (RFC 7517)."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What was in a JWE or a JWS; ``content_type`` is what its ``cty`` says, empty without one."""

    content: bytes
    content_type: str


class MessageCrypto(Protocol):
    """Opens and checks single messages; pure, and slow enough for a thread when a message is large."""

    def public_key(self, secret: bytes) -> dict[str, Any]:
        """Return the public JWK of 32 secret bytes, for senders to encrypt to; ``kid`` is its RFC 7638 thumbprint."""
        ...

    def decrypt(self, compact: bytes, secrets: Mapping[str, bytes]) -> Inside:
        """Open a JWE in compact form (RFC 7516) with the secret whose public key it names.

        Args:
            secrets: By ``kid``, as :meth:`public_key` gives it.

        Raises:
            RecordRefused: It is none, names no key of these or another algorithm, or does not open.
        """
        ...

    def signing_key(self, jwk: Jwk) -> dict[str, Any]:
        """Return a sender's key as it is kept: public, with a ``kid``, which is its thumbprint where it has none.

        Raises:
            SetupWrong: It can verify no signature here.
        """
        ...

    def detach(self, compact: bytes) -> tuple[str, Inside]:
        """Take a JWS in compact form apart: the detached JWS, which is not checked yet, and what it was around.

        Raises:
            RecordRefused: It is none.
        """
        ...

    def thumbprint(self, jwk: Jwk) -> str:
        """Return what a key is known by, whatever it is called: its RFC 7638 thumbprint, SHA-256 in base64url."""
        ...

    def verify(self, signature: str, content: bytes, keys: Sequence[Jwk]) -> Jwk:
        """Check a detached JWS (RFC 7515 appendix F; RFC 7797 with ``b64`` false) over the exact bytes of a message.

        Args:
            keys: Those that the caller trusts; the signature names one by its ``kid``.

        Returns:
            The key that signed.

        Raises:
            RecordRefused: It is none, names no key of these or another algorithm, or is wrong.
        """
        ...
