"""All paths of a batch at once are the paths asked for one by one, and lead to its root."""

import pytest

from ledger_core.hashing import leaf_hash
from ledger_core.log import MerkleBatch
from ledger_core.proofs import verify_inclusion


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 100, 257])
def test_every_path_leads_to_the_root(count: int) -> None:
    commitments = [number.to_bytes(32, "big") for number in range(count)]
    batch = MerkleBatch(commitments)
    paths = batch.paths()
    assert paths == [batch.path(index) for index in range(count)]
    for index, path in enumerate(paths):
        verify_inclusion(leaf_hash(commitments[index]), index=index, tree_size=count, path=path, root=batch.root)


def test_asking_leaves_the_batch_as_it_was() -> None:
    batch = MerkleBatch([bytes([number]) * 32 for number in range(11)])
    root = batch.root
    assert batch.paths() == batch.paths()
    assert batch.root == root
    assert MerkleBatch([bytes([number]) * 32 for number in range(11)]).path(7) == batch.path(7)
