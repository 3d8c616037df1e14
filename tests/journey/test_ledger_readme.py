"""The ledger's own README works as written: its Python and its commands, from the installed package alone."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.pages import ROOT, check_page, play, steps

PAGE = (ROOT / "ledger_core" / "README.md").read_text("utf-8")
# What a stranger has: the package and its two libraries; nothing of the bridge, and not the optional libsodium.
ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = top in {"ledger_core", "blake3", "cryptography", "_cffi_backend"}
        if not ours and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not a library of this package", name=name)
        return None

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv.pop(1))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run([*pip, str(ROOT / "ledger_core")], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_python_of_the_page_runs_on_the_package_and_its_two_libraries(installed: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) >= 6
    shown = "import ledger_core\nprint(ledger_core.__file__)\n"
    (tmp_path / "page.py").write_text(ALONE + shown + "".join(blocks), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py", str(installed)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(installed / "ledger_core" / "__init__.py"),
        "state present as of height 4",
        "state of height 4 revoked: owner's list replaced",
    ]


def test_the_commands_of_the_page_show_what_it_shows(installed: Path, tmp_path: Path) -> None:
    command = tmp_path / "bin" / "ledger-core"
    command.parent.mkdir()
    start = ALONE + "from ledger_core.cli.main import run\nrun()\n"
    (tmp_path / "bin" / "start.py").write_text(start, "utf-8")
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{command.parent}/start.py" "{installed}" "$@"\n')
    command.chmod(0o755)
    page = steps(PAGE)
    assert len(page) >= 12
    check_page(page, play(page, tmp_path, path=command.parent))
