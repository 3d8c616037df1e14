"""Send a large answer block by block, and stop the moment it shows what may be seen no more.

For the answer line. Bodies are opened a block at a time, so memory does not
grow with the answer. Before a block is handed over, what its requester may see
is decided afresh; if a record of it is hidden by now, the connection is cut.

Invariants:
    * no block is handed over after a withdrawal that hides one of its records, or after the end of who asked;
    * an answer that stops early never ends as a Bundle does: its last bytes are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fhir_bridge.errors import AnswerCutOff, BridgeError
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.people import Sight
from fhir_bridge.model.access import Found
from fhir_bridge.query import Frame, SearchResult, render_entries
from fhir_bridge.telemetry import logger

_log = logger("answer")

Again = Callable[[], Awaitable[Sight]]
"""Decides afresh what the requester may see of what the answer is about."""


async def stream(
    result: SearchResult, frame: Frame, *, opening: Opening, again: Again, base_url: str, block: int
) -> AsyncIterator[bytes]:
    """Open the first block, then return what yields the whole answer.

    Args:
        block: Records opened at a time.

    Raises:
        BridgeError: The first block does not open; nothing has been sent yet.
    """
    blocks = [result.found[start : start + block] for start in range(0, len(result.found), block)]
    first = await _entries(result, blocks[0], opening, base_url)
    return _rest(result, frame, first, blocks, opening, again, base_url)


async def _rest(
    result: SearchResult,
    frame: Frame,
    first: bytes,
    blocks: Sequence[Sequence[Found]],
    opening: Opening,
    again: Again,
    base_url: str,
) -> AsyncIterator[bytes]:
    try:
        entries = frame.head + first[1:]
        for number, found in enumerate(blocks):
            if number:
                entries = await _entries(result, found, opening, base_url)
            # Between this decision and the hand-over nothing is waited for.
            _check(found, await again())
            yield entries
        yield frame.tail
    except AnswerCutOff as cut:
        _log.info("answer cut off", code=cut.code)
        raise
    except BridgeError as error:
        _log.error("answer cut off", code=error.code)
        raise AnswerCutOff from error


async def _entries(result: SearchResult, found: Sequence[Found], opening: Opening, base_url: str) -> bytes:
    """Return the entries of one block, each with a comma before it."""
    bodies = await opening.bodies(found)
    return await asyncio.to_thread(_rendered, result, found, bodies, base_url)


def _rendered(result: SearchResult, found: Sequence[Found], bodies: Sequence[bytes], base_url: str) -> bytes:
    if not result.shape.is_whole:
        bodies = [result.shape.of(each.row.type, body) for each, body in zip(found, bodies, strict=True)]
    return b"".join(render_entries(found, bodies, base_url=base_url))


def _check(found: Sequence[Found], sight: Sight) -> None:
    charts = {view.chart: view.rows for view in sight.view.charts}
    for each in found:
        rows = charts.get(each.chart)
        if rows is None or each.row not in rows.versions(f"{each.row.type}/{each.row.id}"):
            raise AnswerCutOff
