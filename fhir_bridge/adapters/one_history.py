"""Whether a vault and a ledger tell of the same past: asked at each start, before anything is written.

A file that is gone, or an older one that was put back, would else be gone on
with: an empty vault serves nothing and says that all is well, and an older
ledger signs a second history. ``fsck`` compares everything; this is what a
start can look up at once.
"""

from __future__ import annotations

from fhir_bridge.adapters.vault_sql import SqlVault
from fhir_bridge.errors import SetupWrong
from fhir_bridge.lines.notary import Notary

_MEND = "put it back, or restore a backup of both into a new directory"


async def require_one_history(vault: SqlVault, notary: Notary) -> None:
    """Look for each store's newest batch in the other.

    Raises:
        SetupWrong: The ledger is older than the vault, or the vault is empty beside a ledger with its batches.
        Unavailable: A store does not answer.
    """
    newest = await vault.last_batch()
    if newest < 0 and notary.has_anchored():
        raise SetupWrong(f"the vault is empty, and the ledger holds batches of records: the vault is gone; {_MEND}")
    waiting = await vault.pending_batches()
    anchored = waiting[0].number - 1 if waiting else newest
    if anchored < 0:
        return
    batch = await vault.batch(anchored)
    if batch.height is not None and notary.position_of(batch.envelope) is None:
        raise SetupWrong(f"the ledger is older than the vault: batch {anchored} is in it no more; {_MEND}")
