"""The matrix of pairs in the reference leaves nobody out."""

import re
from pathlib import Path

from gatehouse.compose.providers import KINDS
from gatehouse.dialects.openai.profiles import SERVERS
from tests.pairs.clients import CLIENTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "providers.md").read_text()
HEAD, *ROWS = PAGE.split("\n## ")[0].strip().splitlines()[5:]


def test_every_kind_and_server_has_a_row() -> None:
    """In the table of pairs and in that of what targets cannot do."""
    names = {row.split(" | ")[0].removeprefix("| ") for row in ROWS[1:]}
    assert set(KINDS) | {f"openai-compatible, profile {name}" for name in SERVERS} <= names
    for name in names:
        assert PAGE.count(f"\n| {name} | ") >= 2


def test_every_inbound_api_has_a_column() -> None:
    """What a worker answers as a call is there; the chats among them are tried in front of every format."""
    worker = (ROOT / "src" / "gatehouse" / "compose" / "worker.py").read_text()
    routes = re.findall(r'"(/v1/[a-z/]+)": Route\([^,]+, "(\w+)"', worker)
    assert routes
    assert {f"`{path}`" for path, _ in routes} == set(re.findall(r"`/v1/[a-z/]+`", HEAD))
    assert len(CLIENTS) == len([path for path, operation in routes if operation == "chat"])
