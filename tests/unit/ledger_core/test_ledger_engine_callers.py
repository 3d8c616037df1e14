"""What one caller or a lack of threads does to the embedded engine: nothing to anybody else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ledger_core import Accepted, Anchor, Ledger, Transaction, open_ledger, sign
from tests.unit.ledger_core.ledger_samples import GENESIS, LOG_KEY, OPERATOR, filler


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db", log_identity=LOG_KEY, genesis=GENESIS) as opened:
        yield opened


def anchors(ledger: Ledger, count: int) -> list[bytes]:
    return [
        sign(Transaction(ledger.network, OPERATOR.public, n, Anchor(filler(1), 1)), OPERATOR)
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("wrong", ["text", None, 5, memoryview(b"bytes")])
async def test_what_is_no_bytes_is_told_to_its_caller_and_stops_nobody(ledger: Ledger, wrong: Any) -> None:
    with pytest.raises(TypeError):
        ledger.submit(wrong)
    with pytest.raises(TypeError):
        ledger.submit_many([b"", wrong])
    with pytest.raises(TypeError):
        await ledger.asubmit(wrong)
    assert isinstance(ledger.submit(anchors(ledger, 1)[0]).result(10), Accepted)


def test_without_threads_the_writer_checks_signatures_itself(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def submit(*arguments: object) -> NoReturn:
        asked.append(arguments)
        # What the standard library says when no thread can be started, or none any more.
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    outcomes = ledger.submit_many(anchors(ledger, 20)).result(10)
    assert asked
    assert [isinstance(each, Accepted) for each in outcomes] == [True] * 20
