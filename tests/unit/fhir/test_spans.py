"""The bytes of an element: found in JSON however it is written, and judged by a writer that notes where it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.spans import Span, Step, all_spans, find_span, resource_steps, steps_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from([0, -1, 10**20]),
    st.sampled_from(["1.10", "1e2", "-0.0"]).map(float),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))
)
SPACES = st.sampled_from([b"", b" ", b"\r\n\t", b"  "])


class Writer:
    """The second definition: writes a document and knows where each value begins and ends, for it put it there."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.out = b""
        self.spans: dict[tuple[Step, ...], Span] = {}

    def write(self, value: Any, steps: tuple[Step, ...] = ()) -> None:
        self._space()
        start = len(self.out)
        if isinstance(value, dict):
            self._group(b"{}", [(key, item, self._text(key)) for key, item in value.items()], steps)
        elif isinstance(value, list):
            self._group(b"[]", [(number, item, b"") for number, item in enumerate(value)], steps)
        else:
            self.out += self._text(value) if isinstance(value, str) else json.dumps(value).encode()
        self.spans[steps] = Span(start, len(self.out))
        self._space()

    def _group(self, brackets: bytes, items: list[tuple[Step, Any, bytes]], steps: tuple[Step, ...]) -> None:
        self.out += brackets[:1]
        self._space()
        for count, (step, item, name) in enumerate(items):
            if count:
                self.out += b","
            if name:
                self._space()
                self.out += name
                self._space()
                self.out += b":"
            self.write(item, (*steps, step))
        self.out += brackets[1:]

    def _text(self, text: str) -> bytes:
        return json.dumps(text, ensure_ascii=self._draw(st.booleans())).encode()

    def _space(self) -> None:
        self.out += self._draw(SPACES)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.data())
def test_every_value_is_found_where_the_writer_put_it(value: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(data.draw)
    writer.write(value)
    for steps, span in writer.spans.items():
        assert find_span(writer.out, steps) == span
    assert all_spans(writer.out) == writer.spans
    assert find_span(writer.out, ("nowhere at all",)) is None
    assert find_span(writer.out, (0,)) is None


def test_the_offsets_are_bytes_and_escapes_in_keys_and_strings_mean_what_json_says() -> None:
    document = '{"ü": "a\\"]}", "k\\u0065y": [{"x":"\\\\"} , 1.10 ]}'.encode()
    assert find_span(document, ("ü",)) == Span(7, 14)
    (text, number) = (find_span(document, ("key", 0, "x")), find_span(document, ("key", 1)))
    assert text is not None
    assert json.loads(text.of(document)) == "\\"
    assert number is not None
    assert number.of(document) == b"1.10"


def test_a_key_that_stands_twice_is_found_nowhere() -> None:
    document = b'{"a": {"b": 1, "b": 2, "c": 3}, "d": 4}'
    assert find_span(document, ("a", "b")) is None
    assert find_span(document, ("a", "c")) is not None
    assert set(all_spans(document)) == {(), ("a",), ("a", "c"), ("d",)}


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("Patient", ()),
        ("Patient._birthDate.extension[0].url", ("_birthDate", "extension", 0, "url")),
        ("Observation.code.coding[1].code", ("code", "coding", 1, "code")),
        ("Bundle.entry[0][12]", ("entry", 0, 12)),
    ],
)
def test_a_path_is_a_type_keys_and_numbers(path: str, steps: tuple[Step, ...]) -> None:
    assert steps_of(path) == steps


@pytest.mark.parametrize("path", ["a..b", "a.b[", "a[x]", "a]b", ".a"])
def test_what_is_not_written_like_a_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        steps_of(path)


def test_the_resource_stands_in_its_entry_or_alone() -> None:
    alone, entry = b'{"resourceType":"Patient"}', b'{"fullUrl":"u","resource":{"resourceType":"Patient"}}'
    assert (resource_steps(alone), resource_steps(entry)) == ((), ("resource",))
    assert parse(entry)["resource"] == parse(alone)
