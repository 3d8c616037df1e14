"""``python -m ledger_core``: the command line."""

from ledger_core.cli.main import run

if __name__ == "__main__":
    run()
