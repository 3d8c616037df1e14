"""State trees at past heights, made from the newest tree and the values that were written since.

Nothing of an older tree is stored but its rows: the store keeps, for each path,
the value of every height it was written at, so the newest tree can be changed
back. Roots need not be trusted to come out right: each height's root stands in
the log, and the caller compares.

Invariant: a tree handed out depends on its height only, not on what was cached.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from ledger_core.sparse import StateTree

_BELOW_COST: Final = 4


class Versions:
    """Trees at past heights, made from the newest one and cached; safe to call from any thread.

    ``changes(height)`` must give, for every path written after ``height``, its
    value as of ``height``, or None for a path born later; a path written back
    to what it was counts as written. It may already know blocks above the
    newest tree, never lack one up to it.

    Equal values cost no hashing, so a tree at a nearby height above (the newest
    or a cached one) is changed into the one asked for. A cached tree below
    costs a second reading of changes and is used where it is much nearer.
    """

    def __init__(self, changes: Callable[[int], Mapping[bytes, bytes | None]], *, capacity: int = 4) -> None:
        self._changes = changes
        self._capacity = capacity
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[int, int], StateTree] = OrderedDict()

    def at(self, height: int, *, newest: StateTree, newest_height: int, suite: int | None = None) -> StateTree:
        """Return the tree after block ``height``.

        The caller compares its root with the one recorded for that height.

        Args:
            height: A height the store has not pruned, at most ``newest_height``.
            newest: The tree after block ``newest_height``.
            newest_height: See ``newest``.
            suite: That of the state-root entry in force at ``height``; None is the newest tree's.

        Raises:
            ValueError: The height lies above the newest.
        """
        if height > newest_height:
            raise ValueError(f"height {height} lies above the newest, {newest_height}")
        suite = newest.suite if suite is None else suite
        if height == newest_height and suite == newest.suite:
            return newest
        with self._lock:
            if (height, suite) in self._cached:
                self._cached.move_to_end((height, suite))
                return self._cached[height, suite]
            near = {at: tree for (at, own), tree in self._cached.items() if own == suite}
        if suite == newest.suite:
            near[newest_height] = newest
        tree = self._made(height, near, newest)
        if tree.suite != suite:
            tree = tree.rehashed(suite)
        with self._lock:
            self._cached[height, suite] = tree
            while len(self._cached) > self._capacity:
                self._cached.popitem(last=False)
        return tree

    def drop_below(self, height: int) -> None:
        """Forget trees below ``height``; to be called once the store has pruned them."""
        with self._lock:
            for stale in [at for at in self._cached if at[0] < height]:
                del self._cached[stale]

    def _made(self, height: int, near: Mapping[int, StateTree], newest: StateTree) -> StateTree:
        wanted = self._changes(height)
        above = min((at for at in near if at > height), default=None)
        below = max((at for at in near if at < height), default=None)
        if below is not None and (above is None or _BELOW_COST * (height - below) < above - height):
            # Not written after `height`, so still what the newest tree holds.
            between = {path: newest.get(path) for path in self._changes(below) if path not in wanted}
            return near[below].changed({**between, **wanted})
        return (newest if above is None else near[above]).changed(wanted)
