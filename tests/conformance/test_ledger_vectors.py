"""Published vectors, fetched as the Go modules that carry them: Wycheproof, BLAKE3, RFC 6962 and 9162 trees.

Origins and licences are in tests/vectors/ledger/SOURCES.md. Without Go these
tests fail; they are never skipped.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger_core.errors import ProofInvalid
from ledger_core.hashing import CONTENT_SUITES, DIGEST_BLAKE3, TREE_BLAKE3, TREE_SUITES, leaf_hash, node_hash
from ledger_core.keys import is_signed
from ledger_core.log import Frontier, MerkleBatch
from ledger_core.proofs import verify_consistency, verify_inclusion
from tests.peers.gotools import BLAKE3, ROOT, VECTORS, WYCHEPROOF, build, module_folder

_WITHOUT_LIBSODIUM = """
import json, sys
sys.modules["nacl"] = None
from ledger_core.keys import _libsodium, is_signed
assert _libsodium() is None
cases = json.load(sys.stdin)
json.dump([is_signed(*map(bytes.fromhex, case)) for case in cases], sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Signed:
    name: str
    public: bytes
    message: bytes
    signature: bytes
    is_valid: bool


@pytest.fixture(scope="module")
def wycheproof() -> Path:
    return module_folder(VECTORS, WYCHEPROOF) / "testvectors_v1"


@pytest.fixture(scope="module")
def blake3_cases() -> list[dict[str, Any]]:
    folder = module_folder(VECTORS, BLAKE3)
    cases: list[dict[str, Any]] = json.loads((folder / "testdata" / "vectors.json").read_text("utf-8"))["cases"]
    assert len(cases) == 22
    return cases


@pytest.fixture(scope="module")
def results() -> Any:
    done = subprocess.run([build(VECTORS)], capture_output=True, timeout=240, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trees(results: Any) -> Any:
    return results["merkle"]


def test_ed25519_signatures_are_judged_as_wycheproof_says(wycheproof: Path) -> None:
    cases = list(_read(wycheproof / "ed25519_test.json"))
    assert len(cases) == 151
    wrong = [case.name for case in cases if is_signed(case.public, case.message, case.signature) != case.is_valid]
    assert wrong == []


def test_ed25519_signatures_are_judged_the_same_without_libsodium(wycheproof: Path) -> None:
    cases = list(_read(wycheproof / "ed25519_test.json"))
    given = [[case.public.hex(), case.message.hex(), case.signature.hex()] for case in cases]
    command = [sys.executable, "-c", _WITHOUT_LIBSODIUM]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, cwd=ROOT, timeout=240, check=True
    )
    assert json.loads(done.stdout) == [case.is_valid for case in cases]


def test_ml_dsa_44_signatures_are_judged_as_wycheproof_says(wycheproof: Path) -> None:
    cases = list(_read(wycheproof / "mldsa_44_verify_test.json"))
    assert len(cases) == 180
    assert sum(case.is_valid for case in cases) == 75
    wrong = [case.name for case in cases if is_signed(case.public, case.message, case.signature) != case.is_valid]
    assert wrong == []


def test_blake3_digests_equal_the_official_ones(blake3_cases: list[dict[str, Any]]) -> None:
    # Keyed and derive-key vectors are left out: no suite of the ledger uses those modes.
    new = CONTENT_SUITES[DIGEST_BLAKE3]
    for case in blake3_cases:
        data = bytes(number % 251 for number in range(case["input_len"]))
        wanted = case["hash"][:64]
        assert new(data).hexdigest() == wanted
        assert new(data).digest() == TREE_SUITES[TREE_BLAKE3](data) == bytes.fromhex(wanted)


@pytest.mark.parametrize("step", [1, 63, 1024, 4096])
def test_blake3_updated_in_pieces_and_copied_half_way_gives_the_official_digest(
    blake3_cases: list[dict[str, Any]], step: int
) -> None:
    for case in blake3_cases:
        if case["input_len"] > 8193 and step == 1:
            continue
        data = bytes(number % 251 for number in range(case["input_len"]))
        hasher = CONTENT_SUITES[DIGEST_BLAKE3](b"")
        half = len(data) // 2
        for start in range(0, half, step):
            hasher.update(data[start : min(start + step, half)])
        other = hasher.copy()
        other.update(b"something else")
        for start in range(half, len(data), step):
            hasher.update(data[start : start + step])
        assert hasher.hexdigest() == case["hash"][:64]
        assert hasher.hexdigest() == case["hash"][:64], "asking twice must not change it"
        assert other.digest() != hasher.digest()
        assert (hasher.digest_size, hasher.name) == (32, "blake3")


def test_blake3_of_every_short_input_is_what_another_implementation_says(results: Any) -> None:
    assert len(results["blake3"]) == 2201
    for length, digest in enumerate(_all(results["blake3"])):
        assert CONTENT_SUITES[DIGEST_BLAKE3](bytes(i % 251 for i in range(length))).digest() == digest


def test_the_reference_trees_of_certificate_transparency(trees: Any) -> None:
    inputs = _all(trees["inputs"])
    assert len(inputs) == 8
    frontier = Frontier()
    assert frontier.root() == _b(trees["input_roots"][0])
    for size, data in enumerate(inputs, 1):
        frontier = frontier.append([leaf_hash(data)])
        assert frontier.root() == _b(trees["input_roots"][size])
    rows = [[_b(item) for item in row] for row in trees["input_nodes"]]
    assert [leaf_hash(data) for data in inputs] == rows[0]
    for below, row in itertools.pairwise(rows):
        assert [node_hash(below[2 * i], below[2 * i + 1]) for i in range(len(row))] == row


def test_inclusion_proofs_of_another_tree_verify_and_no_other_place_does(trees: Any) -> None:
    leaves = [leaf_hash(entry) for entry in _all(trees["entries"])]
    for case in trees["inclusion"]:
        index, size, path, root = case["index"], case["size"], _all(case["path"]), _b(trees["roots"][case["size"]])
        verify_inclusion(leaves[index], index=index, tree_size=size, path=path, root=root)
        for other in {index ^ 1, index + 1, size - 1 - index} - {index}:
            with pytest.raises(ProofInvalid):
                verify_inclusion(leaves[index], index=other, tree_size=size, path=path, root=root)


def test_consistency_proofs_of_another_tree_verify_and_no_other_size_does(trees: Any) -> None:
    roots = _all(trees["roots"])
    for case in trees["consistency"]:
        old, new, path = case["old"], case["new"], _all(case["path"])
        verify_consistency(old_size=old, old_root=roots[old], new_size=new, new_root=roots[new], path=path)
        with pytest.raises(ProofInvalid):
            verify_consistency(old_size=old, old_root=roots[old - 1], new_size=new, new_root=roots[new], path=path)


def test_a_path_that_stops_below_the_root_is_refused_under_what_it_leads_to(trees: Any) -> None:
    leaves, roots = [leaf_hash(entry) for entry in _all(trees["entries"])], _all(trees["roots"])
    for case in trees["inclusion"]:
        if case["index"] == 0 and case["size"] > 1:
            path = _all(case["path"])[:-1]
            with pytest.raises(ProofInvalid):
                verify_inclusion(leaves[0], index=0, tree_size=case["size"], path=path, root=_fold(leaves[0], path))
    for case in trees["consistency"]:
        old, new = case["old"], case["new"]
        if old & (old - 1) == 0 and old < new:
            path = _all(case["path"])[:-1]
            reached = _fold(roots[old], path)
            with pytest.raises(ProofInvalid):
                verify_consistency(old_size=old, old_root=roots[old], new_size=new, new_root=reached, path=path)


def test_batches_of_commitments_hash_them_as_entries(trees: Any) -> None:
    commitments = [leaf_hash(entry) for entry in _all(trees["entries"])]
    for size in range(1, len(commitments) + 1):
        batch = MerkleBatch(commitments[:size])
        for index in range(size):
            verify_inclusion(
                leaf_hash(commitments[index]), index=index, tree_size=size, path=batch.path(index), root=batch.root
            )


def _fold(current: bytes, path: list[bytes]) -> bytes:
    """Climb from the left edge of a tree, where every sibling stands to the right."""
    for sibling in path:
        current = node_hash(current, sibling)
    return current


def _read(file: Path) -> Iterator[Signed]:
    """Yield the cases of a Wycheproof file; a signature under a context counts as false, for the ledger has none."""
    for group in json.loads(file.read_text("utf-8"))["testGroups"]:
        key = group["publicKey"]
        public = bytes.fromhex(key if isinstance(key, str) else key["pk"])
        for case in group["tests"]:
            yield Signed(
                name=f"{file.stem} {case['tcId']}: {case['comment']}",
                public=public,
                message=bytes.fromhex(case["msg"]),
                signature=bytes.fromhex(case["sig"]),
                is_valid=case["result"] == "valid" and not case.get("ctx"),
            )


def _b(text: str) -> bytes:
    return base64.b64decode(text)


def _all(texts: list[str] | None) -> list[bytes]:
    return [_b(text) for text in texts or []]
