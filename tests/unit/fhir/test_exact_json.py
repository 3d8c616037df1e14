"""Decoding and encoding keep what matters and refuse what two readers could read differently."""

import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.json import MAX_DEPTH, NotStrictJson, is_deeper, parse, parse_any, render
from tests.unit.fhir.fhir_samples import example_bytes

NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(NUMBERS)
def test_a_number_keeps_its_text(text: str) -> None:
    assert render(parse(b'{"n":' + text.encode() + b"}")) == b'{"n":' + text.encode() + b"}"


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_a_value_survives_as_the_standard_library_sees_it(value: dict[str, Any]) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    assert json.loads(render(parse(data))) == value
    assert list(parse(data)) == list(value)


@given(VALUES)
def test_escapes_and_raw_characters_decode_alike(value: Any) -> None:
    assert parse_any(json.dumps(value, ensure_ascii=True).encode()) == parse_any(
        json.dumps(value, ensure_ascii=False).encode()
    )


@pytest.mark.parametrize("release", ["r4", "stu3"])
def test_official_examples_come_back_byte_for_byte(release: str) -> None:
    for line in example_bytes(release):
        compact = render(parse(line))
        assert render(parse(compact)) == compact
        texts = json.loads(line, parse_float=str, parse_int=str)
        assert json.loads(compact, parse_float=str, parse_int=str) == texts


def test_an_exact_number_crosses_to_another_process() -> None:
    value = parse(b'{"a":1e2,"b":-0,"c":0.00000001}')
    assert render(pickle.loads(pickle.dumps(value))) == b'{"a":1e2,"b":-0,"c":0.00000001}'
    assert value["a"] == Decimal(100)


REFUSED = {
    "duplicate key": (b'{"a":1,"a":2}', "structure"),
    "duplicate key deep down": (b'{"x":[{"y":{"a":1,"b":2,"a":1}}]}', "structure"),
    "duplicate key, spelled with an escape": (b'{"a":1,"\\u0061":2}', "structure"),
    "NaN": (b'{"a":NaN}', "structure"),
    "Infinity": (b'{"a":-Infinity}', "structure"),
    "NUL escape": (b'{"a":"x\\u0000"}', "value"),
    "NUL in a key": (b'{"a\\u0000":1}', "value"),
    "raw NUL": (b'{"a":"\0"}', "structure"),
    "raw control character": (b'{"a":"\x01"}', "structure"),
    "lone high surrogate": (b'{"a":"\\ud83d"}', "value"),
    "lone low surrogate": (b'{"a":"\\ude00 "}', "value"),
    "surrogates in the wrong order": (b'{"a":"\\ude00\\ud83d"}', "value"),
    "surrogate as CESU-8 bytes": (b'{"a":"\xed\xa0\xbd"}', "structure"),
    "overlong UTF-8": (b'{"a":"\xc0\x80"}', "structure"),
    "latin-1": ('{"a":"ä"}'.encode("latin-1"), "structure"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "structure"),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}', "structure"),
    "trailing data": (b'{"a":1}{"b":2}', "structure"),
    "trailing comma": (b'{"a":1,}', "structure"),
    "comment": (b'{"a":1/*x*/}', "structure"),
    "single quotes": (b"{'a':1}", "structure"),
    "cut off": (b'{"a":"b', "structure"),
    "empty": (b"", "structure"),
    "array at the root": (b'[{"a":1}]', "structure"),
    "string at the root": (b'"a"', "structure"),
    "leading zero": (b'{"a":01}', "structure"),
    "plus sign": (b'{"a":+1}', "structure"),
    "number of a thousand digits": (b'{"a":1' + b"0" * 1000 + b"}", "value"),
    "exponent beyond reason": (b'{"a":1e999999999}', "value"),
    "exponent beyond decimal": (b'{"a":1e99999999999999999999999}', "value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_strict_is_refused(name: str) -> None:
    data, code = REFUSED[name]
    with pytest.raises(NotStrictJson) as caught:
        parse(data)
    assert [i.code for i in caught.value.issues] == [code]


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    assert parse(b'{"a":"\\\\u0000"}') == {"a": "\\u0000"}


def test_diagnostics_do_not_quote_the_input() -> None:
    for data in (b'{"Zzcanary":1,"Zzcanary":2}', b'{"a":"Zzcanary\\ud800"}', b'{"a":"Zzcanary'):
        with pytest.raises(NotStrictJson) as caught:
            parse(data)
        assert "Zzcanary" not in str(caught.value) + repr(caught.value.issues)


def test_the_place_of_a_bad_string_is_told() -> None:
    with pytest.raises(NotStrictJson) as caught:
        parse(b'{"resourceType":"Patient","name":[{"given":["a"]},{"given":["a","\\ud800"]}]}')
    assert caught.value.issues[0].expression == "Patient.name[1].given[1]"


@pytest.mark.parametrize(("levels", "refused"), [(MAX_DEPTH, False), (MAX_DEPTH + 1, True), (200_000, True)])
def test_depth_is_limited_before_anything_recursive_runs(levels: int, refused: bool) -> None:
    data = b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    if refused:
        with pytest.raises(NotStrictJson):
            parse(data)
    else:
        assert parse(data)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(VALUES | st.lists(st.text('{}[]"\\', max_size=6)), st.integers(0, 6))
def test_depth_counts_brackets_but_not_those_in_strings(value: Any, limit: int) -> None:
    assert is_deeper(json.dumps(value).encode(), limit) is (_depth(value) > limit)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(NotStrictJson) as caught:
        parse(b'{"a":"' + b"x" * 100 + b'"}', max_bytes=50)
    assert caught.value.issues[0].code == "too-long"
