"""The benchmark's own parts: what it calls a right answer, and that its books are those of the gateway."""

import sys
from pathlib import Path

import pytest

from bench import load, rounds, traffic
from bench.machine import Cores, Process
from bench.subjects import Gatehouse, Relay, Subject, WrongBooks


def test_every_request_is_unlike_every_other() -> None:
    """Two numbered requests have the same length and different bodies, so that a cache never answers."""
    ask = traffic.ask("chats", traffic.chat(), "sk-1")
    one, two = ask.numbered(1), ask.numbered(99_999_999)
    assert len(one) == len(two)
    assert one != two
    head, _, body = one.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()


def test_chunks_are_put_together() -> None:
    """A body is read the same however it was cut."""
    assert load.dechunked(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n") == b"abcde"


def test_the_cost_of_an_answer_is_exact() -> None:
    """Cached tokens cost their own price."""
    assert str(traffic.cost(traffic.ANSWER_TOKENS).normalize()) == "0.0000427"


def test_a_median_is_of_ratios_within_a_round() -> None:
    """A slow round of a noisy machine is slow for the relay too, and does not change the ratio."""
    measures = [
        rounds.Measure("chats", subject, number, 100, 0, rate, cpu, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0)
        for number, noise in enumerate((1.0, 4.0, 1.5))
        for subject, rate, cpu in (("relay", 1000 / noise, 10 * noise), ("gatehouse", 500 / noise, 20 * noise))
    ]
    relay, house = rounds.summaries(measures)
    assert (relay.cpu_of_relay, house.cpu_of_relay, house.rate_of_relay) == (1.0, 0.5, 0.5)


def test_a_tiny_run_goes_through_everything_and_the_books_are_right(tmp_path: Path) -> None:
    """Chats and streams through relay and gateway are answered whole; usage, cost and audit log hold; one request more is noticed."""
    core = Cores.of_this_machine().rest
    cores = Cores(core, core, core, core)
    origin = Process("the upstream", [sys.executable, "-m", "bench.upstream"], tmp_path / "upstream.log", core, piped=True)
    try:
        upstream = origin.read_port()
        relay = Relay(cores, upstream, tmp_path)
        try:
            house = Gatehouse(cores, upstream, tmp_path / "gatehouse")
            try:
                subjects: list[Subject] = [relay, house]
                for subject in subjects:
                    rounds.shape(upstream, 5, 2, 0.0)
                    chats = subject.run(traffic.chat(), 2, 20.0, most=20)
                    streams = subject.run(traffic.chat(), 2, 20.0, most=6, words=5)
                    assert (chats.done, chats.errors, streams.done, streams.errors) == (20, 0, 6, 0), chats.complaint + streams.complaint
                    assert streams.events == 30
                assert house.check_books()["requests"] == "26"
                house.book(load.Figures(done=1), 0)
                with pytest.raises(WrongBooks):
                    house.check_books()
            finally:
                house.stop()
            assert "whole" in house.check_audit()
        finally:
            relay.stop()
    finally:
        origin.stop()
