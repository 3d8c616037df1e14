"""The command line ``ledger-core``: one module a group of commands, ``main`` joins them."""
