"""Where a ledger of the command line lives: one folder with the database, the keys and the policy.

    DIR/ledger.db            blocks, state, tiles, checkpoints
    DIR/ledger.url           in its place where they are in a PostgreSQL database: the address, one line
    DIR/keys/log.key         signs checkpoints        (hex seed, readable by its owner only)
    DIR/keys/operator.key    signs transactions       (likewise)
    DIR/policy.json          what to give to people who verify; holds no secret

A file or a postgresql:// address may stand for a folder wherever only the database is needed.
"""

import os
from pathlib import Path
from typing import Final

from ledger_core.checkpoint import check_origin
from ledger_core.errors import OpeningRefused
from ledger_core.keys import Identity
from ledger_core.ledger import Ledger
from ledger_core.machine import Genesis
from ledger_core.opening import open_ledger
from ledger_core.places import holds_ledger, is_url

DATABASE: Final = "ledger.db"
ADDRESS: Final = "ledger.url"
LOG_KEY: Final = "log"
OPERATOR_KEY: Final = "operator"


def database(place: str) -> Path | str:
    """Return the database that ``place``, a folder, a file or an address, means.

    Raises:
        OpeningRefused: The folder's ``ledger.url`` is no such address.
    """
    if is_url(place):
        return place
    path = Path(place)
    address = path / ADDRESS
    if not address.is_file():
        return path / DATABASE if path.is_dir() else path
    url = address.read_text("utf-8").strip()
    if not is_url(url):
        raise OpeningRefused(f"{address} holds no postgresql:// address")
    return url


def create(folder: Path, name: str, *, time_ms: int, url: str | None = None) -> Ledger:
    """Make keys in ``folder`` and a new ledger, in it or in the database at ``url``, and open it.

    Raises:
        OpeningRefused: The folder holds a ledger or keys already, or the database a ledger.
    """
    keys = folder / "keys"
    check_origin(name)
    if any((folder / each).exists() for each in (DATABASE, ADDRESS)) or keys.exists():
        raise OpeningRefused(f"{folder} holds a ledger already")
    if url is not None and not is_url(url):
        raise OpeningRefused("--database takes a postgresql:// address")
    if url is not None and holds_ledger(url):
        raise OpeningRefused("the database holds a ledger already")
    keys.mkdir(mode=0o700, parents=True)
    log, operator = Identity.generate(), Identity.generate()
    for label, identity in ((LOG_KEY, log), (OPERATOR_KEY, operator)):
        _write_secret(keys / f"{label}.key", identity.private_bytes().hex())
    if url is not None:
        _write_secret(folder / ADDRESS, url)
    genesis = Genesis(name, operator.public, time_ms=time_ms)
    ledger = open_ledger(database(str(folder)), log_identity=log, genesis=genesis)
    (folder / "policy.json").write_text(ledger.policy().encode(), "utf-8")
    return ledger


def reopen(folder: Path) -> Ledger:
    """Open the ledger in ``folder`` with its keys.

    Raises:
        OpeningRefused: There is none, or its keys are not there.
    """
    if not any((folder / each).exists() for each in (DATABASE, ADDRESS)):
        raise OpeningRefused(f"there is no ledger in {folder}: make one with `ledger-core init`")
    return open_ledger(database(str(folder)), log_identity=read_key(folder, LOG_KEY))


def read_key(folder: Path, label: str) -> Identity:
    """Return a key pair kept in ``folder``.

    Raises:
        OpeningRefused: The key is missing or not a seed.
    """
    path = folder / "keys" / f"{label}.key"
    try:
        return Identity.from_private_bytes(bytes.fromhex(path.read_text("ascii").strip()))
    except FileNotFoundError:
        raise OpeningRefused(
            f"{path} is missing: keys do not travel with a ledger, copy them into its folder"
        ) from None
    except ValueError:
        raise OpeningRefused(f"{path} holds no key") from None


def _write_secret(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
