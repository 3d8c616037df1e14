"""Gather what profiles demand and this validator cannot judge, so that it is said once and by name."""

from __future__ import annotations

_PLACES = 3


class Notes:
    """What is not judged and why, each with the profiles and elements that it concerns."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}
        self._places: dict[str, dict[str, None]] = {}

    def add(self, what: str, why: str, profile: str, element: str) -> None:
        """Note that ``what`` is not judged at ``element`` of ``profile``; the first reason for it is kept."""
        self._why.setdefault(what, why)
        self._places.setdefault(what, {})[f"{profile.rpartition('/')[2]} {element}"] = None

    def lines(self) -> tuple[str, ...]:
        """One line for each, in the order of their text."""
        return tuple(
            f"{what} not judged: {self._why[what]} (at {_listed(list(places))})"
            for what, places in sorted(self._places.items())
        )


def _listed(places: list[str]) -> str:
    more = len(places) - _PLACES
    return ", ".join(places[:_PLACES]) + (f" and {more} more" if more > 0 else "")
