"""Who orders transactions and closes blocks; every engine feeds the same machine."""
