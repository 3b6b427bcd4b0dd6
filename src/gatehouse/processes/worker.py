"""The worker: carries calls and nothing else. It knows the steward only through the inner socket and never imports its rooms.

It begins to accept when it has a configuration, keeps serving what it can while the steward is away for a moment, and
ends when the steward is gone for good: a call that could not be recorded is a call that must not be carried.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock, Spawn
from gatehouse.core.responses import Ended, Owner
from gatehouse.core.targets import TargetState
from gatehouse.pipeline.runner import Runner
from gatehouse.processes.protocol import Collect, Configure, Drain, EndResponse, ForgetKey, Message, Recall, Revoke, TargetsTold
from gatehouse.processes.steward_client import StewardClient

logger = logging.getLogger("gatehouse.worker")

REPORT_SECONDS: Final = 1.0
ORPHAN_GRACE: Final = 2.0
"""Seconds that running calls get when the steward died: the journal still takes their records, but nothing can be leased."""


class Plane(Protocol):
    """What compose builds for a worker."""

    runner: Runner

    async def start(self, listener: socket.socket) -> None:
        """Accept connections."""

    async def configure(self, message: Configure) -> None:
        """Put a configuration in force for calls that begin from now on. Raises when it cannot; then the old one stays."""

    def forget_key(self, key_id: str) -> None:
        """A key changed; "" means all of them."""

    def recall(self, meters: tuple[str, ...]) -> None:
        """Give back what lies idle of these meters."""

    def end_response(self, owner: Owner, response_id: str) -> Ended | None:
        """End the call that makes this response, if it runs here."""

    def tick(self) -> bool:
        """Once a second: give back what lies idle. False when what calls leave behind is lost: then no more may be carried."""

    def snapshot(self) -> bytes:
        """The counters so far."""

    def target_states(self) -> tuple[TargetState, ...]:
        """What this process knows of its targets."""

    def heard(self, told: TargetsTold) -> None:
        """Another worker tells what it knows."""

    async def drain(self, grace: float) -> None:
        """Stop accepting; let what runs finish; end the rest after `grace` seconds."""

    async def close(self) -> None:
        """Give everything back."""


Build = Callable[[StewardClient, Configure], Awaitable[Plane]]


class Worker:
    """One process of the data plane."""

    def __init__(self, build: Build, clock: Clock, spawn: Spawn) -> None:
        self._build = build
        self._clock = clock
        self._spawn = spawn
        self._client = StewardClient(clock, self._told, self._lost)
        self._plane: Plane | None = None
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        """None is the end."""
        self._listener: socket.socket | None = None
        self._draining = False
        self._told_of_targets = False

    async def run(self, steward: socket.socket, listener: socket.socket) -> None:
        """Serve until told to stop."""
        self._listener = listener
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # The steward decides when workers stop: a signal to the whole process group must not tear them from under it.
            loop.add_signal_handler(number, _ignore)
        await loop.create_connection(lambda: self._client.link, sock=steward)
        beat = self._spawn(self._beat(), name="worker-beat")
        try:
            while (message := await self._inbox.get()) is not None:
                await self._handle(message)
        finally:
            beat.cancel()
            if self._plane is not None:
                await self._plane.close()
            self._client.link.close()

    async def _handle(self, message: Message) -> None:
        match message:
            case Configure():
                await self._configure(message)
            case Drain(grace=grace):
                self._draining = True
                if self._plane is not None:
                    await self._plane.drain(grace)
                    self._client.report(self._plane.snapshot())
                self._inbox.put_nowait(None)
            case _:
                logger.error("unexpected message %s", type(message).__name__)

    async def _configure(self, message: Configure) -> None:
        try:
            if self._plane is None:
                assert self._listener is not None
                plane = await self._build(self._client, message)
                await plane.start(self._listener)
                self._plane = plane
                self._client.configured(message.version)
                self._client.serving()
            else:
                await self._plane.configure(message)
                self._client.configured(message.version)
        except Exception as error:
            logger.exception("configuration %s cannot be put in force", message.version)
            self._client.configured(message.version, f"{type(error).__name__}: {error}")
            if self._plane is None:
                self._inbox.put_nowait(None)

    def _told(self, message: Message) -> None:
        """Runs as the message arrives: what is quick happens at once, the rest in order in `run`."""
        plane = self._plane
        match message:
            case ForgetKey(key_id=key_id):
                if plane is not None:
                    plane.forget_key(key_id)
            case Revoke(key_id=key_id):
                if plane is not None:
                    _revoke(plane, key_id)
            case Recall(number=number, meters=meters):
                if plane is not None:
                    plane.recall(meters)
                self._client.recalled(number)
            case EndResponse(number=number, owner=owner, response_id=response_id):
                self._client.response_ended(number, None if plane is None else plane.end_response(owner, response_id))
            case TargetsTold():
                if plane is not None:
                    plane.heard(message)
            case Collect(number=number):
                self._tell_targets()
                self._client.report(plane.snapshot() if plane is not None else b"", number)
            case _:
                self._inbox.put_nowait(message)

    def _lost(self) -> None:
        if self._draining:
            return
        logger.error("the steward is gone; finishing what runs and ending")
        self._inbox.put_nowait(Drain(ORPHAN_GRACE))

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(REPORT_SECONDS)
            if self._plane is not None:
                if not self._plane.tick() and not self._draining:
                    logger.critical("the journal of this process is gone from the disk; ending, so that its successor begins another")
                    self._draining = True
                    self._inbox.put_nowait(Drain(ORPHAN_GRACE))
                self._client.report(self._plane.snapshot())
                self._tell_targets()

    def _tell_targets(self) -> None:
        """Say what there is to say, and once more that there is nothing any more."""
        states = self._plane.target_states() if self._plane is not None else ()
        if states or self._told_of_targets:
            self._client.targets(states)
        self._told_of_targets = bool(states)


def _revoke(plane: Plane, key_id: str) -> None:
    plane.forget_key(key_id)
    for x in tuple(plane.runner.running):
        if x.principal is not None and x.principal.key_id == key_id:
            x.end(Outcome.REVOKED)


def _ignore() -> None:
    """Signals are the steward's to act on."""
