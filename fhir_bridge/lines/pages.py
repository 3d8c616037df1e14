"""Links of an answer: to itself and, sealed in a cursor, to the page after it."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlencode

from fhir_bridge.lines.registry import OPERATOR
from fhir_bridge.lines.scoping import Params
from fhir_bridge.model.access import Requester
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.query import Cursor, open_cursor, seal_cursor
from fhir_bridge.query.ordering import Key


class Pages:
    """Opens and seals cursors, and writes links below one base URL."""

    def __init__(self, *, keys: KeyStore, randomness: Randomness, base: str) -> None:
        self._keys = keys
        self._randomness = randomness
        self._base = base

    def opened(self, who: Requester, target: str, params: Params) -> Cursor | None:
        """Return the cursor among the parameters, or None on a first page.

        Raises:
            QueryRefused: It was made for another question or requester.
        """
        text = next((value for name, value in params if name == "_cursor"), None)
        return None if text is None else open_cursor(text, self._key(), who, target, params)

    def itself(self, target: str, params: Params, ignored: Collection[str] = ()) -> str:
        """Return the ``self`` link: what was asked without what was ignored (R4 search.html#conformance)."""
        asked = [pair for pair in params if pair[0] != "_cursor" and pair[0] not in ignored]
        return f"{self._base}/{target}" + (f"?{urlencode(asked)}" if asked else "")

    def following(self, who: Requester, target: str, params: Params, after: Key | None, batch: int) -> str | None:
        """Return the ``next`` link; None on the last page."""
        if after is None:
            return None
        text = seal_cursor(Cursor(after, {"batch": batch}), self._key(), who, target, params, self._randomness)
        asked = [pair for pair in params if pair[0] != "_cursor"]
        return f"{self._base}/{target}?{urlencode([*asked, ('_cursor', text)])}"

    def _key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, "cursor")
        return self._keys.ensure([name])[name]


def pinned(cursor: Cursor | None) -> int | None:
    """Return the batch that a cursor's first page was answered from."""
    return None if cursor is None else cursor.pinned.get("batch")
