"""Put checks of values together, for the compiler of profiles."""

from __future__ import annotations

from fhir_bridge.fhir.profiles.values import Item, ItemCheck, trial
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
