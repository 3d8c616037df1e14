"""Put checks of values together, for the compiler of profiles."""

from __future__ import annotations

from collections.abc import Mapping

from fhir_bridge.fhir.profiles.values import Collect, GroupCheck, Item, ItemCheck, trial
from fhir_bridge.fhir.run import Run


def simple_quantity(item: Item, run: Run) -> None:
    """The one rule that SimpleQuantity adds to Quantity."""
    if "comparator" in item.parent:
        run.error("invariant", "sqty-1: the comparator is not used on a SimpleQuantity", item.place)


def any_of(checks: list[ItemCheck], urls: list[str]) -> ItemCheck:
    """The value passes one of some profiles."""
    text = f"conforms to none of {', '.join(urls)}"

    def check(item: Item, run: Run) -> None:
        for each in checks:
            beside = trial(run)
            each(item, beside)
            if not any(issue.severity == "error" for issue in beside.issues):
                return
        run.error("structure", text, item.place)

    return check


def all_of(checks: tuple[ItemCheck, ...]) -> ItemCheck | None:
    """All checks as one; None for none."""
    if len(checks) < 2:
        return checks[0] if checks else None

    def check(item: Item, run: Run) -> None:
        for each in checks:
            each(item, run)

    return check


def nothing(_item: Item, _run: Run) -> None:
    """The check of a profile that adds nothing."""


def excluded(text: str) -> ItemCheck:
    """Refuse a value of a type that the profile leaves out."""

    def check(item: Item, run: Run) -> None:
        run.error("structure", text, item.place)

    return check


def counted(
    name: str,
    collect: Collect,
    least: int,
    most: int | None,
    checks: Mapping[str, ItemCheck],
    slicing: GroupCheck | None,
) -> ItemCheck:
    """Check the values of the child ``name`` of an element: how many, each by its type, and by slices."""

    def check(owner: Item, run: Run) -> None:
        items = collect(owner.parent, owner.place)
        if len(items) < least:
            run.error("required", _too_few(least, len(items)), (owner.place, name))
        if most is not None and len(items) > most:
            run.error("structure", _too_many(most, len(items)), (owner.place, name))
        for item in items:
            found = checks.get(item.type)
            if found is not None:
                found(item, run)
        if slicing is not None:
            slicing(items, (owner.place, name), run)

    return check


def _too_few(least: int, found: int) -> str:
    return "the profile requires this element" if least == 1 else f"at least {least} are required, {found} are there"


def _too_many(most: int, found: int) -> str:
    return "the profile forbids this element" if most == 0 else f"at most {most} may be given, {found} are there"
