"""The commands, and what a person sees of them. No traceback for a user's mistake; `--json` for programs."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gatehouse import __version__
from gatehouse.cli import pictures
from gatehouse.cli.client import AdminClient, CommandError, admin_client, segment
from gatehouse.operator_file import SettingsError, load
from gatehouse.settings import read_environment

app = typer.Typer(
    name="gatehouse", help="One door to every language model in an organisation.", no_args_is_help=True, pretty_exceptions_enable=False
)
keys_app = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True)
audit_app = typer.Typer(help="Prove the audit log.", no_args_is_help=True)
config_app = typer.Typer(help="Check the operator's file.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url = Annotated[str | None, typer.Option("--url", help="Admin URL of the server (GATEHOUSE_ADMIN_URL).", show_default=False)]
Key = Annotated[str | None, typer.Option("--key", help="A key (GATEHOUSE_KEY); better in the environment than here.", show_default=False)]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The data directory (GATEHOUSE_DATA_DIR).", show_default=False)]


def main() -> None:
    """Run the command line; a person's mistake is one sentence on standard error and exit status 1."""
    try:
        app()
    except (CommandError, SettingsError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]gatehouse:[/] {pictures.safe(str(error))}")
        sys.exit(1)


def _client(url: str | None, key: str | None, data_dir: Path | None) -> AdminClient:
    return admin_client(url, key, data_dir, read_environment())


def _show(value: Any) -> None:
    """JSON on standard output, as a program wants it."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


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

    status = run(Options(config, host, port, admin_port, workers, data_dir, model), read_environment())
    raise typer.Exit(status)


@app.command()
def version(as_json: Json = False) -> None:
    """The version of Gatehouse and of the Python it runs on."""
    if as_json:
        _show({"version": __version__, "python": sys.version.split()[0]})
    else:
        sys.stdout.write(f"gatehouse {__version__} (Python {sys.version.split()[0]})\n")


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(help="The operator's file.")], as_json: Json = False) -> None:
    """Say whether a server would take this file; if not, where and why not."""
    from gatehouse.compose.offline import check_settings

    try:
        summary = check_settings(load(file))
    except SettingsError as error:
        if as_json:
            _show({"ok": False, "error": str(error)})
            raise typer.Exit(1) from None
        raise
    if as_json:
        _show({"ok": True, **summary})
        return
    table = Table("model", "targets", "price (in/out per million)", "fallbacks", title=f"{pictures.safe(str(file))}: good")
    for row in summary["models"]:
        table.add_row(row["name"], "\n".join(row["targets"]), "\n".join(row["prices"]), ", ".join(row["fallbacks"]) or "-")
    Console().print(table)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    team: Annotated[str | None, typer.Option(help="The team it belongs to.")] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", help="admin, developer or viewer; repeat for more. Without it, developer.")
    ] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="A model it may call; repeat for more. Without it, all.")] = None,
    budget: Annotated[str | None, typer.Option(help='USD and period, "5.00/month", "1/day" or "10/total".')] = None,
    requests_per_minute: Annotated[int | None, typer.Option("--rpm", help="Requests a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option("--tpm", help="Tokens a minute.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls at a time.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="When it ends (2027-01-31T00:00:00Z).")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once."""
    body: dict[str, Any] = {"name": name, "team": team, "roles": roles or None, "models": models or None, "expires_at": expires_at}
    if budget is not None:
        usd, _, period = budget.partition("/")
        body["budget"] = {"usd": usd, "period": period or "month"}
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "concurrency": concurrency}
    body["limits"] = {field: value for field, value in limits.items() if value is not None} or None
    made = _client(url, key, data_dir).post("/admin/v1/keys", {field: value for field, value in body.items() if value is not None})
    if as_json:
        _show(made)
        return
    console = Console(highlight=False)
    console.print(f"Key [bold]{made['id']}[/] for {pictures.safe(made['name'])}. It is shown this once:")
    sys.stdout.write(f"{made['key']}\n")


@keys_app.command("list")
def keys_list(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List every key, without its secret."""
    client = _client(url, key, data_dir)
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = client.get("/admin/v1/keys", limit="200", cursor=cursor)
        rows += page["data"]
        cursor = page["cursor"]
        if cursor is None:
            break
    if as_json:
        _show({"data": rows})
    else:
        Console().print(pictures.keys_table(rows))


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Revoke a key now; its running calls are ended."""
    view = _client(url, key, data_dir).delete(f"/admin/v1/keys/{segment(key_id)}")
    if as_json:
        _show(view)
    else:
        Console(highlight=False).print(f"Key {pictures.safe(key_id)} is revoked.")


@keys_app.command("rotate")
def keys_rotate(
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    grace: Annotated[float, typer.Option(help="Seconds for which the old secret goes on working.")] = 0.0,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret; limits, budget and history stay. The secret is shown this once."""
    made = _client(url, key, data_dir).post(f"/admin/v1/keys/{segment(key_id)}/rotate", {"grace_seconds": grace})
    if as_json:
        _show(made)
        return
    Console(highlight=False).print(f"Key [bold]{made['id']}[/] has a new secret. It is shown this once:")
    sys.stdout.write(f"{made['key']}\n")


@app.command()
def usage(
    group_by: Annotated[str, typer.Option(help="Any of key, team, model, target, day, outcome, joined by commas.")] = "model",
    since: Annotated[str | None, typer.Option("--from", help="From this time on (2026-11-01 or RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Before this time.")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What was used and what it cost, exact to the last digit."""
    report = _client(url, key, data_dir).get("/admin/v1/usage", group_by=group_by, from_=since, to=until)
    if as_json:
        _show(report)
    else:
        Console().print(pictures.usage_table(report["rows"], group_by.split(",")))


@app.command()
def trace(
    request_id: Annotated[str, typer.Argument(help="The x-gatehouse-request-id of a call.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """One call: its attempts, its stages in time, its tokens and its cost."""
    call = _client(url, key, data_dir).get(f"/admin/v1/requests/{segment(request_id)}")
    if as_json:
        _show(call)
    else:
        Console().print(pictures.trace(call))


Config = Annotated[Path | None, typer.Option("--config", "-c", help="The operator's file, when it names another database or root key.")]


@audit_app.command("checkpoint")
def audit_checkpoint(data_dir: DataDir = None, config: Config = None, as_json: Json = False) -> None:
    """Print the newest signed checkpoint; keep it elsewhere and verify against it later."""
    from gatehouse.compose.offline import newest_checkpoint

    environment = read_environment()
    note = newest_checkpoint(data_dir or environment.data_dir, environment, config)
    if as_json:
        _show({"note": note})
    else:
        sys.stdout.write(note)


@audit_app.command("verify")
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
        _show({**msgspec.to_builtins(report), "ok": report.ok})
    elif report.ok:
        said = f"{report.size} events, {report.signed} of them under {report.checkpoints} signed checkpoints, root {report.root}"
        Console(highlight=False, soft_wrap=True).print(f"[green]The audit log is whole:[/] {said}")
    else:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]The audit log is NOT whole[/] from event {report.first_bad} on:")
        for problem in report.problems:
            console.print(f"  {problem.kind} at {problem.seq}: {pictures.safe(problem.text)}")
    if not report.ok:
        raise typer.Exit(2)


@audit_app.command("reseal")
def audit_reseal(
    reason: Annotated[str, typer.Option("--reason", help="Why what is there is taken as the log; it becomes the next event.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """After the log was altered from outside and looked into: go on from what is there. What was signed stays signed."""
    from gatehouse.compose.offline import reseal

    environment = read_environment()
    reseal(data_dir or environment.data_dir, environment, config, reason)
    Console(highlight=False).print("The audit log is sealed again from here on.")
