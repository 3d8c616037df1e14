"""One line on the terminal that counts while something long goes on; silent where nobody looks."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_EVERY_S: Final = 0.5


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the count so far; what it shows is gone at the end."""
    is_seen = sys.stderr.isatty()
    shown_at = time.monotonic()

    def show(count: int) -> None:
        nonlocal shown_at
        if is_seen and time.monotonic() - shown_at >= _EVERY_S:
            shown_at = time.monotonic()
            print(f"\r{count:,} {what}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if is_seen:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
