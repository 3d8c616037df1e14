"""How much one message may ask of us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one message; what exceeds them is refused before it costs more.

    Attributes:
        max_bytes: Longest message.
        max_entries: Most entries of a bundle.
        max_depth: Deepest nesting of JSON.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_entries: int = 20_000
    max_depth: int = 100
