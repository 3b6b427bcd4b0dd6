"""What the commands draw: tables, small bars, and a call's stages in time. Everything that came from outside is escaped."""

from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

BAR: Final = 24
AXIS: Final = 48
"""Cells of the time axis."""


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


def models_table(models: list[dict[str, Any]]) -> Table:
    """Models with each target on its line; prices are USD per million tokens."""
    table = Table("model", "target", "share", "in / out", "context", "most out", "can", "also", show_lines=False)
    for model in models:
        weights = sum(target["weight"] for target in model["targets"])
        rows = [(target, f"{100 * target['weight'] / weights:.0f} %") for target in model["targets"]]
        rows += [(target, f"fallback {at}") for at, group in enumerate(model["fallbacks"], 1) for target in group]
        for number, (target, share) in enumerate(rows):
            price = target["price"]
            table.add_row(
                f"[bold]{safe(model['name'])}[/]" if number == 0 else "",
                safe(target["id"]),
                share,
                f"${price['input']} / ${price['output']}" if price else "[yellow]unknown[/]",
                f"{target['context_window']:,}" if target["context_window"] else "-",
                f"{target['max_output_tokens'] or model['max_output_tokens']:,}",
                ", ".join(target["capabilities"]) or "-",
                _also(model) if number == 0 else "",
            )
        table.add_section()
    return table


def granted_table(models: list[dict[str, Any]]) -> Table:
    """What a key may ask for."""
    table = Table("model", "does", "context", "most out")
    for model in models:
        window = model["context_window"]
        table.add_row(
            safe(model["id"]), ", ".join(model["operations"]), f"{window:,}" if window else "-", f"{model['max_output_tokens']:,}"
        )
    return table


def targets_table(rows: list[dict[str, Any]]) -> Table:
    """Targets with their state; figures are sums over the workers that told any."""
    colours = {"closed": "green", "half_open": "yellow", "resting": "yellow"}
    table = Table("target", "models", "state", "reason", "asked again in", "running", "tokens of work", "first event")
    for row in rows:
        measured = [worker["first_event_seconds"] for worker in row["workers"] if worker["first_event_seconds"] is not None]
        table.add_row(
            safe(row["id"]),
            safe(", ".join(row["models"])),
            Text(row["state"].replace("_", " "), colours.get(row["state"], "red")),
            safe(row["reason"]) or "-",
            f"{row['asked_again_in']:.1f} s" if row["asked_again_in"] else "-",
            f"{sum(worker['running'] for worker in row['workers']):,}",
            f"{sum(worker['work_tokens'] for worker in row['workers']):,}",
            f"{1000 * sum(measured) / len(measured):,.0f} ms" if measured else "-",
        )
    return table


def _also(model: dict[str, Any]) -> str:
    words = []
    if model["cache"]:
        words.append(f"cached {model['cache']['ttl']:g} s for the {model['cache']['scope']}")
    if model["strict_audit"]:
        words.append("strict audit")
    if model["guard_input"] == "off" or model["guard_output"] == "off":
        words.append("[yellow]guard off[/]")
    return ", ".join(words) or "-"


def trace(call: dict[str, Any]) -> Group:
    """A call: a line for each attempt, and its stages drawn on one time axis."""
    last = call["attempts"][-1]
    words = [f"[bold]{safe(call['id'])}[/]", f"key {safe(call['key_id'] or '-')}"]
    words += [f"team {safe(call['team'])}"] if call["team"] else []
    words += [f"{safe(call['operation'])} {safe(last['model'] or '-')}", f"policy {safe(call['policy'])}"]
    at = datetime.fromtimestamp(last["at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    words += [at, f"{call['traffic']} traffic"] if call["traffic"] != "live" else [at]
    parts: list[Any] = [Text.from_markup("  ".join(words))]
    booked = [f"{name}={value}" for name, value in call["tags"].items()]
    booked += [f"user {call['user']}"] if call["user"] else []
    booked += [f"trace {call['trace_id']}"] if call["trace_id"] else []
    if booked:
        parts.append(Text.from_markup(safe("  ".join(booked))))
    began = 0
    for attempt in call["attempts"]:
        parts.append(_attempt(attempt, began))
        began = attempt["duration_us"]
    if last["stages"]:
        parts.append(_stages(call["attempts"]))
    return Group(*parts)


def _attempt(attempt: dict[str, Any], began: int) -> Text:
    colour = "green" if attempt["outcome"] == "completed" else "red"
    used = ", ".join(f"{count} {bucket.replace('_', ' ')}" for bucket, count in attempt["usage"].items() if count)
    words = [
        f"attempt {attempt['attempt']}" if attempt["attempt"] else "no attempt",
        safe(attempt["target"] or "-"),
        f"[{colour}]{attempt['outcome']}[/] {safe(attempt['error'])}".strip(),
        f"{(attempt['duration_us'] - began) / 1000:.2f} ms",
        used or "no tokens",
        f"${attempt['cost_usd']}",
        f"cache {attempt['cache']}",
        f"[yellow]{safe(', '.join(attempt['flags']))}[/]",
    ]
    return Text.from_markup("  ".join(words).rstrip())


def _stages(attempts: list[dict[str, Any]]) -> Table:
    """Rows on one axis: the stages, each attempt when there were several, the wait for the first piece, and the stream."""
    last = attempts[-1]
    whole = max(last["duration_us"], 1)
    rows = [(stage["stage"], stage["start_us"], stage["took_us"], "cyan") for stage in last["stages"]]
    end = rows[-1][1] + rows[-1][2]
    if len(attempts) > 1:
        # An attempt begins where the one before ended; the first one when Dispatch was entered.
        began = rows[-1][1]
        for attempt in attempts:
            colour = "green" if attempt["outcome"] == "completed" else "red"
            rows.append((f"attempt {attempt['attempt']}", began, max(attempt["duration_us"] - began, 0), colour))
            began = attempt["duration_us"]
    first = last["first_event_us"]
    if first > end:
        rows.append(("first piece", end, first - end, "yellow"))
        end = first
    rows.append(("stream", end, max(whole - end, 0), "green"))
    axis = f"0{f'{whole / 1000:.2f} ms':>{AXIS - 1}}"
    table = Table("stage", "starts", "takes", axis, box=None, padding=(0, 1))
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, start, took, colour in rows:
        offset = min(int(AXIS * start / whole), AXIS - 1)
        length = min(max(1, round(AXIS * took / whole)), AXIS - offset)
        # What takes less than half a cell is drawn thin, so that it does not look like a share of the time.
        mark = "━" if took * AXIS * 2 >= whole else "╷"
        table.add_row(safe(name), f"{start / 1000:.2f} ms", f"{took / 1000:.2f} ms", Text(" " * offset + mark * length, colour))
    return table
