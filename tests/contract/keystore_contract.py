"""What every KeyStore must do; subclass and give a ``keys_world`` fixture."""

from __future__ import annotations

from typing import Protocol

import pytest

from fhir_bridge.errors import KeyMissing
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore

CHART = KeyName(KeyKind.CHART, "northgate", "c" * 32)
SAME_SUBJECT = KeyName(KeyKind.MESSAGE, "northgate", "c" * 32)
OTHER_HOUSE = KeyName(KeyKind.CHART, "harbor", "c" * 32)


class KeysWorld(Protocol):
    """Storage that survives the key stores opened onto it."""

    def open(self) -> KeyStore:
        """Return a key store; the one opened before is closed."""
        ...


class KeyStoreContract:
    """Facts about any key store."""

    def test_a_key_is_made_once_and_found_again_after_a_restart(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        key = store.ensure([CHART])[CHART]
        assert len(key) == 32
        assert store.ensure([CHART])[CHART] == key
        again = keys_world.open()
        assert again.get(CHART) == key
        assert again.find(CHART) == key

    def test_every_name_has_a_key_of_its_own(self, keys_world: KeysWorld) -> None:
        keys = keys_world.open().ensure([CHART, SAME_SUBJECT, OTHER_HOUSE])
        assert len(set(keys.values())) == 3

    def test_asking_twice_for_a_name_in_one_call_makes_one_key(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        key = store.ensure([CHART, CHART])[CHART]
        assert keys_world.open().get(CHART) == key

    def test_a_key_that_was_never_made_is_missing(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        assert store.find(CHART) is None
        with pytest.raises(KeyMissing):
            store.get(CHART)

    def test_an_erased_key_is_gone_for_good_and_its_name_gets_another(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        key = store.ensure([CHART])[CHART]
        store.erase(CHART)
        store.erase(CHART)
        assert store.find(CHART) is None
        again = keys_world.open()
        assert again.find(CHART) is None
        assert again.ensure([CHART])[CHART] != key

    def test_names_are_found_by_how_they_begin(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        begun = [KeyName(KeyKind.MESSAGE, "northgate", f"import/a/{n}") for n in (1, 2)]
        others = [
            KeyName(KeyKind.MESSAGE, "northgate", "import/b/1"),
            KeyName(KeyKind.MESSAGE, "harbor", "import/a/1"),
            KeyName(KeyKind.CHART, "northgate", "import/a/1"),
        ]
        store.ensure([*begun, *others])
        assert sorted(store.names(KeyKind.MESSAGE, "northgate", "import/a/"), key=repr) == begun
        store.erase(begun[0])
        assert store.names(KeyKind.MESSAGE, "northgate", "import/a/") == begun[1:]

    def test_erasing_several_leaves_the_others(self, keys_world: KeysWorld) -> None:
        store = keys_world.open()
        keys = store.ensure([CHART, SAME_SUBJECT, OTHER_HOUSE])
        store.erase_all([CHART, OTHER_HOUSE])
        assert [store.find(name) for name in keys] == [None, keys[SAME_SUBJECT], None]
