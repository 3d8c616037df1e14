"""Write docs/settings.md and deploy/settings.env from fhir_bridge/settings.py; with --check, only compare.

Settings are explained once, where they are declared. A stale copy fails the
unit tests and exits with 1 here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from fhir_bridge import settings

_ROOT = Path(__file__).parents[1]
_SIGNS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))
_HEAD = """# Settings

Every setting is read from the environment and has a default that works on one machine. `deploy/settings.env` lists
them for a service manager. This page is generated from `fhir_bridge/settings.py` by `python -m tools.settings_page`.

Four more variables are read outside the settings: `FHIR_BRIDGE_DATA` (the data directory, when `--data` is absent),
`FHIR_BRIDGE_KAFKA` (the brokers, when `--kafka` is absent: no password belongs on a command line),
`FHIR_BRIDGE_PASSPHRASE` (of the keyring; never in a file that others can read) and `FHIR_BRIDGE_DEBUG=1` (the command
line adds the trace of an unforeseen error).
"""


def main() -> int:
    """Write or compare both files; return the exit code."""
    wanted = {_ROOT / "docs" / "settings.md": page(), _ROOT / "deploy" / "settings.env": environment()}
    if "--check" not in sys.argv[1:]:
        for path, text in wanted.items():
            path.write_text(text, "utf-8")
        return 0
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(_ROOT)} is stale: run python -m tools.settings_page", file=sys.stderr)
    return 1 if stale else 0


def page() -> str:
    """Return the reference page."""
    parts = [_HEAD]
    for group in _groups():
        parts.append(f"\n## {_title(group)}\n\n{inspect.cleandoc(group.__doc__ or '')}\n")
        parts.append("\n| variable | default | limits | what |\n|---|---|---|---|\n")
        parts += [
            f"| `{_variable(group, name)}` | `{field.default}` | {_limits(field)} | {field.description} |\n"
            if str(field.default)
            else f"| `{_variable(group, name)}` | empty | {_limits(field)} | {field.description} |\n"
            for name, field in group.model_fields.items()
        ]
    return "".join(parts)


def environment() -> str:
    """Return an environment file in which every line is a comment: the defaults hold until one is changed."""
    lines = ["# Settings of fhir-bridge. Take away a '#' to change one; docs/settings.md explains them."]
    for group in _groups():
        lines += ["", f"# {_title(group)}"]
        for name, field in group.model_fields.items():
            lines += [f"# {field.description}", f"#{_variable(group, name)}={field.default}"]
    return "\n".join(lines) + "\n"


def _groups() -> Iterator[type[BaseSettings]]:
    """Yield the classes of settings in the order of the file."""
    for value in vars(settings).values():
        if isinstance(value, type) and issubclass(value, BaseSettings) and value is not BaseSettings:
            yield value


def _title(group: type[BaseSettings]) -> str:
    return group.__name__.removesuffix("Settings")


def _variable(group: type[BaseSettings], name: str) -> str:
    return f"{group.model_config.get('env_prefix', '')}{name}".upper()


def _limits(field: FieldInfo) -> str:
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for kind, name, sign in _SIGNS
        if isinstance(limit, kind)
    ]
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
