"""What the documentation of the library shows: it runs, and it type-checks for who uses it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "library.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


def run(*words: str, folder: Path) -> str:
    """What Python prints; its status must be 0."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_runs(tmp_path: Path) -> None:
    """An answer, a stream, an error and the bill."""
    said = run(str(ROOT / "examples" / "library.py"), folder=tmp_path)
    assert "Tiny" in said
    assert "temperature:" in said
    assert re.search(r"'outcome': 'completed'}: 2 calls, \d+ tokens, \$0$", said, re.M)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{index}" for index in range(len(BLOCKS))])
def test_every_block_of_the_page_runs(block: str, tmp_path: Path) -> None:
    """Each is a whole program."""
    program = tmp_path / "program.py"
    program.write_text(block)
    run(str(program), folder=tmp_path)


def test_users_type_check_against_it(tmp_path: Path) -> None:
    """The example and every block of the page pass mypy --strict, and a name that is not there does not."""
    for index, block in enumerate(BLOCKS):
        (tmp_path / f"block{index}.py").write_text(block)
    (tmp_path / "example.py").write_text((ROOT / "examples" / "library.py").read_text())
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = True\nmypy_path = {ROOT / 'src'}\nfollow_imports = silent\n")
    files = sorted(str(path) for path in tmp_path.glob("*.py"))
    run("-m", "mypy", "--config-file", str(config), *files, folder=tmp_path)
    (tmp_path / "wrong.py").write_text("from gatehouse import Nonesuch\n")
    wrong = [sys.executable, "-m", "mypy", "--config-file", str(config), str(tmp_path / "wrong.py")]
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert 'Module "gatehouse" has no attribute "Nonesuch"' in done.stdout


def test_what_is_not_there_is_not_there_at_run_time_either() -> None:
    """The package names what it has, and nothing else."""
    said = run(
        "-c", "import gatehouse; print([hasattr(gatehouse, n) for n in (*gatehouse.__all__, 'nonesuch')], dir())", folder=ROOT / "src"
    )
    assert said.startswith("[True, True, True, True, False]")
