"""What the commands draw: tables, small bars, and a call's stages in time. Everything that came from outside is escaped."""

from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

BAR = 24


def safe(text: str) -> str:
    """Text from outside as one harmless line: no control characters for the terminal, no markup for rich."""
    return escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def bar(value: float, largest: float, width: int = BAR) -> str:
    """A bar of at most `width` cells."""
    eighths = round(width * 8 * value / largest) if largest > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")


def keys_table(rows: list[dict[str, Any]]) -> Table:
    """Keys, one a line."""
    table = Table("id", "name", "team", "roles", "models", "budget", "limits", "state")
    for row in rows:
        budget = row["budget"]
        limits = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in row["limits"].items() if value is not None)
        table.add_row(
            safe(row["id"]),
            safe(row["name"]),
            safe(row["team"] or "-"),
            ", ".join(row["roles"]),
            safe(", ".join(row["models"]) if row["models"] is not None else "all"),
            f"${budget['usd']}/{budget['period']}" if budget else "-",
            limits or "-",
            Text("revoked", "red") if row["revoked"] else Text("active", "green"),
        )
    return table


def usage_table(rows: list[dict[str, Any]], groups: list[str]) -> Table:
    """Usage with a bar for the cost, or for the requests when nothing cost anything."""
    table = Table(*groups, "requests", "input tokens", "output tokens", "cost (USD)", "")
    costs = [float(row["cost_usd"]) for row in rows]
    weights = costs if any(costs) else [float(row["requests"]) for row in rows]
    for row, weight in zip(rows, weights, strict=True):
        names = [safe(str(row.get(group) if row.get(group) is not None else "-")) for group in groups]
        figures = [f"{row[field]:,}" for field in ("requests", "input_tokens", "output_tokens")]
        table.add_row(*names, *figures, row["cost_usd"], Text(bar(weight, max(weights)), "cyan"))
    for column in table.columns[len(groups) : len(groups) + 4]:
        column.justify = "right"
    return table


def trace(call: dict[str, Any]) -> Group:
    """A call: a line for each attempt, and its stages drawn on one time axis."""
    parts: list[Any] = [Text.from_markup(f"[bold]{safe(call['id'])}[/]  key {safe(call['key_id'] or '-')}  policy {safe(call['policy'])}")]
    for attempt in call["attempts"]:
        colour = "green" if attempt["outcome"] == "completed" else "red"
        used = ", ".join(f"{count} {bucket}" for bucket, count in attempt["usage"].items() if count)
        words = [
            f"attempt {attempt['attempt']}",
            safe(attempt["target"] or "-"),
            f"[{colour}]{attempt['outcome']}[/] {safe(attempt['error'])}",
            f"{attempt['duration_us'] / 1000:.2f} ms",
            used or "no tokens",
            f"${attempt['cost_usd']}",
            f"cache {attempt['cache']}",
            f"[yellow]{safe(', '.join(attempt['flags']))}[/]",
        ]
        parts.append(Text.from_markup("  ".join(words)))
        if attempt["stages"]:
            parts.append(_stages(attempt))
    return Group(*parts)


def _stages(attempt: dict[str, Any]) -> Table:
    table = Table("stage", "starts", "takes", "", box=None, padding=(0, 1))
    whole = max(attempt["duration_us"], 1)
    rows = [(stage["stage"], stage["start_us"], stage["took_us"]) for stage in attempt["stages"]]
    end = rows[-1][1] + rows[-1][2]
    if attempt["first_event_us"] >= 0:
        end = max(end, attempt["first_event_us"])
    rows.append(("stream", end, max(whole - end, 0)))
    for name, start, took in rows:
        offset = min(int(40 * start / whole), 39)
        length = max(1, round(40 * took / whole))
        table.add_row(
            safe(name), f"{start / 1000:.2f} ms", f"{took / 1000:.2f} ms", Text(" " * offset + "━" * min(length, 40 - offset), "cyan")
        )
    return table
