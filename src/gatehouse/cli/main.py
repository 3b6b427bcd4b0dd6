"""The commands, and what a person sees of them. No traceback for a user's mistake; `--json` for programs."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gatehouse import __version__
from gatehouse.cli import audit, importing, keys, pictures
from gatehouse.cli.chat import chat
from gatehouse.cli.client import CommandError
from gatehouse.cli.doctor import doctor
from gatehouse.cli.keeping import backup, restore
from gatehouse.cli.options import DataDir, Json, aside, drawn, show
from gatehouse.cli.reports import models, targets, trace, usage
from gatehouse.operator_file import SettingsError, load
from gatehouse.settings import read_environment

app = typer.Typer(
    name="gatehouse", help="One door to every language model in an organisation.", no_args_is_help=True, pretty_exceptions_enable=False
)
config_app = typer.Typer(help="Check the operator's file.", no_args_is_help=True)


def main() -> None:
    """Run the command line; a person's mistake is one sentence on standard error and exit status 1."""
    try:
        app(prog_name="gatehouse")
    except (CommandError, SettingsError) as error:
        _fail(str(error))
    except OSError as error:
        # What the system refuses is the person's to mend as well: a directory that is a file, a disk that is full.
        _fail(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror or error))


def _fail(words: str) -> None:
    aside().print(f"[bold red]gatehouse:[/] {pictures.safe(words)}")
    sys.exit(1)


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The operator's file; without it the built-in model is served.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of the data port.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The data port; 0 picks a free one.", show_default="8080")] = None,
    admin_port: Annotated[int | None, typer.Option(help="The admin port; 0 picks a free one.", show_default="8081")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that carry calls.", show_default="1")] = None,
    data_dir: DataDir = None,
    model: Annotated[Path | None, typer.Option("--model", help="A GGUF file to serve beside or instead of the built-in model.")] = None,
) -> None:
    """Serve models through the gateway."""
    from gatehouse.compose.serve import Options, run

    try:
        status = run(Options(config, host, port, admin_port, workers, data_dir, model), read_environment())
    except OSError:
        # Not a mistake that anybody foresaw: whoever looks into it needs to see where.
        logging.getLogger("gatehouse.serve").exception("the server ended")
        status = 1
    raise typer.Exit(status)


app.command()(chat)
app.command()(models)
app.command()(targets)
app.command()(usage)
app.command()(trace)
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(config_app, name="config")
app.add_typer(importing.app, name="import")
app.command()(doctor)
app.command()(backup)
app.command()(restore)


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(help="The operator's file.")], as_json: Json = False) -> None:
    """Say whether a server would take this file; if not, where and why not."""
    from gatehouse.compose.offline import check_providers, check_settings, check_state

    try:
        settings = load(file)
        summary = check_settings(settings)
        check_providers(settings, read_environment())
        check_state(settings)
    except SettingsError as error:
        if as_json:
            show({"ok": False, "error": str(error)})
            raise typer.Exit(1) from None
        raise
    if as_json:
        show({"ok": True, **summary})
        return
    table = Table("model", "targets", "price (in/out per million)", "fallbacks", title=f"{pictures.safe(str(file))}: good")
    for row in summary["models"]:
        table.add_row(row["name"], "\n".join(row["targets"]), "\n".join(row["prices"]), ", ".join(row["fallbacks"]) or "-")
    drawn().print(table)


@app.command()
def version(as_json: Json = False) -> None:
    """The version of Gatehouse and of the Python it runs on."""
    if as_json:
        show({"version": __version__, "python": sys.version.split()[0]})
    else:
        sys.stdout.write(f"gatehouse {__version__} (Python {sys.version.split()[0]})\n")
