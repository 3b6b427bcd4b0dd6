"""The reference is what the code says, and nothing in the documentation points nowhere."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import generate  # type: ignore[import-not-found]  # noqa: E402


def test_the_reference_is_what_the_code_says() -> None:
    """`make docs` would change nothing; every setting, command, endpoint, metric and error is in it by construction."""
    made = generate.pages()
    assert {path.name: path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md")} == made


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that is there."""
    dead = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists()
    ]
    assert dead == []


def test_every_core_dependency_has_its_line() -> None:
    """A dependency earns its line in docs/dependencies.md."""
    declared = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert declared is not None
    names = set(re.findall(r'"([a-z0-9-]+)', declared[1]))
    assert names == {
        line.split("|")[1].strip()
        for line in (ROOT / "docs" / "dependencies.md").read_text().split("## Extras")[0].splitlines()
        if re.match(r"\| [a-z]", line)
    } - {"package"}
