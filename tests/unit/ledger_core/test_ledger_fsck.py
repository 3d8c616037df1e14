"""fsck finds and locates whatever is edited, deleted, added or rolled back, table by table."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger_core import Anchor, IntegrityBroken, OpeningRefused, OpenPath, SetConsent, run_fsck
from ledger_core.cli.main import main
from ledger_core.hashing import leaf_hash
from ledger_core.log import Frontier
from ledger_core.machine import app_hash
from ledger_core.values import state_path
from tests.unit.ledger_core.ledger_samples import (
    NORTH,
    OPERATOR,
    PATIENT,
    filler,
    join,
    open_test_ledger,
)

PATH = filler(60)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of six blocks; entries 2, 4, 6, … are transactions."""
    folder = tmp_path_factory.mktemp("sound")
    with open_test_ledger(folder) as ledger:
        join(ledger)
        ledger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
        for number in range(1, 4):
            ledger.send(SetConsent(PATH, number, filler(number)), PATIENT).result(10)
        (folder / "checkpoint").write_text(ledger.checkpoint(), "utf-8")
        ledger.send(Anchor(filler(9), 4), OPERATOR).result(10)
        (folder / "newest").write_text(ledger.checkpoint(), "utf-8")
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder: Path, *statements: str, **values: bytes | str | int) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    for statement in statements:
        assert connection.execute(statement, values).rowcount > 0
    connection.commit()
    connection.close()


def change_leaf(folder: Path, index: int, leaf: bytes) -> None:
    (hashes,) = next(fetch(folder, "SELECT hashes FROM tiles WHERE id = 0"))
    change(
        folder,
        "UPDATE tiles SET hashes = :new WHERE id = 0",
        new=hashes[: index * 32] + leaf + hashes[index * 32 + 32 :],
    )


def fetch(folder: Path, query: str) -> Iterator[tuple[Any, ...]]:
    connection = sqlite3.connect(folder / "ledger.db")
    rows = connection.execute(query).fetchall()
    connection.close()
    return iter(rows)


def places(folder: Path, checkpoint: str | None = None) -> list[str]:
    return [finding.where for finding in run_fsck(folder / "ledger.db", checkpoint=checkpoint)]


def test_a_sound_ledger_has_no_findings(copy: Path) -> None:
    assert places(copy) == []
    assert places(copy, (copy / "checkpoint").read_text("utf-8")) == []
    assert places(copy, (copy / "newest").read_text("utf-8")) == []


def test_an_edited_entry_is_located(copy: Path) -> None:
    (entry,) = next(fetch(copy, "SELECT entry FROM entries WHERE idx = 6"))
    change(copy, "UPDATE entries SET entry = :entry WHERE idx = 6", entry=entry[:-9] + bytes(9))
    assert "entries/6" in places(copy)
    assert all(place.split("/")[0] in ("entries", "submissions") for place in places(copy))


def test_an_entry_edited_together_with_its_leaf_hash_is_located(copy: Path) -> None:
    (entry,) = next(fetch(copy, "SELECT entry FROM entries WHERE idx = 6"))
    forged = entry[:-9] + bytes(9)
    change(copy, "UPDATE entries SET entry = :entry WHERE idx = 6", entry=forged)
    change_leaf(copy, 6, leaf_hash(forged))
    found = {finding.where: finding.what for finding in run_fsck(copy / "ledger.db")}
    assert "refuse" in found["entries/6"]
    assert "log root" in found["blocks/3"]


def test_an_edited_leaf_hash_is_located_and_nothing_else_is_blamed(copy: Path) -> None:
    change_leaf(copy, 7, bytes(32))
    assert places(copy) == ["tiles/0/0"]


@pytest.mark.parametrize(("name", "value"), [("cosigned", "abc"), ("cosigned", "13"), ("pruned_below", "7")])
def test_a_setting_that_fits_nothing_is_named(copy: Path, name: str, value: str) -> None:
    change(copy, "INSERT INTO meta VALUES (:name, :value)", name=name, value=value)
    assert places(copy) == [f"meta/{name}"]


def test_an_index_that_disagrees_with_its_table_is_found(copy: Path) -> None:
    """Only the database itself reads an index page; what is wrong there would mislead a proof."""
    (page,) = next(fetch(copy, "SELECT rootpage FROM sqlite_schema WHERE name = 'blocks_by_size'"))
    with (copy / "ledger.db").open("r+b") as file:
        file.seek(page * 4096 - 8)
        last = file.read(8)
        file.seek(page * 4096 - 8)
        file.write(bytes(each ^ 1 for each in last))
    assert places(copy)[0] == "database"


def test_missing_and_added_tiles_are_located(copy: Path) -> None:
    change(copy, "UPDATE tiles SET id = 1")
    assert places(copy) == ["tiles/0/1", "tiles/0/0"]


def test_an_edited_state_root_entry_is_located(copy: Path) -> None:
    (entry,) = next(fetch(copy, "SELECT entry FROM entries WHERE idx = 7"))
    change(copy, "UPDATE entries SET entry = :entry WHERE idx = 7", entry=entry[:-1] + bytes([entry[-1] ^ 1]))
    assert places(copy)[:2] == ["entries/7", "entries/7"]


@pytest.mark.parametrize("index", [0, 1, 2, 5, 6])
def test_a_deleted_entry_is_located(copy: Path, index: int) -> None:
    change(copy, f"DELETE FROM entries WHERE idx = {index}")
    assert places(copy)[0] == f"entries/{index}"


def test_a_cut_tail_is_located_by_the_rows_that_remember_it(copy: Path) -> None:
    change(copy, "DELETE FROM entries WHERE idx >= 12")
    found = places(copy)
    assert "blocks/6" in found
    assert "checkpoints/14" in found


@pytest.mark.parametrize("column", ["time_ms", "size", "log_root", "state_root", "app_hash"])
def test_an_edited_block_row_is_located(copy: Path, column: str) -> None:
    value = "zeroblob(32)" if column.endswith(("root", "hash")) else f"{column} + 1"
    change(copy, f"UPDATE blocks SET {column} = {value} WHERE height = 3")
    assert set(places(copy)) == {"blocks/3"}


def test_a_deleted_and_an_added_block_row_are_located(copy: Path) -> None:
    change(copy, "DELETE FROM blocks WHERE height = 3")
    change(
        copy,
        "INSERT INTO blocks SELECT 99, time_ms, size, log_root, state_root, app_hash FROM blocks WHERE height = 2",
    )
    assert set(places(copy)) == {"blocks/3", "blocks/99"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE state SET value = x'00' WHERE path = :path AND height = 4",
        "DELETE FROM state WHERE path = :path AND height = 4",
    ],
)
def test_an_edited_or_deleted_state_row_is_located(copy: Path, statement: str) -> None:
    path = state_path("consent", PATH)
    change(copy, statement, path=path)
    assert places(copy) == [f"state/{path.hex()}/4"]


@pytest.mark.parametrize("before", ["x'00'", "NULL", "value"])
def test_a_row_that_says_it_replaced_another_value_is_located(copy: Path, before: str) -> None:
    path = state_path("consent", PATH)
    change(copy, f"UPDATE state SET before = {before} WHERE path = :path AND height = 4", path=path)
    assert places(copy) == [f"state/{path.hex()}/4"]


def test_a_first_value_that_says_it_replaced_one_is_located(copy: Path) -> None:
    path = state_path("consent", PATH)
    change(copy, "UPDATE state SET before = value WHERE path = :path AND height = 2", path=path)
    assert places(copy) == [f"state/{path.hex()}/2"]


def test_a_state_row_rolled_back_to_an_earlier_value_is_located(copy: Path, tmp_path: Path) -> None:
    with open_test_ledger(tmp_path, name="younger.db") as younger:
        join(younger)
        younger.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
        older_value = younger.value("consent", PATH)
    assert older_value is not None
    path = state_path("consent", PATH)
    change(copy, "UPDATE state SET value = :value WHERE path = :path AND height = 5", path=path, value=older_value)
    assert places(copy) == [f"state/{path.hex()}/5"]


def test_values_cut_off_the_newest_end_are_located(copy: Path) -> None:
    path = state_path("consent", PATH)
    change(copy, "DELETE FROM state WHERE path = :path AND height > 3", path=path)
    assert places(copy) == [f"state/{path.hex()}/4", f"state/{path.hex()}/5"]


def test_pruning_excuses_what_was_superseded_and_nothing_else(copy: Path) -> None:
    path = state_path("consent", PATH)
    with open_test_ledger(copy, genesis=None) as ledger:
        # The path at 2 and 3, and what the join and its member wrote over: operator, configuration, north.
        assert ledger.prune(4) == 2 + 3
    assert places(copy) == []
    change(copy, "UPDATE state SET before = value WHERE path = :path AND height = 4", path=path)
    assert places(copy) == [f"state/{path.hex()}/4"]
    change(copy, "UPDATE state SET before = NULL WHERE path = :path", path=path)
    assert places(copy) == [f"state/{path.hex()}/5"]
    change(copy, "DELETE FROM state WHERE path = :path AND height = 4", path=path)
    assert places(copy) == [f"state/{path.hex()}/5", f"state/{path.hex()}/4"]


def test_an_added_state_row_is_located(copy: Path) -> None:
    change(copy, "INSERT INTO state VALUES (3, :path, x'00', NULL)", path=filler(3))
    assert places(copy) == [f"state/{filler(3).hex()}/3"]


def test_index_rows_are_located(copy: Path) -> None:
    where = f"submissions/{PATIENT.public.hex()}/1"
    change(copy, "UPDATE submissions SET idx = 4 WHERE idx = 6")
    assert places(copy) == [where, where]
    change(copy, "DELETE FROM submissions WHERE signer = :signer AND nonce = 1", signer=PATIENT.public)
    assert places(copy) == [where]
    change(copy, "INSERT INTO submissions VALUES (:signer, 1, 6)", signer=filler(1))
    assert set(places(copy)) == {where, f"submissions/{filler(1).hex()}/1"}


@pytest.mark.parametrize(
    ("name", "value"), [("origin", "other.example/ledger"), ("log_key", "00" * 32), ("log_key", "no key")]
)
def test_an_edited_setting_is_named(copy: Path, name: str, value: str) -> None:
    change(copy, "UPDATE meta SET value = :value WHERE name = :name", name=name, value=value)
    found = places(copy)
    assert found[0] == f"meta/{name}"
    assert all(place.startswith("checkpoints/") for place in found[1:])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM checkpoints WHERE size = 8",
        "UPDATE checkpoints SET note = replace(note, 'example', 'exemple') WHERE size = 8",
        "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 6) WHERE size = 8",
    ],
)
def test_checkpoints_are_located(copy: Path, statement: str) -> None:
    change(copy, statement)
    assert places(copy) == ["checkpoints/8"]


def _roll_back(folder: Path, height: int, size: int) -> None:
    """Undo everything after a block, state included, as whoever restores an old copy does."""
    with open_test_ledger(folder, name="older.db") as older:
        join(older)
        older.send(OpenPath(PATH, PATIENT.public, filler(1)), NORTH).result(10)
    shutil.move(folder / "older.db", folder / "ledger.db")
    assert (height, size) == (2, 6)


@pytest.mark.parametrize("kept", ["checkpoint", "newest"])
def test_a_ledger_rolled_back_as_a_whole_shows_against_an_outside_checkpoint(copy: Path, kept: str) -> None:
    note = (copy / kept).read_text("utf-8")
    _roll_back(copy, 2, 6)
    assert places(copy) == []
    found = list(run_fsck(copy / "ledger.db", checkpoint=note))
    assert [finding.where for finding in found] == ["entries/6"]
    assert "rolled back" in found[0].what


def test_a_rewritten_ledger_shows_against_an_outside_checkpoint(copy: Path) -> None:
    note = (copy / "checkpoint").read_text("utf-8")
    with open_test_ledger(copy, name="other.db") as other:
        for number in range(1, 8):
            other.send(Anchor(filler(number), 1), OPERATOR).result(10)
    shutil.move(copy / "other.db", copy / "ledger.db")
    found = list(run_fsck(copy / "ledger.db", checkpoint=note))
    assert [finding.where for finding in found] == ["entries"]
    assert "rewritten" in found[0].what


def test_a_checkpoint_of_a_stranger_is_no_evidence(copy: Path) -> None:
    assert places(copy, "nonsense") == ["checkpoint"]


def test_rubbish_is_a_finding_and_not_a_crash(copy: Path) -> None:
    change(copy, "UPDATE entries SET entry = x'00' WHERE idx = 0")
    assert places(copy)[0] == "entries/0"
    with (copy / "ledger.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)
    assert places(copy)
    with pytest.raises(OpeningRefused):
        places(copy.parent)


def test_a_ledger_whose_rows_disagree_does_not_open(copy: Path) -> None:
    change(copy, "UPDATE state SET value = x'00' WHERE path = :path", path=state_path("consent", PATH))
    with pytest.raises(IntegrityBroken):
        open_test_ledger(copy, genesis=None)


def test_the_command_line_checks_exports_and_replays(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, stream = str(sound / "ledger.db"), tmp_path / "stream"
    assert main(["fsck", ledger, "--checkpoint", str(sound / "newest")]) == 0
    assert main(["fsck", ledger, "--checkpoint", str(tmp_path / "none")]) == 3
    assert capsys.readouterr().out.startswith("sound")
    assert main(["export", ledger]) == 0
    stream.write_text(capsys.readouterr().out, "ascii")
    assert main(["replay", str(stream)]) == 0
    assert "height 6, size 14" in capsys.readouterr().out
    stream.write_text(stream.read_text("ascii")[:-9], "ascii")
    assert main(["replay", str(stream)]) == 1


def test_the_command_line_lists_findings(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy, "DELETE FROM blocks WHERE height = 3")
    assert main(["fsck", str(copy / "ledger.db")]) == 1
    assert capsys.readouterr().out.splitlines() == ["blocks/3: missing", "1 findings"]


def _cut_a_block_out(folder: Path) -> None:
    """Take block 3 out of every table and close the gap, as somebody who knows the format would."""
    change(
        folder,
        "DELETE FROM submissions WHERE idx = 6",
        "DELETE FROM entries WHERE idx IN (6, 7)",
        "DELETE FROM blocks WHERE height = 3",
        "DELETE FROM checkpoints WHERE size = 8",
        "DELETE FROM state WHERE height = 3",
        "UPDATE state SET before = (SELECT value FROM state AS old WHERE old.path = state.path "
        "AND old.height < state.height ORDER BY old.height DESC LIMIT 1)",
        "UPDATE entries SET idx = idx - 100 WHERE idx > 7",
        "UPDATE entries SET idx = idx + 98 WHERE idx < 0",
        "UPDATE submissions SET idx = idx - 2 WHERE idx > 7",
        "UPDATE blocks SET size = size - 2 WHERE height > 3",
    )
    (hashes,) = next(fetch(folder, "SELECT hashes FROM tiles WHERE id = 0"))
    change(folder, "UPDATE tiles SET hashes = :new WHERE id = 0", new=hashes[: 6 * 32] + hashes[8 * 32 :])


def test_a_block_cut_out_without_a_gap_is_located(copy: Path) -> None:
    _cut_a_block_out(copy)
    found = list(run_fsck(copy / "ledger.db"))
    assert any(finding.where == "blocks/4" and "log root" in finding.what for finding in found)
    assert not [finding for finding in found if finding.where.startswith(("entries/", "state/"))]


def test_a_block_cut_out_with_every_root_recomputed_shows_in_the_checkpoints(copy: Path) -> None:
    _cut_a_block_out(copy)
    leaves = [leaf_hash(entry) for (entry,) in fetch(copy, "SELECT entry FROM entries ORDER BY idx")]
    for height, size, root in list(fetch(copy, "SELECT height, size, state_root FROM blocks WHERE height > 3")):
        assert isinstance(size, int)
        frontier = Frontier().append(leaves[:size])
        change(
            copy,
            "UPDATE blocks SET log_root = :log, app_hash = :app WHERE height = :height",
            log=frontier.root(),
            app=app_hash(size, frontier.root(), root),
            height=height,
        )
    found = {finding.where: finding.what for finding in run_fsck(copy / "ledger.db")}
    assert {place.split("/")[0] for place in found} == {"checkpoints"}
    assert "not what the entries lead to" in found["checkpoints/10"]
    note = (copy / "newest").read_text("utf-8")
    assert "rolled back" in next(
        item.what for item in run_fsck(copy / "ledger.db", checkpoint=note) if item.where == "entries/12"
    )
