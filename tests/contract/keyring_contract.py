"""What every Keyring must do; subclass and give a ``keyring_world`` fixture."""

from __future__ import annotations

from typing import Protocol

import pytest

from fhir_bridge.errors import KeyMissing
from fhir_bridge.ports.keys import Keyring


class KeyringWorld(Protocol):
    """Storage that survives the keyrings opened onto it."""

    def open(self) -> Keyring:
        """Return a keyring onto the storage."""
        ...


class KeyringContract:
    """Facts about any keyring."""

    def test_a_kek_stays_the_same_after_a_restart(self, keyring_world: KeyringWorld) -> None:
        key = keyring_world.open().make_kek("northgate", 1)
        assert len(key) == 32
        assert keyring_world.open().kek("northgate", 1) == key

    def test_institutions_and_epochs_have_keys_of_their_own(self, keyring_world: KeyringWorld) -> None:
        ring = keyring_world.open()
        names = [("a", 1), ("a", 2), ("a-1", 1), ("b", 1), ("a/b", 1)]
        keys = [ring.make_kek(*name) for name in names]
        assert [ring.kek(*name) for name in names] == keys
        assert len(set(keys)) == 5

    def test_an_epoch_is_never_skipped(self, keyring_world: KeyringWorld) -> None:
        ring = keyring_world.open()
        ring.make_kek("northgate", 1)
        for epoch in (0, 3, -1):
            with pytest.raises(KeyMissing):
                ring.make_kek("northgate", epoch)

    def test_reading_makes_no_kek(self, keyring_world: KeyringWorld) -> None:
        ring = keyring_world.open()
        for epoch in (1, 2):
            for _ in range(2):
                with pytest.raises(KeyMissing):
                    ring.kek("northgate", epoch)
            assert ring.make_kek("northgate", epoch) == ring.make_kek("northgate", epoch)

    def test_an_identity_is_made_once(self, keyring_world: KeyringWorld) -> None:
        ring = keyring_world.open()
        identity = ring.identity("operator")
        assert len(identity) == 32
        assert ring.identity("issuer") != identity
        assert keyring_world.open().identity("operator") == identity
