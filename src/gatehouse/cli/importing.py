"""`gatehouse import`: the configuration of another gateway becomes an operator's file."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from gatehouse.cli.client import CommandError
from gatehouse.cli.options import Json, aside, show
from gatehouse.cli.pictures import safe

app = typer.Typer(help="Take over the configuration of another gateway.", no_args_is_help=True)


@app.callback()
def importing() -> None:
    """Take over the configuration of another gateway."""


@app.command()
def litellm(
    file: Annotated[Path, typer.Argument(help="The config.yaml of a LiteLLM proxy.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write it; without it, to standard output.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Make an operator's file of a LiteLLM proxy's config.yaml, and tell what was not taken over and why. No secret is copied."""
    from gatehouse.compose.litellm_import import import_litellm
    from gatehouse.compose.steward import lookup

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"{file}: it is not UTF-8") from None
    made = import_litellm(text, str(file), lookup)
    if out is not None:
        try:
            with out.open("w" if replace else "x", encoding="utf-8") as written:
                written.write(made.text)
        except FileExistsError:
            raise CommandError(f"{out} is there already; give --replace to write over it") from None
    if as_json:
        show({"config": made.text, "variables": list(made.variables), "report": msgspec.to_builtins(made.notes)})
        return
    if out is None:
        sys.stdout.write(made.text)
    report = Table("where", "what was not taken over, or differs", "what to do", box=None, padding=(0, 2, 0, 0))
    for note in made.notes:
        report.add_row(safe(note.where), safe(note.what), safe(note.advice))
    console = aside()
    if made.notes:
        console.print(report)
    if made.variables:
        console.print(f"Set in the environment: {', '.join(made.variables)}")
    if out is not None:
        console.print(f"Written to {safe(str(out))}. Then: gatehouse config check {safe(str(out))}")
