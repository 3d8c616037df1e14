"""Datatypes whose elements R4 has otherwise: Money, Dosage, Signature, RelatedArtifact, SampledData.

For ``fit-to-r4``, which finds them wherever they stand. Sources: the lists "R3 Diff" on R4's datatype pages and
"R4 Diff" on R5's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.cross_version import url_of
from fhir_bridge.normalize.functions.editing import recast

Convert = Callable[[Draft, By, dict[str, Any], str], None]
IMPLIED = By("core/implied", "another element says the same in R4")
_CURRENCIES = "urn:iso:std:iso:4217"


def _money(draft: Draft, by: By, money: dict[str, Any], place: str) -> None:
    """STU3's Money is a Quantity whose code is the currency (STU3 datatypes.html#money)."""
    if "currency" in money or money.get("system", _CURRENCIES) != _CURRENCIES:
        return
    before = dict(money)
    code = money.pop("code", None)
    money.pop("system", None)
    # mny-1 lets the unit only repeat the currency in words.
    money.pop("unit", None)
    if code is not None:
        money["currency"] = code
    recast(draft, by, place, before, dict(money))


def _dosage(draft: Draft, by: By, dosage: dict[str, Any], place: str) -> None:
    """Dose and rate stand together in R4 (dosage.html)."""
    moved = {key: dosage[key] for key in _DOSE if key in dosage}
    if moved and "doseAndRate" not in dosage:
        items = list(dosage.items())
        dosage.clear()
        for key, value in items:
            if key in moved:
                dosage.setdefault("doseAndRate", [moved])
            else:
                dosage[key] = value
        recast(draft, by, place, dict(items), dict(dosage))


_DOSE = ("doseRange", "doseQuantity", "rateRatio", "rateRange", "rateQuantity")


def _signature(draft: Draft, by: By, signature: dict[str, Any], place: str) -> None:
    before = dict(signature)
    for old, new in (("blob", "data"), ("contentType", "sigFormat")):
        if old in signature:
            signature[new] = signature.pop(old)
    for element in ("who", "onBehalfOf"):
        if f"{element}Reference" in signature:
            signature[element] = signature.pop(f"{element}Reference")
        elif f"{element}Uri" in signature:
            signature[element] = {"identifier": {"value": signature.pop(f"{element}Uri")}}
    recast(draft, by, place, before, dict(signature))


def _related_artifact(draft: Draft, by: By, artifact: dict[str, Any], place: str) -> None:
    resource = artifact.get("resource")
    if type(resource) is dict and "reference" in resource:
        artifact["resource"] = resource["reference"]
        recast(draft, by, f"{place}.resource", resource, artifact["resource"])


def _dosage_r5(draft: Draft, by: By, dosage: dict[str, Any], place: str) -> None:
    """R5 says "as needed" and "for what" apart; in R4 the reason implies that it is as needed (dosage.html)."""
    if "asNeededFor" in dosage:
        draft.changed(IMPLIED, f"{place}.asNeeded", dosage.pop("asNeeded", None), None)
        before = dict(dosage)
        first, *more = dosage.pop("asNeededFor")
        dosage["asNeededCodeableConcept"] = first
        if more:
            url = url_of("R5", "Dosage.asNeededFor")
            held = dosage.get("extension", [])
            dosage["extension"] = [*held, *({"url": url, "valueCodeableConcept": each} for each in more)]
        recast(draft, by, place, before, dict(dosage))


# Milliseconds in the UCUM units that R5's samples may be apart; R4 knows milliseconds alone (SampledData.period).
_MILLISECONDS = {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001"), "min": Decimal(60_000)}


def _sampled_data(draft: Draft, by: By, data: dict[str, Any], place: str) -> None:
    factor = _MILLISECONDS.get(str(data.get("intervalUnit")))
    interval = data.get("interval")
    if factor is None or not isinstance(interval, (int, Decimal)):
        return
    before = dict(data)
    del data["interval"], data["intervalUnit"]
    data["period"] = interval if factor == 1 else interval * factor
    recast(draft, by, place, before, dict(data), {"period": f"{place}.interval"})


def _trigger(draft: Draft, by: By, trigger: dict[str, Any], place: str) -> None:
    before = dict(trigger)
    for old in [key for key in trigger if key.startswith("event")]:
        # eventName → name, eventTimingDate → timingDate, eventData → data.
        new = old[5].lower() + old[6:]
        trigger[new] = [trigger.pop(old)] if new == "data" else trigger.pop(old)
    recast(draft, by, place, before, dict(trigger))


DATATYPES: Mapping[str, Mapping[str, Convert]] = {
    "STU3": {
        "Money": _money,
        "Dosage": _dosage,
        "Signature": _signature,
        "RelatedArtifact": _related_artifact,
        "TriggerDefinition": _trigger,
    },
    "R4B": {},
    "R5": {"Dosage": _dosage_r5, "SampledData": _sampled_data},
}
"""By the sender's release."""
