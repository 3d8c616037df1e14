"""The bridge's dealings with the ledger: who signs what, in which order, and what is read back.

Each kind of repeated transaction has a signer of its own (anchors, audit
heads, uses of rulesets), because nonces of one signer must arrive in order and the two come from
independent flows. Consent changes are signed by the path's owner key or by the
institution, never by the operator.

Invariants:
    * an envelope that must survive a crash is stored before it is submitted,
      and submitted again byte for byte;
    * nothing about a person is passed to the ledger but blinded paths, salted
      commitments and hashes of salted lists.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fhir_bridge import tracing
from fhir_bridge.errors import BridgeError, IntegrityBroken, Unavailable
from fhir_bridge.ports.keys import Keyring
from fhir_bridge.tracing import Kind
from ledger_core import (
    AccessHead,
    Anchor,
    Attest,
    ConsentState,
    Identity,
    Join,
    Ledger,
    LedgerClosed,
    LedgerError,
    LedgerUnavailable,
    Opening,
    OpenPath,
    RegisterPolicy,
    RegisterRuleset,
    Restrict,
    SetConsent,
    TransactionRefused,
    UseRuleset,
)
from ledger_core import NotFound as LedgerNotFound

ANCHOR_SIGNER = "anchor"
AUDIT_SIGNER = "audit"
RULES_SIGNER = "rules.use"
"""No institution can be called so, for a dot is in it."""
OPERATOR_SIGNER = "operator"
_SUBMIT = "ledger submit"
_PATH_DOMAIN = b"fhir-bridge/consent-path/1"
_SECRET_DOMAIN = b"fhir-bridge/consent-secret/1"


class LedgerRefused(BridgeError):
    """The ledger's rules refuse a transaction; ``rejection`` is the ledger's fixed code."""

    code = "ledger-refused"

    def __init__(self, rejection: str) -> None:
        super().__init__(f"the ledger refuses this transaction: {rejection}")
        self.rejection = rejection


class Notary:
    """Signs for the keys this node holds and speaks to the ledger."""

    def __init__(self, ledger: Ledger, keyring: Keyring, on_stop: Callable[[], None] = lambda: None) -> None:
        """Take what is called when the ledger has stopped for good after a storage failure."""
        self._on_stop = on_stop
        self._ledger = ledger
        self._keyring = keyring
        self._governing = asyncio.Lock()

    async def start(self) -> None:
        """Admit the node's own signers to a new ledger; a no-op on one that knows them."""
        for name in (ANCHOR_SIGNER, AUDIT_SIGNER, RULES_SIGNER):
            await self.admit(name)

    # --- membership

    def identity(self, name: str) -> Identity:
        """Return the ledger identity of an institution or of one of the node's signers."""
        return Identity.from_private_bytes(self._keyring.identity(name))

    async def admit(self, name: str) -> None:
        """Make ``name`` a member; the operator proposes, the newcomer's key agrees."""
        newcomer = self.identity(name)
        async with self._governing:
            if self._ledger.member(newcomer.public) is None:
                await self._send(Join(newcomer.public, name), OPERATOR_SIGNER, [newcomer])

    async def register_ruleset(self, digest: bytes, institution: str) -> None:
        """Put the hash of an institution's rules on the ledger, signed by the institution."""
        async with self._governing:
            if self._ledger.value("ruleset", digest) is None:
                await self._send(RegisterRuleset(digest), institution)

    def sign_use(
        self, digest: bytes, share: int, institution: str, author: Identity, approvers: Sequence[Identity]
    ) -> bytes:
        """Return the signed envelope that puts a share of an institution's records under a ruleset.

        Institution, author and whoever approves sign it, the node's own signer brings it.
        """
        home = self.identity(institution)
        payload = UseRuleset(digest, home.public, author.public, share)
        signing = {each.public: each for each in (home, author, *approvers)}
        return self._ledger.sign(payload, self.identity(RULES_SIGNER), list(signing.values()))

    async def register_policies(self, digest: bytes) -> None:
        """Put the digest of the network's policies on the ledger, signed by the operator; a no-op if it is there."""
        async with self._governing:
            if self._ledger.value("policy", digest) is None:
                await self._send(RegisterPolicy(digest), OPERATOR_SIGNER)

    # --- anchors and audit heads

    def sign_anchor(self, root: bytes, count: int) -> bytes:
        """Return the signed envelope that anchors a batch; store it, then submit it."""
        return self._ledger.sign(Anchor(root, count), self.identity(ANCHOR_SIGNER))

    async def submit_anchor(self, envelope: bytes) -> tuple[int, int]:
        """Bring a stored envelope to the ledger; return height and log index. Repeatable.

        Raises:
            Unavailable: Not taken; submit the same bytes again.
            LedgerRefused: Never taken.
        """
        return await self._submit(envelope)

    def has_anchored(self) -> bool:
        """Tell whether this node has ever brought a batch to the ledger."""
        signer = self._ledger.member(self.identity(ANCHOR_SIGNER).public)
        return signer is not None and signer.nonce > 0

    def sign_access_head(self, epoch: int, root: bytes, count: int) -> bytes:
        """Return the signed envelope that closes an audit epoch."""
        return self._ledger.sign(AccessHead(epoch, root, count), self.identity(AUDIT_SIGNER))

    def sign_decisions(self, root: bytes, count: int) -> bytes:
        """Return the signed envelope that anchors an epoch's decisions; submitted after that epoch's head."""
        return self._ledger.sign(Anchor(root, count), self.identity(AUDIT_SIGNER))

    # --- consent paths

    @staticmethod
    def consent_path(secret: bytes) -> bytes:
        """Return the blinded path of a chart: HMAC-SHA256 under the chart's consent secret."""
        return hmac.new(secret, _PATH_DOMAIN, hashlib.sha256).digest()

    @staticmethod
    def secret_commitment(secret: bytes) -> bytes:
        """Return what is registered with the path, so that an auditor given the secret can check the path."""
        return hashlib.sha256(_SECRET_DOMAIN + secret).digest()

    async def open_path(self, secret: bytes, owner: bytes, institution: str) -> None:
        """Open a chart's consent path for an owner key; a no-op if it is open for that owner."""
        path = self.consent_path(secret)
        async with self._governing:
            state = self._ledger.state_get(path)
            if state is None:
                await self._send(OpenPath(path, owner, self.secret_commitment(secret)), institution)
            elif state.owner != owner:
                raise IntegrityBroken("the consent path belongs to another owner key")

    def consent_state(self, path: bytes) -> tuple[ConsentState | None, int]:
        """Return a path's state and the height it was read at."""
        return self._ledger.state_at(path)

    def sign_consent(self, path: bytes, counter: int, list_hash: bytes, owner: Identity) -> bytes:
        """Return the owner's signed change of the path's list."""
        return self._ledger.sign(SetConsent(path, counter, list_hash), owner)

    def sign_restriction(self, path: bytes, counter: int, list_hash: bytes, institution: str) -> bytes:
        """Return the institution's signed change of its own list, which can only narrow."""
        return self._ledger.sign(Restrict(path, counter, list_hash), self.identity(institution))

    def sign_attestation(self, path: bytes, counter: int, list_hash: bytes, institution: str) -> bytes:
        """Return the institution's signed change of its own list, with its word for the signed papers in it."""
        return self._ledger.sign(Attest(path, counter, list_hash), self.identity(institution))

    @property
    def may_attest(self) -> bool:
        """Tell whether the network was begun with leave for institutions to attest."""
        return self._ledger.may_attest

    async def submit(self, envelope: bytes) -> int:
        """Submit a stored envelope; return the height. Repeatable."""
        height, _ = await self._submit(envelope)
        return height

    async def submit_together(self, envelopes: Sequence[bytes]) -> None:
        """Submit stored envelopes that belong together: one block takes them all. Repeatable."""
        try:
            # In a thread, for a full queue is waited for; shielded, for what is being committed cannot be taken back.
            with tracing.spanned(_SUBMIT, Kind.CLIENT):
                waiting = await asyncio.to_thread(self._ledger.submit_many, envelopes)
                taken = await asyncio.shield(asyncio.wrap_future(waiting))
        except LedgerUnavailable as cause:
            raise self._unavailable(cause) from cause
        except LedgerError as cause:
            raise IntegrityBroken(f"ledger: {cause.code}") from cause
        for outcome in taken:
            if isinstance(outcome, TransactionRefused):
                raise LedgerRefused(outcome.rejection) from outcome

    # --- reading

    @property
    def height(self) -> int:
        """Height of the newest block."""
        return self._ledger.height

    def answers(self) -> bool:
        """Tell whether the ledger's rows can be read; may wait for a server."""
        try:
            return bool(self._ledger.entry(0))
        except LedgerError:
            return False

    def checkpoint(self) -> str:
        """Return a signed checkpoint of now."""
        return self._ledger.checkpoint()

    def policy(self) -> str:
        """Return the policy file of a verifier who trusts this log's key."""
        return self._ledger.policy().encode()

    def record_receipt(self, opening: Opening, *, batch_index: int, batch_path: Sequence[bytes], index: int) -> str:
        """Return the receipt of a record in an anchored batch."""
        with _read():
            return self._ledger.record_receipt(opening, batch_index=batch_index, batch_path=batch_path, index=index)

    def position_of(self, envelope: bytes) -> int | None:
        """Return the log index of an accepted envelope, or None."""
        with _read():
            found = self._ledger.position_of(envelope)
        return None if found is None else found.index

    def past_state_receipt(self, kind: str, key: bytes, height: int) -> str | None:
        """Return the receipt of what state held after a block; None if that was pruned."""
        try:
            with _read():
                return self._ledger.past_state_receipt(kind, key, height)
        except LedgerNotFound:
            return None

    async def _send(
        self,
        payload: Join | OpenPath | RegisterRuleset | RegisterPolicy,
        signer: str,
        approvers: Sequence[Identity] = (),
    ) -> None:
        await self._submit(self._ledger.sign(payload, self.identity(signer), approvers))

    async def _submit(self, envelope: bytes) -> tuple[int, int]:
        try:
            with tracing.spanned(_SUBMIT, Kind.CLIENT):
                accepted = await self._ledger.asubmit(envelope)
        except TransactionRefused as no:
            raise LedgerRefused(no.rejection) from no
        except LedgerUnavailable as cause:
            raise self._unavailable(cause) from cause
        except LedgerError as cause:
            raise IntegrityBroken(f"ledger: {cause.code}") from cause
        return accepted.height, accepted.index

    def _unavailable(self, cause: LedgerUnavailable) -> Unavailable:
        # After a storage failure a ledger takes nothing more until it is opened again.
        if isinstance(cause, LedgerClosed):
            self._on_stop()
        return Unavailable("the ledger cannot take a transaction now")


@contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except LedgerUnavailable as cause:
        raise Unavailable("the ledger cannot be read now") from cause
