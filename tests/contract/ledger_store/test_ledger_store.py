"""Every store of a ledger keeps the port's promises."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.ledger_store.ledger_store_contract import LedgerStoreContract
from tests.contract.ledger_store.ledger_store_samples import StoreWorld
from tests.contract.ledger_store.ledger_store_worlds import WORLDS


@pytest.fixture(params=WORLDS, ids=lambda made: made.__name__)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> StoreWorld:
    make: Callable[[Path], StoreWorld] = request.param
    return make(tmp_path)


class TestLedgerStoresKeepTheContract(LedgerStoreContract):
    pass
