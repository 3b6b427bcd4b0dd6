"""`python -m bench.compare TREE [TREE ...]`: the same load on several checkouts in alternating turns, beside the bare relay.

For who changes the way of a call: processor time of the worker a request, before and after, in one run on one machine. Each tree is a
checkout (`git worktree add ../before HEAD~1`); all of them run in this environment. Books are checked at the end, as in `bench`.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bench import rounds
from bench.machine import Cores, Process, pin
from bench.subjects import Gatehouse, Relay, Subject


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("trees", nargs="+", type=Path, help="checkouts to compare")
    parser.add_argument("--scenario", default="chats", choices=[each.name for each in rounds.SCENARIOS])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each (default 6)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (default 1)")
    parser.add_argument("--concurrency", type=int, default=0, help="calls at a time; 0 as the scenario says")
    return parser.parse_args()


Turns = dict[str, list[rounds.Measure]]


def measured(given: argparse.Namespace, place: Path, stack: contextlib.ExitStack) -> tuple[Turns, list[Gatehouse]]:
    """Every subject's turns, and the servers."""
    scenario = next(each for each in rounds.SCENARIOS if each.name == given.scenario)
    if given.concurrency:
        scenario = replace(scenario, concurrency=given.concurrency)
    cores = Cores.of_this_machine()
    origin = Process("the upstream", [sys.executable, "-m", "bench.upstream"], place / "upstream.log", cores.upstream, piped=True)
    stack.callback(origin.stop)
    upstream = origin.read_port()
    pin(os.getpid(), cores.load)
    relay = Relay(cores, upstream, place)
    stack.callback(relay.stop)
    subjects: dict[str, Subject] = {"relay": relay}
    houses = []
    for number, tree in enumerate(given.trees):
        house = Gatehouse(cores, upstream, place / str(number), tree.resolve())
        stack.callback(house.stop)
        subjects[str(tree)] = house
        houses.append(house)
    found: Turns = {name: [] for name in subjects}
    for number in range(given.rounds + 1):
        order = list(subjects) if number % 2 else list(subjects)[::-1]
        for name in order:
            measure = rounds.measure(scenario, subjects[name], upstream, number, given.seconds)
            if number:  # the first turn only warms up
                found[name].append(measure)
    return found, houses


def main() -> int:
    """Measure and tell."""
    given = options()
    with tempfile.TemporaryDirectory(prefix="gatehouse-compare-") as place, contextlib.ExitStack() as stack:
        found, houses = measured(given, Path(place), stack)
        for house in houses:
            house.check_books()
    table = Table("", "CPU", "least", "steward", "per s", "p50", "p99", "of relay", box=None)
    for name, turns in found.items():
        cpu = [turn.cpu_us for turn in turns]
        ratios = [base.cpu_us / turn.cpu_us for base, turn in zip(found["relay"], turns, strict=True)]
        table.add_row(
            name,
            f"{statistics.median(cpu):.1f} µs",
            f"{min(cpu):.1f} µs",
            f"{statistics.median(turn.helper_us for turn in turns):.1f} µs",
            f"{statistics.median(turn.rate for turn in turns):,.0f}",
            f"{statistics.median(turn.p50_ms for turn in turns):.2f} ms",
            f"{statistics.median(turn.p99_ms for turn in turns):.2f} ms",
            f"{statistics.median(ratios):.3f}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
