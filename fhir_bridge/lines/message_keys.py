"""What an operator does about keys of messages: senders' signing keys, ours that they encrypt to; and evidence."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.registry import Institution, Registry
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.unwrapping import SIGNATURE_RULE, Unwrapping
from fhir_bridge.model.ingest import Change, instant
from fhir_bridge.ports.messages import MessageCrypto
from fhir_bridge.ports.vault import Vault
from fhir_bridge.seal import RecordPlace

_VERSION = re.compile(r"([A-Za-z]{1,64})/([A-Za-z0-9.-]{1,64})/_history/([A-Za-z0-9.-]{1,64})")


class MessageKeys:
    """Registers keys and hands out evidence; each change is durable when its call returns."""

    def __init__(
        self, *, vault: Vault, registry: Registry, unwrapping: Unwrapping, evidence: Evidence, crypto: MessageCrypto
    ) -> None:
        self._vault = vault
        self._registry = registry
        self._unwrapping = unwrapping
        self._evidence = evidence
        self._crypto = crypto

    # --- keys

    def signing_keys(self, institution: str) -> list[dict[str, Any]]:
        """Return the public keys that an institution's messages are checked with, each with its thumbprint."""
        return [self._shown(jwk) for jwk in self._registry.institution(institution).signing_keys]

    async def add_signing_key(self, institution: str, jwk: Mapping[str, Any]) -> dict[str, Any]:
        """Register a sender's public key; from now on nothing of it is taken by bus without a signature.

        Raises:
            SetupWrong: The key is of no use here, another of the same ``kid`` is registered, or this one is by
                another: taking that back would leave it good.
        """
        key = self._crypto.signing_key(jwk)
        thumbprint = self._crypto.thumbprint(key)

        def with_it(known: Institution) -> Institution:
            others = [each for each in known.signing_keys if each != key]
            if any(each["kid"] == key["kid"] for each in others):
                raise SetupWrong("another signing key of this kid is registered: give the new one another kid")
            if any(self._crypto.thumbprint(each) == thumbprint for each in others):
                raise SetupWrong("this very key is registered by another kid: remove that one first")
            return replace(known, signing_keys=(*others, key))

        await self._registry.change_institution(institution, with_it)
        return self._shown(key)

    async def remove_signing_key(self, institution: str, kid: str) -> None:
        """Take a key back: no message that is judged from now on can be signed with it.

        Raises:
            SetupWrong: There is none of that ``kid``.
        """

        def without_it(known: Institution) -> Institution:
            kept = tuple(each for each in known.signing_keys if each["kid"] != kid)
            if len(kept) == len(known.signing_keys):
                raise SetupWrong("this institution has no signing key of that kid")
            return replace(known, signing_keys=kept)

        await self._registry.change_institution(institution, without_it)

    async def encryption_key(
        self, institution: str, *, renew: bool, destroy_older: bool, must: bool | None
    ) -> dict[str, Any]:
        """Return the public key that an institution encrypts to, made where there is none.

        Args:
            renew: Make another one; the one before still opens what is on its way.
            destroy_older: Destroy all but the newest.
            must: True to take nothing of it by bus in the clear from now on, False to take both, None to leave it.
        """

        def with_them(known: Institution) -> Institution:
            if renew or not known.receiving_keys:
                known = self._unwrapping.renewed(known)
            if must is not None:
                known = replace(known, must_encrypt=must)
            return self._unwrapping.without_older(known) if destroy_older else known

        known = await self._registry.change_institution(institution, with_them)
        if destroy_older:
            # After what names them is gone, so that a crash in between leaves nothing that a message waits for.
            await asyncio.to_thread(self._unwrapping.destroy_older, known)
        key = self._unwrapping.receiving_key(known)
        assert key is not None
        return key

    # --- evidence

    async def signed(self) -> list[dict[str, Any]]:
        """List the signed messages that are kept."""
        return [
            {"id": message, "institution": institution, "received_at": instant(instant_of(at))}
            for message, at, institution in await self._unwrapping.all_signed()
        ]

    async def evidence(self, message: str) -> dict[str, Any]:
        """Return a signed message, the detached JWS over it, and the key that it holds under.

        Raises:
            SetupWrong: None of this id is kept.
            KeyMissing: Its key was erased.
        """
        kept = await self._unwrapping.signed(message)
        if kept is None:
            raise SetupWrong("no signed message of this id is kept: see 'fhir-bridge signed list'")
        return {
            "id": message,
            "institution": kept.institution,
            "received_at": instant(instant_of(kept.received_at_us)),
            "content_type": kept.content_type,
            "signature": kept.signature,
            "key": kept.key,
            "thumbprint": self._crypto.thumbprint(kept.key),
            "message": msgspec.to_builtins(kept.content),
        }

    async def evidence_of(self, version: str) -> dict[str, Any]:
        """Return the evidence for one record version: its receipt too, and what that opens.

        ``original`` is the part of the message that the record was made of, ``lineage`` names the message.

        Args:
            version: ``Type/id/_history/version``, by canonical id.

        Raises:
            SetupWrong: There is no such version, or it did not come in a signed message.
        """
        named = _VERSION.fullmatch(version)
        if named is None:
            raise SetupWrong("name a record version: Type/id/_history/version")
        _, record, number = named.groups()
        home = self._registry.chart((await self._vault.charts_of([record])).get(record, ""))
        place = None if home is None else RecordPlace(home.chart, record, number, home.institution)
        found = None if place is None else await self._evidence.disclosed(place)
        if found is None:
            raise SetupWrong("there is no such version of a record")
        for change in msgspec.json.decode(found.lineage, type=list[Change]):
            if change.rule == SIGNATURE_RULE:
                parts: dict[str, Any] = msgspec.to_builtins(found)
                return await self.evidence(change.after["message"]) | parts
        raise SetupWrong("this version did not come in a signed message")

    def _shown(self, jwk: Mapping[str, Any]) -> dict[str, Any]:
        return {**jwk, "thumbprint": self._crypto.thumbprint(jwk)}
