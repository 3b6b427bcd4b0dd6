"""What the documentation tells people to type and to write would be taken by this program."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
import typer

from gatehouse.cli.main import app
from gatehouse.compose.offline import check_settings
from gatehouse.operator_file import parse
from tests.docs.pages import PAGES, ROOT, Block, blocks, named

OTHERS: Final = frozenset(
    {
        "cat",
        "cd",
        "chmod",
        "cp",
        "curl",
        "docker",
        "echo",
        "export",
        "grep",
        "head",
        "install",
        "llama-server",
        "make",
        "mkdir",
        "mv",
        "ollama",
        "openssl",
        "rm",
        "sed",
        "set",
        "sha256sum",
        "sudo",
        "systemctl",
        "tail",
        "tee",
        "umask",
        "unset",
        "useradd",
        "vllm",
    }
)
"""Programs that are not ours and that pages may call."""
OURS: Final = re.compile(r"(?:\S*/)?gatehouse")
PYTHON: Final = re.compile(r"(?:\S*/)?python3?")
PIP_OPTIONS: Final = frozenset(
    {"--require-hashes", "--no-index", "--find-links", "--no-deps", "--no-build-isolation", "-r", "-d", "-w", "--quiet"}
)


def of_language(*languages: str) -> list[object]:
    """Every block in one of these languages, named by page and line."""
    return [
        pytest.param(block, id=f"{named(page)}:{block.line}") for page in PAGES for block in blocks(page) if block.language in languages
    ]


def heredocs(text: str) -> tuple[str, dict[str, str]]:
    """A shell text without its here-documents, and what those that make a file put into it, by file name."""
    files: dict[str, str] = {}

    def keep(found: re.Match[str]) -> str:
        if made := re.search(r"> (\S+)", found["line"]):
            files[made[1]] = found["body"]
        return found["line"].replace("<<'EOF'", "").replace("<<EOF", "") + "\n"

    return re.sub(r"(?P<line>^[^\n]*<<'?EOF'?[^\n]*)\n(?P<body>.*?)^EOF\n", keep, text, flags=re.M | re.S), files


def check_file(text: str, source: str) -> None:
    """The operator's file is good, its plans can be built, and its price is known wherever one is needed."""
    names = re.findall(r"(?<!\$)\$\{(\w+)\}", text)
    environ = {name: "dummy" if name.endswith("PASSWORD") else "http://dummy.example.internal:3128" for name in names}
    shown = check_settings(parse(text, source, environ))
    assert [row for row in shown["models"] if "unknown" in row["prices"]] == []


@pytest.mark.parametrize("block", of_language("yaml"))
def test_each_configuration_would_be_taken(block: Block) -> None:
    """A `yaml` block is an operator's file that a server would start with, and no price in it is unknown."""
    check_file(block.text, f"line {block.line}")


@pytest.mark.parametrize("block", of_language("bash"))
def test_each_command_is_one_that_exists(block: Block) -> None:
    """Each shell block is good shell; each `gatehouse` command, with its options, is in the command tree; files it makes are good."""
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    text, files = heredocs(block.text)
    for name, content in files.items():
        if name.endswith(".yaml"):
            check_file(content, name)
    for words in commands(text):
        check_command(words)


def commands(text: str) -> list[list[str]]:
    """The simple commands of a shell text: continued lines joined, split at operators, assignments in front left out."""
    text = re.sub(r"(^|\s)#.*", "", text.replace("\\\n", " "), flags=re.M)
    text = re.sub(r"\d?>&\d|\d?>>?\s*[\w./-]+", "", text)
    inner = re.findall(r"\$\(([^()]*)\)", text)
    text = re.sub(r"\$\(([^()]*)\)", "substituted", text)
    found: list[list[str]] = []
    for line in [*text.splitlines(), *inner]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and set(word) <= set("();|&"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return found


def check_command(words: list[str]) -> None:
    """It is `gatehouse` with arguments that its command tree takes, pip with files that are there, or a program that everybody has."""
    words = words[3:] if words[:2] == ["sudo", "-u"] else words
    words = words[words.index("exec") + 2 :] if words[:2] == ["docker", "compose"] and "exec" in words else words
    if OURS.fullmatch(words[0]):
        in_tree(words[1:])
    elif PYTHON.fullmatch(words[0]):
        if words[1:3] == ["-m", "pip"]:
            pip(words[4:])
        elif words[1:2] == ["-m"]:
            assert words[2] == "venv"
    else:
        assert words[0] in OTHERS, f"{words[0]}: is that a program that readers have?"


def in_tree(words: list[str]) -> None:
    """Raises when the command line would not take these words; nothing is run."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("gatehouse", list(words))


def pip(words: list[str]) -> None:
    """Options are known ones, and files and extras named are there."""
    before = ""
    for word in words:
        assert not word.startswith("-") or word in PIP_OPTIONS, word
        if before == "-r":
            assert (ROOT / word).is_file(), word
        if word.startswith("psycopg"):
            assert f'"{word}"' in (ROOT / "pyproject.toml").read_text()
        before = word


def test_a_wrong_command_would_be_found() -> None:
    """The checks above find an option, a command, a program and a file that do not exist."""
    with pytest.raises(Exception, match="No such option: --groups"):
        check_command(["gatehouse", "usage", "--groups"])
    with pytest.raises(Exception, match="Missing parameter: key_id"):
        check_command(["gatehouse", "keys", "rotate"])
    with pytest.raises(KeyError):
        check_command(["gatehouse", "fly"])
    for words in (["gatehose", "serve"], ["python3", "-m", "pip", "install", "-r", "requirements/gone.txt"]):
        with pytest.raises(AssertionError):
            check_command(words)
    assert commands('A=b gatehouse x "$(gatehouse y | head)" && make z') == [
        ["gatehouse", "x", "substituted"], ["make", "z"], ["gatehouse", "y"], ["head"]
    ]  # fmt: skip


@pytest.mark.parametrize("block", of_language("python"))
def test_each_python_block_compiles(block: Block) -> None:
    """Python on a page is Python."""
    compile(block.text, "page", "exec")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_says_its_language(page: Path) -> None:
    """No block escapes these checks: every fence is one that we read and names a language that we know."""
    found = blocks(page)
    assert page.read_text().count("```") == 2 * len(found)
    pictures = {""} if page.parent.name == "docs" and page.name != "tutorial.md" else set()
    assert {block.language for block in found} <= {"bash", "python", "yaml", "text", "json"} | pictures


def test_every_page_is_in_the_index() -> None:
    """A newcomer finds every page from docs/index.md."""
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts and path.name != "index.md"]
    assert [str(path) for path in missing if f"]({os.path.relpath(path, ROOT / 'docs')})" not in index] == []


def test_the_readme_is_short_and_its_pictures_are_there() -> None:
    """At most 150 lines; each picture exists and is well-formed SVG that loads nothing and runs nothing."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert pictures
    for picture in pictures:
        tree = ElementTree.parse(ROOT / picture)
        assert {element.tag.split("}")[1] for element in tree.iter()}.isdisjoint({"script", "image", "foreignObject"})
