"""The keyring in a folder: the contract with and without a passphrase, and what a folder promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhir_bridge.adapters.keyring_file import FileKeyring
from fhir_bridge.errors import IntegrityBroken, KeyMissing, SetupWrong
from tests.contract.keyring_contract import KeyringContract

CHEAP = 1 << 10


class FolderWorld:
    """A folder and perhaps a passphrase."""

    def __init__(self, folder: Path, passphrase: str | None) -> None:
        self.folder = folder
        self.passphrase = passphrase

    def open(self) -> FileKeyring:
        return FileKeyring(self.folder, self.passphrase, scrypt_n=CHEAP)


@pytest.fixture(params=[None, "correct horse battery staple"], ids=["plain", "passphrase"])
def keyring_world(request: pytest.FixtureRequest, tmp_path: Path) -> FolderWorld:
    return FolderWorld(tmp_path / "keyring", request.param)


class TestFileKeyringKeepsTheContract(KeyringContract):
    pass


def test_files_and_folder_are_for_the_owner_only(keyring_world: FolderWorld) -> None:
    ring = keyring_world.open()
    ring.make_kek("northgate", 1)
    ring.identity("operator")
    assert {file.stat().st_mode & 0o777 for file in keyring_world.folder.iterdir()} == {0o600}
    assert keyring_world.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    FileKeyring(tmp_path / "keyring")
    (tmp_path / "keyring").chmod(mode)
    with pytest.raises(SetupWrong, match="chmod 700"):
        FileKeyring(tmp_path / "keyring")


def test_a_passphrase_hides_every_key(tmp_path: Path) -> None:
    ring = FileKeyring(tmp_path / "keyring", "a passphrase", scrypt_n=CHEAP)
    keys = [ring.make_kek("northgate", 1), ring.identity("operator")]
    for file in (tmp_path / "keyring").iterdir():
        assert all(key not in file.read_bytes() for key in keys)


@pytest.mark.parametrize("given", ["another", None, ""])
def test_a_wrong_or_missing_passphrase_is_told_plainly(tmp_path: Path, given: str | None) -> None:
    FileKeyring(tmp_path / "keyring", "right", scrypt_n=CHEAP).make_kek("northgate", 1)
    with pytest.raises(SetupWrong, match="passphrase"):
        FileKeyring(tmp_path / "keyring", given, scrypt_n=CHEAP)


def test_a_passphrase_that_is_not_needed_is_told_plainly(tmp_path: Path) -> None:
    FileKeyring(tmp_path / "keyring")
    with pytest.raises(SetupWrong, match="no passphrase"):
        FileKeyring(tmp_path / "keyring", "superfluous", scrypt_n=CHEAP)


def test_two_key_files_cannot_change_places_under_a_passphrase(tmp_path: Path) -> None:
    ring = FileKeyring(tmp_path / "keyring", "right", scrypt_n=CHEAP)
    ring.make_kek("northgate", 1)
    ring.make_kek("harbor", 1)
    (tmp_path / "keyring" / "kek-harbor-1").replace(tmp_path / "keyring" / "kek-northgate-1")
    with pytest.raises(IntegrityBroken):
        FileKeyring(tmp_path / "keyring", "right", scrypt_n=CHEAP).kek("northgate", 1)


@pytest.mark.parametrize("content", [b"", b"fhir-bridge key 1\nshort", b"\x00" * 60])
def test_a_damaged_file_is_refused_and_never_replaced(keyring_world: FolderWorld, content: bytes) -> None:
    keyring_world.open().make_kek("northgate", 1)
    file = keyring_world.folder / "kek-northgate-1"
    file.write_bytes(content)
    with pytest.raises(IntegrityBroken):
        keyring_world.open().kek("northgate", 1)
    assert file.read_bytes() == content


def test_only_a_rotated_kek_can_be_destroyed(keyring_world: FolderWorld) -> None:
    ring = keyring_world.open()
    ring.make_kek("northgate", 1)
    with pytest.raises(SetupWrong):
        ring.destroy_kek("northgate", 1)
    newest = ring.make_kek("northgate", 2)
    ring.destroy_kek("northgate", 1)
    for again in (ring, keyring_world.open()):
        with pytest.raises(KeyMissing):
            again.kek("northgate", 1)
        assert again.kek("northgate", 2) == newest


def test_a_passphrase_costs_a_guesser_what_the_guidance_asks(tmp_path: Path) -> None:
    """OWASP Password Storage Cheat Sheet, scrypt: N = 2^17, r = 8, p = 1."""
    ring = FileKeyring(tmp_path / "keyring", "right")
    header = json.loads((tmp_path / "keyring" / "keyring.json").read_text())
    assert (header["n"], header["r"], header["p"]) == (131_072, 8, 1)
    key = ring.make_kek("northgate", 1)
    assert FileKeyring(tmp_path / "keyring", "right", scrypt_n=CHEAP).kek("northgate", 1) == key


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_keyring_opened_to_read_makes_nothing(keyring_world: FolderWorld) -> None:
    written = keyring_world.open()
    key, operator = written.make_kek("northgate", 1), written.identity("operator")
    before = _files(keyring_world.folder)
    for ring in (FileKeyring.open_to_read(keyring_world.folder, keyring_world.passphrase), written.to_read()):
        assert (ring.kek("northgate", 1), ring.identity("operator")) == (key, operator)
        for epoch in (1, 2):
            with pytest.raises(KeyMissing):
                ring.make_kek("harbor", epoch)
        with pytest.raises(KeyMissing):
            ring.make_kek("northgate", 2)
        with pytest.raises(KeyMissing):
            ring.identity("log")
        with pytest.raises(SetupWrong):
            ring.destroy_kek("northgate", 0)
    assert _files(keyring_world.folder) == before


def test_a_folder_that_is_not_there_is_read_as_an_empty_one(tmp_path: Path) -> None:
    ring = FileKeyring.open_to_read(tmp_path / "keyring")
    with pytest.raises(KeyMissing, match="kek-northgate-1"):
        ring.kek("northgate", 1)
    assert not ring.has_header()
    assert list(tmp_path.iterdir()) == []


def test_reading_sees_a_file_that_is_gone_although_its_key_is_held(keyring_world: FolderWorld) -> None:
    ring = keyring_world.open()
    ring.make_kek("northgate", 1)
    (keyring_world.folder / "kek-northgate-1").unlink()
    assert len(ring.kek("northgate", 1)) == 32
    with pytest.raises(KeyMissing):
        ring.to_read().kek("northgate", 1)


def test_a_lost_header_is_not_made_again_beside_keys(keyring_world: FolderWorld) -> None:
    keyring_world.open().identity("operator")
    (keyring_world.folder / "keyring.json").unlink()
    with pytest.raises(KeyMissing, match=r"keyring\.json"):
        keyring_world.open()
    assert [file.name for file in keyring_world.folder.iterdir()] == ["identity-operator"]
