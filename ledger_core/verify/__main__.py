"""``python -m ledger_core.verify``."""

import sys

from ledger_core.verify.command import main

if __name__ == "__main__":
    sys.exit(main())
