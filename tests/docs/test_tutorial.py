"""A newcomer follows the documentation, block by block, against a real server."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Reader
from tests.served.whole import free_port

FOLLOWED = [
    "tutorial.md",
    "how-to/tls.md",
    "how-to/rotate-keys.md",
    "how-to/recover-the-administrator.md",
    "how-to/backups.md",
    "how-to/audit.md",
    "how-to/responses.md",
    "how-to/anthropic.md",
]


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_newcomer_can_follow_the_page(name: str, tmp_path: Path) -> None:
    """Each block of the page runs, in order, and prints what the page shows."""
    reader = Reader(tmp_path, {"8080": str(free_port()), "8081": str(free_port())})
    try:
        assert reader.follow(ROOT / "docs" / name) > 0
    finally:
        reader.stop()
