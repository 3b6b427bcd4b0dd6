"""The rules of the house that no linter knows: sizes, names, who may read time, what an import may cost."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "gatehouse").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_WALL = 600
FUNCTION_WALL = 80
LARGE_FILES: frozenset[str] = frozenset()
"""Files over the wall. This list may only shrink."""
LONG_FUNCTIONS: frozenset[str] = frozenset()
"""Functions over the wall. This list may only shrink."""

BANNED_NAMES = re.compile(r"^(utils?|common|helpers?|misc)$")
DECIDING = ("core", "pipeline", "control", "dialects")
OUTSIDE_WORLD = {
    "time.time",
    "time.monotonic",
    "time.perf_counter",
    "time.sleep",
    "random",
    "asyncio.sleep",
    "asyncio.create_task",
    "asyncio.ensure_future",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_stay_below_the_wall() -> None:
    """No source file over 600 lines beyond the allow-list, and the list holds nothing that has shrunk."""
    large = {relative(path) for path in SOURCES if len(path.read_text().splitlines()) > FILE_WALL}
    assert large == LARGE_FILES


def test_functions_stay_below_the_wall() -> None:
    """No function over 80 lines beyond the allow-list, and the list holds nothing that has shrunk."""
    long = {
        f"{relative(path)}:{node.name}"
        for path in SOURCES
        for node in functions(ast.parse(path.read_text()))
        if length(node) > FUNCTION_WALL
    }
    assert long == LONG_FUNCTIONS


def test_rooms_have_names() -> None:
    """Nothing is called utils, common, helpers or misc: a name says what is inside."""
    assert [
        relative(path) for path in (*SOURCES, *TESTS) for part in (path.stem, path.parent.name) if BANNED_NAMES.match(part.strip("_"))
    ] == []


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("room", DECIDING)
def test_deciding_code_asks_ports_for_time_chance_and_tasks(room: str) -> None:
    """So that a seeded simulator can run the real code."""
    found: list[str] = []
    for path in (ROOT / "src" / "gatehouse" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (dotted(node) in OUTSIDE_WORLD or dotted(node).startswith("random.")):
                found.append(f"{relative(path)}:{node.lineno} {dotted(node)}")
            if isinstance(node, ast.ImportFrom) and node.module in {"time", "random"}:
                found.append(f"{relative(path)}:{node.lineno} from {node.module}")
    assert found == []


def test_only_settings_reads_the_environment() -> None:
    """Everything else is told."""
    readers = [relative(path) for path in SOURCES if re.search(r"\bos\.(environ|getenv|putenv)\b", path.read_text())]
    assert readers == ["src/gatehouse/settings.py"]


def test_every_test_says_what_it_specifies() -> None:
    """Tests are the specification, so each has a docstring."""
    silent = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in TESTS
        for node in functions(ast.parse(path.read_text()))
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def python(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_import_gatehouse_is_light() -> None:
    """`import gatehouse` brings nothing of ours or heavy along: measured in modules, which no noisy machine changes."""
    loaded = set(
        json.loads(
            python("import json, sys; before = set(sys.modules); import gatehouse; print(json.dumps(sorted(set(sys.modules) - before)))")
        )
    )
    heavy = {"sqlalchemy", "starlette", "uvicorn", "typer", "rich", "cryptography", "xllamacpp", "asyncio", "yaml", "genai_prices", "redis"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
    assert len(loaded) < 60


def test_a_worker_never_imports_the_stewards_stack() -> None:
    """Workers carry calls: no SQL, no admin, no YAML, no command line, no price catalogue, no engine, no Valkey."""
    loaded = json.loads(python("import json, sys; import gatehouse.compose.worker; print(json.dumps(sorted(sys.modules)))"))
    stack = {
        "sqlalchemy",
        "alembic",
        "starlette",
        "uvicorn",
        "typer",
        "rich",
        "yaml",
        "genai_prices",
        "pydantic",
        "prometheus_client",
        "xllamacpp",
        "redis",
    }
    assert not stack & {name.partition(".")[0] for name in loaded}


def test_no_word_of_a_machine() -> None:
    """No path of a machine and no registry host stands in a tracked file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    pattern = re.compile(r"(?:^|[^A-Za-z0-9_.])/(?:work|farm)/|/tmp/bash_jobs|pypi\.org|pythonhosted|registry\.npmjs|deb\.debian")
    guilty = []
    for name in listed:
        path = ROOT / name
        if not name or name == relative(Path(__file__)) or path.suffix in {".gguf", ".safetensors", ".bin", ".png"} or not path.is_file():
            continue
        if pattern.search(path.read_text(errors="replace")):
            guilty.append(name)
    assert guilty == []
