"""Room 4: turn the commitments of one vault commit into a batch for the ledger."""

from fhir_bridge.anchor.batch import head_leaf, make_batch

__all__ = ["head_leaf", "make_batch"]
