"""Datatypes that changed between STU3 and R4: Money, Dosage, Signature, RelatedArtifact.

For ``fit-to-r4``, which finds them wherever they stand. Sources: the lists "R3 Diff" on R4's datatype pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhir_bridge.normalize.draft import By, Draft

Convert = Callable[[Draft, By, dict[str, Any], str], None]
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
    draft.changed(by, place, before, dict(money), sources={"currency": f"{place}.code"})


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
        sources = {f"doseAndRate[0].{key}": f"{place}.{key}" for key in moved}
        draft.changed(by, place, dict(items), dict(dosage), sources=sources)


_DOSE = ("doseRange", "doseQuantity", "rateRatio", "rateRange", "rateQuantity")


def _signature(draft: Draft, by: By, signature: dict[str, Any], place: str) -> None:
    before, sources = dict(signature), {}
    for old, new in (("blob", "data"), ("contentType", "sigFormat")):
        if old in signature:
            signature[new] = signature.pop(old)
            sources[new] = f"{place}.{old}"
    for element in ("who", "onBehalfOf"):
        if f"{element}Reference" in signature:
            signature[element] = signature.pop(f"{element}Reference")
            sources[element] = f"{place}.{element}Reference"
        elif f"{element}Uri" in signature:
            signature[element] = {"identifier": {"value": signature.pop(f"{element}Uri")}}
            sources[f"{element}.identifier.value"] = f"{place}.{element}Uri"
    draft.changed(by, place, before, dict(signature), sources=sources)


def _related_artifact(draft: Draft, by: By, artifact: dict[str, Any], place: str) -> None:
    resource = artifact.get("resource")
    if type(resource) is dict and "reference" in resource:
        artifact["resource"] = resource["reference"]
        sources = {"": f"{place}.resource.reference"}
        draft.changed(by, f"{place}.resource", resource, artifact["resource"], sources=sources)


DATATYPES: Mapping[str, Convert] = {
    "Money": _money,
    "Dosage": _dosage,
    "Signature": _signature,
    "RelatedArtifact": _related_artifact,
}
