"""`gatehouse keys`: make, list, revoke and rotate."""

import sys
from typing import Annotated, Any

import typer

from gatehouse.cli import pictures
from gatehouse.cli.client import segment
from gatehouse.cli.options import DataDir, Json, Key, Url, client, drawn, show, told

app = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True)


@app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    team: Annotated[str | None, typer.Option(help="The team it belongs to.")] = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", help="admin, developer, viewer or auditor; repeat for more. Without it, developer.")
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
    made = client(url, key, data_dir).post("/admin/v1/keys", {field: value for field, value in body.items() if value is not None})
    if as_json:
        show(made)
        return
    console = told()
    console.print(f"Key [bold]{made['id']}[/] for {pictures.safe(made['name'])}. It is shown this once:")
    sys.stdout.write(f"{made['key']}\n")


@app.command("list")
def keys_list(url: Url = None, key: Key = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List every key, without its secret."""
    admin = client(url, key, data_dir)
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = admin.get("/admin/v1/keys", limit="200", cursor=cursor)
        rows += page["data"]
        cursor = page["cursor"]
        if cursor is None:
            break
    if as_json:
        show({"data": rows})
    else:
        drawn().print(pictures.keys_table(rows))


@app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Revoke a key now; its running calls are ended."""
    view = client(url, key, data_dir).delete(f"/admin/v1/keys/{segment(key_id)}")
    if as_json:
        show(view)
    else:
        told().print(f"Key {pictures.safe(key_id)} is revoked.")


@app.command("rotate")
def keys_rotate(
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    grace: Annotated[float, typer.Option(help="Seconds for which the old secret goes on working.")] = 0.0,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret; limits, budget and history stay. The secret is shown this once."""
    made = client(url, key, data_dir).post(f"/admin/v1/keys/{segment(key_id)}/rotate", {"grace_seconds": grace})
    if as_json:
        show(made)
        return
    told().print(f"Key [bold]{made['id']}[/] has a new secret. It is shown this once:")
    sys.stdout.write(f"{made['key']}\n")
