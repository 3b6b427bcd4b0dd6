"""`python -m bench`: measure, check the books, report."""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import peers, rounds
from bench.machine import Cores, NotStarted, Process, load_average, pin
from bench.report import Report, machine, now, results, show
from bench.subjects import Embedded, Gatehouse, Peer, Relay, Subject, WrongBooks

SIZES: Final = "sizes"
MEMORY: Final = "streams-memory"
_PLAIN_WIDTH: Final = 140
"""Columns of the report when it goes to a file."""


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [scenario.name for scenario in rounds.SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody has a turn at a scenario (default 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a turn (default 4)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"some of {', '.join([*names, SIZES, MEMORY])}; default all")
    parser.add_argument("--peers", default="portkey,litellm", metavar="A,B", help="gateways to install and measure beside ours, or none")
    parser.add_argument("--streams", type=int, default=rounds.OPEN_STREAMS, help=f"open streams in {MEMORY}")
    parser.add_argument("--starts", type=int, default=3, help=f"how often each kind of server is started in {SIZES}")
    parser.add_argument("--results", type=Path, default=results(), help="where the report is kept")
    given = parser.parse_args(words)
    given.only = [name for name in given.only.split(",") if name] or [*names, SIZES, MEMORY]
    given.peers = [] if given.peers == "none" else given.peers.split(",")
    unknown = [name for name in given.only if name not in {*names, SIZES, MEMORY}]
    unknown += [name for name in given.peers if name not in peers.known()]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    return given


def installed(names: list[str], report: Report, console: Console) -> list[peers.Peer]:
    """The peers that are here, installed when they were not."""
    found = []
    for name in names:
        peer = peers.known()[name]
        try:
            if not peer.version():
                console.print(f"installing {name} into {peers.HOME.name}/{name} ...")
                peer.install()
        except peers.NotHere as error:
            report.missing.append(str(error))
            console.print(str(error), style="yellow")
            continue
        report.versions[name] = peer.version()
        found.append(peer)
    return found


def sizes(report: Report, cores: Cores, upstream: int, place: Path, starts: int) -> None:
    """How long a fresh server takes to its first answer, and what its processes hold then."""
    upstreamed, embedded = [], []
    for number in range(starts):
        house = Gatehouse(cores, upstream, place / f"start-{number}")
        house.stop()
        upstreamed.append(house)
        embedded.append(Embedded(cores, place / f"embedded-{number}"))
    report.ready_seconds["with an upstream"] = statistics.median(house.ready_seconds for house in upstreamed)
    report.ready_seconds["with the built-in model"] = statistics.median(house.ready_seconds for house in embedded)
    report.memory["with an upstream"] = upstreamed[-1].idle
    report.memory["with the built-in model"] = embedded[-1].idle


def bench(given: argparse.Namespace, report: Report, console: Console, place: Path) -> None:
    """Everything that was asked for; the books are checked at the end."""
    cores = Cores.of_this_machine()
    beside = installed(given.peers, report, console)
    scenarios = [scenario for scenario in rounds.SCENARIOS if scenario.name in given.only]
    with contextlib.ExitStack() as stack:
        words = [sys.executable, "-m", "bench.upstream"]
        origin = Process("the upstream", words, place / "upstream.log", cores.upstream, piped=True)
        stack.callback(origin.stop)
        upstream = origin.read_port()
        pin(os.getpid(), cores.load)
        if SIZES in given.only:
            sizes(report, cores, upstream, place, given.starts)
        house = Gatehouse(cores, upstream, place / "gatehouse")
        stack.callback(house.stop)
        subjects: list[Subject] = [Subject(cores, upstream)]
        if scenarios:
            relay = Relay(cores, upstream, place)
            stack.callback(relay.stop)
            subjects += [relay, house]
            for peer in beside:
                try:
                    subject = Peer(cores, peer, upstream, place)
                except NotStarted as error:
                    report.missing.append(str(error))
                    continue
                stack.callback(subject.stop)
                report.ready_seconds[peer.name] = subject.ready_seconds
                subjects.append(subject)
            report.measures = rounds.all_rounds(scenarios, subjects, upstream, given.rounds, given.seconds, lambda one: tell(one, console))
            report.summaries = rounds.summaries(report.measures)
        if MEMORY in given.only:
            report.streams_memory = rounds.streams_memory(house, upstream, given.streams)
        report.books = house.check_books()
        house.stop()
        report.books["audit"] = house.check_audit()


def tell(one: rounds.Measure, console: Console) -> None:
    """A line as it happens."""
    console.print(
        f"  {one.scenario:14} {one.round + 1} {one.subject:10} {one.rate:10,.0f}/s  {one.cpu_us:8.1f} µs cpu  p50 {one.p50_ms:8.2f} ms"
        f"  p99 {one.p99_ms:8.2f} ms  load {one.load_average:.1f}",
        style="dim",
        highlight=False,
    )


def main() -> int:
    """The command; 1 when the books are wrong or an answer was."""
    given = options()
    console = Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)
    report = Report(now(), machine(len(os.sched_getaffinity(0)), load_average()), {})
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as place:
        try:
            bench(given, report, console, Path(place))
        except (WrongBooks, RuntimeError) as error:
            console.print(str(error), style="red", markup=False)
            return 1
    show(report, console)
    console.print(f"kept in {report.write(given.results)}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
