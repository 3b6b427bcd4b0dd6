"""The options that commands share, and how they show what they found: pictures for people, JSON for programs."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from gatehouse.cli.client import AdminClient, admin_client
from gatehouse.settings import read_environment

WIDE: Final = 180
"""Columns of a table that is written to a file or a pipe: nothing is cut."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url = Annotated[str | None, typer.Option("--url", help="Admin URL of the server (GATEHOUSE_ADMIN_URL).", show_default=False)]
Key = Annotated[str | None, typer.Option("--key", help="A key (GATEHOUSE_KEY); better in the environment than here.", show_default=False)]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data directory (GATEHOUSE_DATA_DIR).", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="The operator's file, when it names another database or root key.")]


def client(url: str | None, key: str | None, data_dir: Path | None) -> AdminClient:
    """The admin client that the options mean."""
    return admin_client(url, key, data_dir, read_environment())


def directory(data_dir: Path | None) -> Path:
    """The data directory that is meant."""
    return data_dir or read_environment().data_dir


def show(value: Any) -> None:
    """JSON on standard output, as a program wants it."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def told() -> Console:
    """Standard output for sentences: as they are, in one piece."""
    return Console(highlight=False, soft_wrap=True)


def aside() -> Console:
    """Standard error, for what is not the answer."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def drawn() -> Console:
    """Standard output for tables: as wide as the terminal, and wide enough where there is none."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDE)
