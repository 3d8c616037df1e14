"""The quick hashes are SHA-256, whoever computes them."""

import hashlib
import importlib.util
import sys
from types import ModuleType

import pytest

from ledger_core import hashing, quickhash
from ledger_core.errors import NotCanonical
from ledger_core.hashing import TREE_BLAKE3, TREE_SUITES


def _without_own_code(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the module anew where the interpreter has no SHA-256 of its own."""
    monkeypatch.setitem(sys.modules, "_sha256", None)
    spec = importlib.util.find_spec("ledger_core.quickhash")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["own", "hashlib"])
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return quickhash if request.param == "own" else _without_own_code(monkeypatch)


def test_every_length_gives_plain_sha256(quick: ModuleType) -> None:
    for length in range(300):
        data = bytes(number * 7 % 256 for number in range(length))
        assert quick.quick_sha256(data) == hashlib.sha256(data).digest()


def test_rows_are_those_of_the_definition(quick: ModuleType) -> None:
    entries = [bytes((number,)) * 32 for number in range(9)]
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
    pairs = [hashlib.sha256(b"\1" + leaves[at] + leaves[at + 1]).digest() for at in range(0, 8, 2)]
    assert quick.leaf_hashes(entries) == leaves
    assert quick.node_hashes(leaves) == pairs
    assert quick.row_above(b"".join(leaves[:8])) == b"".join(pairs)


@pytest.mark.parametrize("suite", sorted(TREE_SUITES))
def test_a_suite_is_the_one_that_verifiers_use(quick: ModuleType, suite: int) -> None:
    for data in (b"", bytes(65), bytes(500)):
        assert quick.quick_suite(suite)(data) == hashing.tree_suite(suite)(data)


def test_an_unknown_suite_is_none() -> None:
    with pytest.raises(NotCanonical, match="unknown tree suite 3"):
        quickhash.quick_suite(TREE_BLAKE3 + 1)
