"""What a running server tells: models, usage, and one call in time."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gatehouse.cli import pictures
from gatehouse.cli.client import CommandError, data_client, data_url, find_key, segment
from gatehouse.cli.options import DataDir, Json, Key, Url, client, drawn, show
from gatehouse.settings import read_environment


def models(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """What can be asked for here.

    With an operator's key targets, prices per million tokens, context and capabilities, from the admin port; with any other
    what this key may ask for, from the data port.
    """
    try:
        report = client(url, key, data_dir).get("/admin/v1/models")
    except CommandError:
        report = _granted_models(url, key, data_dir)
    if as_json:
        show(report)
    elif any("targets" in model for model in report["data"]):
        drawn().print(pictures.models_table(report["data"]))
    else:
        drawn().print(pictures.granted_table(report["data"]))


def _granted_models(url: str | None, key: str | None, data_dir: Path | None) -> Any:
    environment = read_environment()
    directory = data_dir or environment.data_dir
    base = data_url(url, directory, environment)
    return data_client(base, find_key(base, key, directory, environment)).get("/v1/models")


def targets(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Which targets are asked now, which are left alone, why, and until when."""
    report = client(url, key, data_dir).get("/admin/v1/targets")
    if as_json:
        show(report)
    else:
        drawn().print(pictures.targets_table(report["data"]))


def usage(
    group_by: Annotated[
        str, typer.Option(help="Any of key, team, model, target, day, outcome, user and tag:<name>, joined by commas.")
    ] = "model",
    since: Annotated[str | None, typer.Option("--from", help="From this time on (2026-11-01 or RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Before this time.")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What was used and what it cost, exact to the last digit."""
    report = client(url, key, data_dir).get("/admin/v1/usage", group_by=group_by, from_=since, to=until)
    if as_json:
        show(report)
    elif report["rows"]:
        drawn().print(pictures.usage_table(report["rows"], [name for name in group_by.split(",") if name]))
    else:
        drawn().print("No call has ended in this time.")


def trace(
    request_id: Annotated[str, typer.Argument(help="The x-gatehouse-request-id of a call.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """One call: its attempts, its stages in time, its tokens and its cost."""
    call = client(url, key, data_dir).get(f"/admin/v1/requests/{segment(request_id)}")
    if as_json:
        show(call)
    else:
        drawn().print(pictures.trace(call))
