"""Reading YAML: values as another reader gives them, YAML 1.2's where 1.1 differs, a place for every mistake."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fhir_bridge.normalize.yaml_text import Fault, load
from tests.unit.normalize.bench import MAPPINGS

FILES = sorted(MAPPINGS.rglob("*.yaml"))


def read(folder: Path, text: str) -> Any:
    (folder / "t.yaml").write_text(text)
    return load(folder / "t.yaml", "t.yaml").plain()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_pack_reads_as_the_reader_written_in_python_reads_it(path: Path) -> None:
    assert load(path, path.name).plain() == YAML(typ="safe", pure=True).load(path.read_text("utf-8"))


# YAML 1.2, section 10.3.2 "Tag Resolution"; in 1.1 the first row would be true, the second 10.
VALUES = [
    ("yes", "yes"),
    ("012", 12),
    ("0o14", 12),
    ("0x1F", 31),
    ("1.10", Decimal("1.10")),
    ("-1e3", Decimal("-1e3")),
    ("~", None),
    ("true", True),
    ('"true"', "true"),
    ("'1'", "1"),
    ("{system: http://loinc.org, code: a}", {"system": "http://loinc.org", "code": "a"}),
    ("[a:b, c]", ["a:b", "c"]),
    ("&x {b: 1}\nw: *x", {"b": 1}),
    (">-\n  two\n  lines", "two lines"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_is_what_yaml_1_2_says(tmp_path: Path, text: str, value: object) -> None:
    found = read(tmp_path, f"v: {text}\n")["v"]
    assert found == value
    assert str(found) == str(value)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1", "duplicate key 'a'"),
        ("a: {b: 1, b: 2}\n", "1:11", "duplicate key 'b'"),
        ("a: [1\nb: 2\n", "2:2", ""),
        ('a: "\\q"\n', "1:6", "'q'"),
        ("a: *nothing\n", "1:4", "alias"),
        ("a: 1\n---\nb: 2\n", "2:1", "another document"),
        ("? [a, b]\n: 1\n", "1:3", "plain word"),
        ("a:\n  <<: {b: 1}\n", "2:3", "plain word"),
        ("a: 2026-01-01\n", "1:1", "a date has no JSON form"),
        ("a: .inf\n", "1:1", "has no JSON form"),
    ],
)
def test_a_mistake_has_its_place(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(Fault) as told:
        read(tmp_path, text)
    assert str(told.value).startswith(f"t.yaml:{place} ")
    assert words in str(told.value)
    assert f"{told.value.spot.line}:{told.value.spot.column}" == place


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(Fault, match="cannot be read"):
        load(tmp_path / "t.yaml", "t.yaml")


@pytest.mark.parametrize("text", ["a: " + "[" * 20_000, "a: " + "{b: " * 20_000, "- " * 20_000], ids=["[", "{", "-"])
def test_what_is_nested_without_end_is_a_fault_of_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(Fault):
        read(tmp_path, text)
    with pytest.raises(Fault, match="nested"):
        read(tmp_path, "a: " + "[" * 5_000 + "]" * 5_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: &a [x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)},' * 9}]\n" for n in range(9)),
            "aliases",
        ),
        ("a: &a [*a]\n", "alias"),
        ("a: " + "[" * 5_000 + "]" * 5_000, "too deep"),
    ],
)
def test_a_file_that_would_never_end_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Fault, match=words):
        read(tmp_path, text)
