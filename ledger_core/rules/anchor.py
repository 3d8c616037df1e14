"""Anchors: any active member may anchor a root; the log is the only trace it leaves."""

from ledger_core.rules.view import Verdict
from ledger_core.transactions import Anchor


def judge(payload: Anchor) -> Verdict:
    """Judge an anchor; its form was checked when it was read."""
    del payload
    return {}
