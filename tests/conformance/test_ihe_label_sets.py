"""IHE PCF's six sensitivity value sets and examples against ours, where IHE's files lie; they are no part of this.

They are read from ``FHIR_BRIDGE_PCF_EXAMPLES`` or from a folder beside the checkout (CC BY 4.0, kept apart). IHE's
files list no concept: each is a list of value sets at VSAC, whose content is behind a licence and not here. So the
share of their concepts that ours label is counted only as far as the files given say what those are
(``FHIR_BRIDGE_VSAC_SETS`` names a folder of VSAC's ValueSets), and that nothing is guessed is tested instead.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fhir_bridge.errors import ValueSetBroken
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.value_set_files import packaged_sets, read_label_sets
from fhir_bridge.fhir.value_sets import ACT_CODE, ValueSet, every_coding

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "ihe" / "pcf"
FOLDER = Path(os.environ.get("FHIR_BRIDGE_PCF_EXAMPLES", BESIDE))
VSAC = os.environ.get("FHIR_BRIDGE_VSAC_SETS")
TOPICS = ("ETH", "ETHUD", "HIV", "OPIOIDUD", "PSY", "SDV")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="IHE's value sets are not here; FHIR_BRIDGE_PCF_EXAMPLES names their folder"
)


def file_of(topic: str) -> Path:
    return FOLDER / f"ValueSet-SlsSensitive{topic}.json"


def vsac() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(VSAC).glob("*.json"))} if VSAC else {}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_set_of_ihe_is_read_whole_or_refused_by_the_set_that_is_missing(topic: str) -> None:
    body = json.loads(file_of(topic).read_bytes())
    named = [url for include in body["compose"]["include"] for url in include.get("valueSet", ())]
    listed = sum(len(include.get("concept", ())) for include in body["compose"]["include"])
    texts = {"t": file_of(topic).read_bytes(), **vsac()}
    missing = [url for url in named if url not in _given(texts)]
    if missing:
        with pytest.raises(ValueSetBroken, match="which is not among the files given") as refused:
            read_label_sets({topic: "t"}, {}, texts)
        assert missing[0] in str(refused.value)
        print(f"{topic}: {listed} concepts listed by IHE, {len(named)} value sets named, {len(missing)} not here")
        return
    (_, theirs) = read_label_sets({topic: "t"}, {}, texts).sets[0]
    ours = dict(packaged_sets().sets)[topic]
    shared = _shared(theirs, ours)
    print(f"{topic}: ours label {shared} of {theirs.size} concepts ({shared / theirs.size:.1%})")
    assert theirs.size > 0


def _given(texts: dict[str, bytes]) -> set[str]:
    return {json.loads(text)["url"] for text in texts.values()}


def _shared(theirs: ValueSet, ours: ValueSet) -> int:
    return sum(ours.holds(system, code) for system, codes in theirs.codes.items() for code in codes)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_set_of_ihe_is_taken_once_what_it_includes_is_given(topic: str) -> None:
    """Each of VSAC's sets is stood in for by one made-up code, so that none may be lost on the way."""
    body = json.loads(file_of(topic).read_bytes())
    named = [url for include in body["compose"]["include"] for url in include["valueSet"]]
    texts = {"t": file_of(topic).read_bytes()}
    for number, url in enumerate(named):
        include = [{"system": "urn:stand-in", "concept": [{"code": f"c{number}"}]}]
        made = {"resourceType": "ValueSet", "url": url, "version": "1", "compose": {"include": include}}
        texts[f"{number}.json"] = json.dumps(made).encode()
    ((label, found),) = read_label_sets({topic: "t"}, {}, texts).sets
    assert (label, found.name) == (topic, f"{body['url']}|{body['version']}")
    assert found.codes == {"urn:stand-in": frozenset(f"c{number}" for number in range(len(named)))}


def test_examples_that_ihe_labels_by_topic_get_that_topic_and_the_others_none() -> None:
    agreed = total = 0
    for path in sorted(FOLDER.glob("Observation-ex-*.json")):
        body = parse(path.read_bytes())
        security = body.get("meta", {}).get("security", [])
        theirs = {label["code"] for label in security if label.get("system") == ACT_CODE} & set(TOPICS)
        ours = {given.label for given in packaged_sets().given(every_coding(body))}
        total += 1
        agreed += theirs <= ours and bool(theirs) == bool(ours)
        assert theirs <= ours, path.name
        assert theirs or not ours, path.name
    print(f"examples of IHE: {agreed} of {total} Observations labelled alike")
    assert total >= 5
