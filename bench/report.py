"""The figures: a table with bars for people, JSON and CSV under bench/results for programs."""

import csv
import datetime
import platform
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.machine import ROOT, Memory
from bench.rounds import PACE, SCENARIOS, Measure, StreamsMemory, Summary

_BAR: Final = 18
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


class Report(msgspec.Struct):
    """Everything a run found."""

    at: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    measures: list[Measure] = []
    summaries: list[Summary] = []
    memory: dict[str, dict[str, Memory]] = {}
    """Idle processes: kind of server -> role -> megabytes."""
    ready_seconds: dict[str, float] = {}
    streams_memory: StreamsMemory | None = None
    books: dict[str, str] = {}
    missing: list[str] = []
    """Peers that are not here, and why."""

    def write(self, folder: Path) -> Path:
        """Keep it as JSON with a CSV of the single measures beside it; the path of the JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.at.replace(':', '')}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))
        with path.with_suffix(".csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(Measure.__struct_fields__)
            rows.writerows(msgspec.structs.astuple(one) for one in self.measures)
        return path


def machine(cores: int, load_average: float) -> dict[str, str | int | float]:
    """What the figures depend on, in general words."""
    memory = next((int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")), 0)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "memory_gb": round(memory / 1024**2),
        "python": platform.python_version(),
        "load_average_at_start": round(load_average, 2),
    }


def now() -> str:
    """The time as a file name can carry it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def results() -> Path:
    """Where reports are kept."""
    return ROOT / "bench" / "results"


def show(report: Report, console: Console) -> None:
    """Print it."""
    for scenario in SCENARIOS:
        rows = [row for row in report.summaries if row.scenario == scenario.name]
        if rows:
            console.print(_table(scenario.name, scenario.says, rows, streamed=scenario.words > 0, paced=scenario.pace > 0))
    _show_sizes(report, console)
    for line in report.missing:
        console.print(f"not measured: {line}", style="yellow")
    if report.books:
        console.print(f"books: {report.books['requests']} requests, {report.books['cost_usd']} USD: exact; {report.books['audit']}")


def _table(name: str, says: str, rows: list[Summary], *, streamed: bool, paced: bool) -> Table:
    unit = "event" if streamed else "request"
    table = Table(title=f"{name}: {says}", title_justify="left", title_style="bold", header_style="dim")
    relay = next((row for row in rows if row.subject == "relay"), None)
    for column in ("", f"{unit}s/s", "per core", "", "of relay", "cpu µs", "+steward", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    if paced:
        table.add_column("events late", justify="right")
    most = max(row.per_core for row in rows) or 1.0
    for row in rows:
        latency = (row.first_p50_ms, row.p99_ms) if streamed else (row.p50_ms, row.p99_ms)
        cells = [
            row.subject + (f" ({row.errors} errors)" if row.errors else ""),
            f"{row.rate:,.0f}",
            f"{row.per_core:,.0f}" if row.per_core else "",
            bar(row.per_core / most),
            f"{row.cpu_of_relay:.2f}" if row.cpu_of_relay is not None else "",
            f"{row.cpu_us:.1f}" if row.cpu_us else "",
            f"{row.helper_us:.1f}" if row.helper_us else "",
            f"{latency[0]:.2f}",
            f"{latency[1]:.2f}",
        ]
        if paced:
            late = (row.first_p50_ms - relay.first_p50_ms) / (PACE * 1e3) if relay is not None else 0.0
            cells.append(f"{late:+.2f}")
        table.add_row(*cells, style="bold cyan" if row.subject == "gatehouse" else "")
    if streamed:
        table.caption = "p50: to the first event; p99: to the last"
    return table


def _show_sizes(report: Report, console: Console) -> None:
    if report.ready_seconds or report.memory:
        table = Table(title="ready and idle", title_justify="left", title_style="bold", header_style="dim")
        for column in ("", "ready s", "process", "RSS MB", "PSS MB"):
            table.add_column(column, justify="left" if column in {"", "process"} else "right")
        for kind in dict.fromkeys([*report.ready_seconds, *report.memory]):
            seconds = f"{report.ready_seconds[kind]:.2f}" if kind in report.ready_seconds else ""
            for role, size in report.memory.get(kind, {"": None}).items():
                table.add_row(kind, seconds, role, *((f"{size.rss:.0f}", f"{size.pss:.0f}") if size is not None else ("", "")))
                kind, seconds = "", ""  # noqa: PLW2901 - said once
        console.print(table)
    held = report.streams_memory
    if held is not None:
        each = (held.most.pss - held.before.pss) / held.streams * 1024
        console.print(
            f"{held.streams:,} open streams{'' if held.all_open else ' (not all at the same moment)'}: the worker went from "
            f"{held.before.pss:.0f} to {held.most.pss:.0f} MB (PSS), {each:.1f} kB a stream"
        )


def bar(share: float) -> str:
    """A bar of _BAR cells at most; `share` from 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
