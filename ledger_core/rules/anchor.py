"""Anchors: any active member may anchor a root; the log is the only trace it leaves."""

from ledger_core.rules.view import Request, Verdict, View

_NOTHING: Verdict = {}


def judge(view: View, request: Request) -> Verdict:
    """Judge an anchor; its form and its suite have been checked."""
    del view, request
    return _NOTHING
