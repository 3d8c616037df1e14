"""The documented differences between HAPI's answers and ours (``differences.toml``)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path(__file__).with_name("differences.toml")
RIGHT = frozenset({"ours", "open"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One documented difference; ``right`` says whether the standard decides for us or leaves it open.

    ``seldom`` marks one that shows only where a question happens to be made from a certain record.
    """

    name: str
    shape: str
    says: str
    right: str
    because: str
    cite: str
    seldom: bool = False

    def describes(self, shape: str, said: str) -> bool:
        """Tell whether a difference that was found is this one."""
        return re.fullmatch(self.shape, shape) is not None and re.match(self.says, said) is not None


def load_differences() -> tuple[Difference, ...]:
    """Read the table."""
    return tuple(Difference(**row) for row in tomllib.loads(_TABLE.read_text())["difference"])
