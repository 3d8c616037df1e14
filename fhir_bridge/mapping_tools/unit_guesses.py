"""Guess the UCUM code behind a unit's house spelling, for ``map new`` and ``map unmapped``.

A guess is a candidate beside an empty cell, never a value.

Candidates come from the common spellings of laboratories and wards; each is checked by the grammar of UCUM
(https://ucum.org/ucum version 2.1), so that a candidate is always a code.
"""

from __future__ import annotations

import re

from fhir_bridge.fhir.ucum import is_ucum

_WORDS = {
    "ph": "[pH]",
    "bpm": "/min",
    "beats/min": "/min",
    "breaths/min": "/min",
    "per minute": "/min",
    "mmhg": "mm[Hg]",
    "mm hg": "mm[Hg]",
    "torr": "mm[Hg]",
    "deg f": "[degF]",
    "degf": "[degF]",
    "°f": "[degF]",
    "f": "[degF]",
    "fahrenheit": "[degF]",
    "deg c": "Cel",
    "degc": "Cel",
    "°c": "Cel",
    "c": "Cel",
    "celsius": "Cel",
    "lb": "[lb_av]",
    "lbs": "[lb_av]",
    "pounds": "[lb_av]",
    "oz": "[oz_av]",
    "in": "[in_i]",
    "inch": "[in_i]",
    "inches": "[in_i]",
    "ft": "[ft_i]",
    "feet": "[ft_i]",
    "kilo": "kg",
    "kgs": "kg",
    "percent": "%",
    "pct": "%",
    "sec": "s",
    "secs": "s",
    "seconds": "s",
    "mins": "min",
    "minutes": "min",
    "hrs": "h",
    "hours": "h",
    "days": "d",
    "years": "a",
    "yr": "a",
    "score": "{score}",
    "ratio": "{ratio}",
    "inr": "{INR}",
    "index": "{index}",
    "iu/l": "[IU]/L",
    "iu/ml": "[IU]/mL",
    "u/l": "U/L",
    "miu/l": "m[IU]/L",
    "uiu/ml": "u[IU]/mL",
    "miu/ml": "m[IU]/mL",
    "mu/l": "m[IU]/L",
    "k/ul": "10*3/uL",
    "x10e3/ul": "10*3/uL",
    "10^3/ul": "10*3/uL",
    "thou/ul": "10*3/uL",
    "g/l": "g/L",
    "m/ul": "10*6/uL",
    "mil/ul": "10*6/uL",
    "x10e6/ul": "10*6/uL",
    "10^6/ul": "10*6/uL",
    "gpt/l": "10*9/L",
    "10^9/l": "10*9/L",
    "tpt/l": "10*12/L",
    "10^12/l": "10*12/L",
    "/hpf": "/[HPF]",
    "/lpf": "/[LPF]",
    "mm/hr": "mm/h",
    "mosm/kg": "mosm/kg",
    "meq/l": "meq/L",
    "cc": "mL",
    "mcg": "ug",
    "mcg/l": "ug/L",
    "mcg/dl": "ug/dL",
    "mcg/ml": "ug/mL",
    "ppm": "[ppm]",
}
_EXACT = {
    "pH": "[pH]",
    "G/l": "10*9/L",
    "G/L": "10*9/L",
    "T/l": "10*12/L",
    "T/L": "10*12/L",
    "K/uL": "10*3/uL",
    "K/UL": "10*3/uL",
    "MIU/L": "",
    "MIU/ML": "",
    "MU/L": "",
}
"""Spellings that the grammar reads as something else (picohenry, gauss, tesla, kelvin), or that say milli or mega."""

_PARTS = re.compile(r"^(?P<above>[A-Za-zµμ%]+)(?:\s+(?:per|pro)\s+|\s*/\s*)(?P<below>(?:10+\s*)?[A-Za-zµμ]+)$")
_POWER = re.compile(r"^x?\s*10\s*[*^e]\s*(?=[0-9])", re.IGNORECASE)
_SURFACE = re.compile(r"/1\.73\s*(?:m2|sqm)$")
_LITRE = re.compile(r"^(?P<prefix>[munpfdc]?)l$")


def guess_ucum(unit: str) -> str:
    """Return the UCUM code that a unit's text most likely means; empty for no idea."""
    text = " ".join(unit.split()).replace("²", "2")
    if text in _EXACT:
        return _EXACT[text]
    surface = _SURFACE.search(text)
    if surface is not None:
        rate = guess_ucum(text[: surface.start()])
        return f"{rate}/{{1.73_m2}}" if rate else ""
    if text and not text.isupper() and is_ucum(text):
        return _in_litres(text)
    for candidate in _candidates(text):
        if is_ucum(candidate):
            return _in_litres(candidate)
    return ""


def _in_litres(code: str) -> str:
    """Both l and L are UCUM; L is what laboratories' guides ask for."""
    return re.sub(r"(?:(?<=/)|^)([munpfdc]?)l(?=$|/)", r"\1L", code)


def _candidates(text: str) -> list[str]:
    found = []
    low = text.lower().replace("μ", "u").replace("µ", "u")
    if low in _WORDS:
        found.append(_WORDS[low])
    if text.isupper():
        found.append(low)
    plain = text.replace("μ", "u").replace("µ", "u").replace("mcg", "ug").replace(" ", "")
    found += [plain, _POWER.sub("10*", plain)]
    match = _PARTS.match(text.replace("μ", "u").replace("µ", "u").replace("mcg", "ug"))
    if match is not None:
        below = match["below"].replace(" ", "")
        litre = _LITRE.match(below.lower())
        found.append(f"{_part(match['above'])}/{litre['prefix'] + 'L' if litre else _part(below)}")
    return found


def _part(text: str) -> str:
    low = text.lower()
    if low in _WORDS:
        return _WORDS[low]
    return text if is_ucum(text) else low
