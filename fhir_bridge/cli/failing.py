"""How a command fails: one line on standard error and an exit code, never a traceback.

Invariants:
    * 2: the call or the set-up must change; 1: it was refused or did not work; 130: interrupted;
    * an error nobody foresaw is named by its type and place only, because its text could hold a record.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from fhir_bridge.errors import BridgeError, SetupWrong

FAILED = 1
SETUP = 2
INTERRUPTED = 130


class Failure(Exception):
    """A command ends here; the message says what is wrong and what to do."""

    def __init__(self, message: str, *, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def report(error: BaseException) -> int:
    """Print one line for ``error`` on standard error and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # The reader (`| head`) has gone; what is left in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    message, code = _words(error)
    print("error: " + " ".join(message.split()), file=sys.stderr)
    if os.environ.get("FHIR_BRIDGE_DEBUG") == "1":
        traceback.print_exception(error)
    return code


def _words(error: BaseException) -> tuple[str, int]:
    if isinstance(error, Failure):
        return str(error), error.exit_code
    if isinstance(error, SetupWrong):
        return str(error), SETUP
    if isinstance(error, BridgeError):
        return f"{error} ({error.code})", FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", SETUP
    if type(error).__name__ == "ValidationError" and (told := _setting(error)):
        return told, SETUP
    return f"unforeseen {type(error).__name__} at {_place(error)} (set FHIR_BRIDGE_DEBUG=1 to see more)", FAILED


def _setting(error: BaseException) -> str:
    """Return which setting is wrong and how, without its value; empty if it is about something else."""
    from pydantic import ValidationError

    from fhir_bridge.settings import told_wrong

    return told_wrong(error) if isinstance(error, ValidationError) else ""


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
