"""The verifier joined into one file: travels alone, and says what the modules say."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_core import verify_main
from tests.unit.ledger_core.ledger_receipt_samples import POLICY, RECEIPTS, ROOTS, content_of, path_to
from tests.unit.ledger_core.ledger_samples import SOUTH

ROOT = Path(__file__).parents[3]
BARE = {"blake3", "cryptography"}

# The repository and PyNaCl are out of reach: -I ignores the environment, and what remains is blocked by name.
_ALONE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ledger_core", "fhir_bridge", "nacl"}:
            raise ImportError(name + " is out of reach")
sys.meta_path.insert(0, Blocked())
"""
_ONE = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_MANY = """
import contextlib, io, json
main = runpy.run_path(sys.argv[1])["main"]
answers = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        answers.append((main(arguments), said.getvalue()))
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("joined") / "ledger-verify.py"
    join(output)
    return output


def join(output: Path, *, seed: str = "0") -> None:
    subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tools" / "join_verifier.py"), str(output)],
        check=True,
        capture_output=True,
        cwd=output.parent,
        env={"PYTHONHASHSEED": seed, "LC_ALL": "C"},
    )


def run_alone(program: Path, code: str, *arguments: str, given: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", _ALONE + code, str(program), *arguments],
        check=False,
        capture_output=True,
        cwd=program.parent,
        env={},
        encoding="utf-8",
        input=given,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def cases(folder: Path) -> list[tuple[str, ...]]:
    """Command lines over good and bad receipts."""
    policy, strange, text_policy = folder / "policy.json", folder / "strange.json", folder / "policy.txt"
    policy.write_text(POLICY.encode(), "utf-8")
    strange.write_text(replace(POLICY, members=frozenset({SOUTH.public})).encode(), "utf-8")
    text_policy.write_text(f"# one log\nlog {POLICY.log_keys[0].vkey()}\nquorum none\n", "utf-8")
    record = folder / "record"
    record.write_bytes(content_of(20))
    receipts = dict(RECEIPTS)
    receipts["stale"] = replace(receipts["present"], log=path_to(ROOTS[1]))
    receipts["spoilt"] = replace(
        receipts["record"], checkpoint=receipts["record"].checkpoint.replace("\n11\n", "\n12\n")
    )
    found: list[tuple[str, ...]] = []
    for name, receipt in receipts.items():
        for spelling, text in (("json", receipt.encode()), ("tlog-proof", receipt.encode_text())):
            file = folder / f"{name.replace(' ', '-')}.{spelling}"
            file.write_text(text, "utf-8")
            found.append((str(file), "--policy", str(policy), "--json"))
    good = str(folder / "record.json")
    found += [
        (good,),
        (good, "--policy", str(strange)),
        (good, "--policy", str(text_policy)),
        (good, "--policy", str(record)),
        (good, "--policy", str(policy), "--record", str(record)),
        (good, "--policy", str(policy), "--record", str(policy)),
        (str(record), "--policy", str(policy)),
        (str(folder / "nothing"),),
    ]
    return found


def test_the_joined_file_says_what_the_modules_say(
    joined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = cases(tmp_path)
    codes = []
    _, answers = run_alone(joined, _MANY, given=json.dumps(asked))
    for arguments, (alone_code, alone_said) in zip(asked, json.loads(answers), strict=True):
        code = verify_main(arguments)
        said = capsys.readouterr().out
        assert (alone_code, _without_age(alone_said)) == (code, _without_age(said))
        codes.append(code)
    assert {0, 1, 2, 3} == set(codes)
    assert codes.count(0) >= 2 * len(RECEIPTS)


def test_the_joined_file_runs_by_itself(joined: Path, tmp_path: Path) -> None:
    for arguments in cases(tmp_path)[-8:-5]:
        code, said = run_alone(joined, _ONE, *arguments)
        assert (code, said[:8]) in {(0, "VERIFIED"), (1, "REFUSED "), (2, "NOT AUTH")}


def _without_age(said: str) -> object:
    """What was said, but for how long ago the checkpoint was signed: two runs may fall into two seconds."""
    try:
        return {**json.loads(said), "age_s": None}
    except ValueError:
        return [line.split(" (")[0] for line in said.splitlines()]


def test_misuse_is_told_from_what_is_not_authenticated(joined: Path) -> None:
    assert run_alone(joined, _ONE, "--nonsense")[0] == 3
    assert run_alone(joined, _ONE)[0] == 3
    with pytest.raises(SystemExit) as left:
        verify_main(["--nonsense"])
    assert left.value.code == 3


def test_a_missing_library_is_named_and_is_no_refusal(joined: Path) -> None:
    # -S: nothing that was installed is found.
    done = subprocess.run([sys.executable, "-I", "-S", str(joined), "receipt"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "cannot verify: the library blake3 is not installed\n")


def test_joining_twice_gives_the_same_bytes(joined: Path, tmp_path: Path) -> None:
    join(tmp_path / "again.py", seed="12345")
    assert (tmp_path / "again.py").read_bytes() == joined.read_bytes()


def test_the_joined_file_imports_only_what_it_says(joined: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(joined.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {item.name.split(".")[0] for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) == BARE


def test_the_header_names_the_sources_by_digest(joined: Path) -> None:
    found = re.findall(r"^#   ([0-9a-f]{64})  (ledger_core\.[a-z_.]+)$", joined.read_text("utf-8"), re.MULTILINE)
    sums = {module: digest for digest, module in found}
    assert "ledger_core.verify.claims" in sums
    for module, digest in sums.items():
        source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_bytes()
        assert hashlib.sha256(source).hexdigest() == digest


def test_signing_is_left_behind(joined: Path) -> None:
    text = joined.read_text("utf-8")
    assert "PrivateKey" not in text
    assert "def verify_receipt(" in text
