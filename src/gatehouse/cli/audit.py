"""`gatehouse audit`: prove the log of a data directory; no server is needed."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gatehouse.cli import pictures
from gatehouse.cli.options import Config, DataDir, Json, aside, show, told
from gatehouse.settings import read_environment

app = typer.Typer(help="Prove the audit log.", no_args_is_help=True)


@app.command("checkpoint")
def audit_checkpoint(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Print the newest signed checkpoint; keep it elsewhere and verify against it later."""
    from gatehouse.compose.offline import newest_checkpoint

    environment = read_environment()
    note = newest_checkpoint(data_dir or environment.data_dir, environment, config)
    if as_json:
        show({"note": note})
    else:
        sys.stdout.write(note)


@app.command("verify")
def audit_verify(
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="A checkpoint kept from earlier: the log must extend it.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Recompute every leaf and root offline; name the first line that was altered, and fail."""
    from gatehouse.compose.offline import verify_audit

    environment = read_environment()
    report = verify_audit(data_dir or environment.data_dir, environment, config, checkpoint, show=not as_json and sys.stderr.isatty())
    if as_json:
        show({**msgspec.to_builtins(report), "ok": report.ok})
    elif report.ok:
        said = f"{report.size} events, {report.signed} of them under {report.checkpoints} signed checkpoints, root {report.root}"
        told().print(f"[green]The audit log is whole:[/] {said}")
    else:
        console = aside()
        console.print(f"[bold red]The audit log is NOT whole[/] from event {report.first_bad} on:")
        for problem in report.problems:
            console.print(f"  {problem.kind} at {problem.seq}: {pictures.safe(problem.text)}")
    if not report.ok:
        raise typer.Exit(2)


@app.command("reseal")
def audit_reseal(
    reason: Annotated[str, typer.Option("--reason", help="Why what is there is taken as the log; it becomes the next event.")],
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """After the log was altered from outside and looked into: go on from what is there. What was signed stays signed."""
    from gatehouse.compose.offline import reseal

    environment = read_environment()
    reseal(data_dir or environment.data_dir, environment, config, reason)
    if as_json:
        show({"resealed": True})
    else:
        told().print("The audit log is sealed again from here on.")
