"""The command line. `main` is the entry point; each group of commands has its module."""

from gatehouse.cli.main import main

__all__ = ["main"]
