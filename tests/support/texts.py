"""Numbers and dates as they stand in JSON, read by a scanner that knows nothing of our decoder.

The scanner sees two kinds of tokens: strings, and numbers outside strings. So it can tell ``1.10`` from ``1.1``
without an opinion on what either means.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from fhir_bridge.fhir.json import render
from fhir_bridge.model.ingest import Change

_TOKEN = re.compile(rb'"(?P<text>(?:[^"\\]|\\.)*)"|(?P<number>-?[0-9][0-9.eE+-]*)')
_DATE = re.compile(rb"[0-9]{4}(?:-[0-9]{2}(?:-[0-9]{2}(?:T[0-9:.]+(?:Z|[+-][0-9:]{5})?)?)?)?")


def texts_of(data: bytes) -> Counter[bytes]:
    """Return how often each number, and each string that is a date, stands in JSON."""
    found: Counter[bytes] = Counter()
    for token in _TOKEN.finditer(data):
        number, text = token["number"], token["text"]
        if number is not None:
            found[number] += 1
        elif _DATE.fullmatch(text):
            found[b'"' + text + b'"'] += 1
    return found


def unexplained(sent: bytes, stored: bytes, changes: Iterable[Change]) -> Counter[bytes]:
    """Return the texts that are in ``stored`` more often (or, below zero, more seldom) than the account of it says.

    What was sent, less what changes took away, plus what they put there, must be what is stored.
    """
    found = texts_of(stored)
    found.subtract(texts_of(sent))
    for change in changes:
        found.update(texts_of(render(change.before)))
        found.subtract(texts_of(render(change.after)))
    return Counter({text: count for text, count in found.items() if count})
