"""`gatehouse backup` and `gatehouse restore`: a data directory in one file, and back."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gatehouse.cli.options import Config, DataDir, Json, aside, show, told
from gatehouse.cli.pictures import safe
from gatehouse.settings import read_environment


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it (a .tar.gz).")],
    with_root_key: Annotated[
        bool, typer.Option("--with-root-key", help="Put root.key and admin.key in as well: who has such a file has everything.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy a data directory into one file, consistent while the server runs: database, journals, identity; no root key unless asked."""
    from gatehouse.compose.keeping import back_up

    environment = read_environment()
    kept = back_up((data_dir or environment.data_dir).absolute(), environment, config, file, with_root_key=with_root_key, replace=replace)
    if as_json:
        show(msgspec.to_builtins(kept))
    else:
        told().print(f"[green]Backed up[/] to {safe(kept.file)}: {kept.files} files, {kept.size / 1024**2:.1f} MiB.")
    if with_root_key:
        aside().print("[yellow]It holds the root key:[/] who has this file can read and forge everything. Keep it like the key itself.")
    else:
        aside().print("[dim]It holds no root key: keep root.key elsewhere, a backup without it cannot be restored.[/]")
    for name in kept.missing:
        aside().print(f"[yellow]The journal {safe(name)} is missing:[/] its open calls will be charged what they held.")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that gatehouse backup wrote.")],
    root_key: Annotated[Path | None, typer.Option("--root-key", help="The installation's root.key, when the backup holds none.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a data directory from a backup: checksums, then the root key's MAC, then the audit log must verify."""
    from gatehouse.compose.keeping import bring_back

    environment = read_environment()
    restored = bring_back((data_dir or environment.data_dir).absolute(), environment, config, file, root_key)
    if as_json:
        show(msgspec.to_builtins(restored))
    else:
        where = safe(restored.data_dir)
        told().print(f"[green]Restored[/] {where}: {restored.files} files; the audit log is whole: {restored.events} events.")
        told().print(f"Serve it with: gatehouse serve --data-dir {where}")
