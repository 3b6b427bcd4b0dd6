"""`gatehouse doctor`: what is wrong, and how to mend it."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table

from gatehouse.cli.options import DataDir, Json, drawn, show
from gatehouse.cli.pictures import safe
from gatehouse.settings import read_environment

MARKS: Final = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "bad": "[bold red]bad[/]"}


def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The operator's file that the server is started with.")] = None,
    data_dir: DataDir = None,
    probe: Annotated[bool, typer.Option("--probe", help="Also open a connection to each provider (TCP and TLS, no request).")] = False,
    as_json: Json = False,
) -> None:
    """Look at this installation: what is wrong and how to mend it. Changes nothing; exit status 1 when something is bad."""
    from gatehouse.compose.doctor import examine

    environment = read_environment()
    findings = examine((data_dir or environment.data_dir).absolute(), environment, config, probe=probe)
    bad = sum(finding.state == "bad" for finding in findings)
    if as_json:
        show({"ok": not bad, "findings": msgspec.to_builtins(findings)})
    else:
        table = Table("", "part", "what was seen", box=None, padding=(0, 1))
        for finding in findings:
            words = safe(finding.words) + (f"\n[dim]→[/] {safe(finding.remedy)}" if finding.remedy else "")
            table.add_row(MARKS[finding.state], safe(finding.part), words)
        warned = sum(finding.state == "warn" for finding in findings)
        drawn().print(table)
        drawn().print(f"{bad} bad, {warned} to look at, {len(findings) - bad - warned} good." if bad or warned else "All is well.")
    if bad:
        raise typer.Exit(1)
