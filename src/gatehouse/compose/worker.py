"""A worker's parts: the nine stages over leases and keys from the steward, models of providers and engines, one HTTP server."""

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import uvloop

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.adapters.providers.openai import OpenAIModel, OpenAIOptions
from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.adapters.storage.journal import JournalWriter
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.core.calls import Call
from gatehouse.core.keys import KeyChecker
from gatehouse.core.ports import Model
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.pipeline.bookkeeping import Bookkeeper
from gatehouse.pipeline.key_cache import KeyCache
from gatehouse.pipeline.lease_book import LeaseBook
from gatehouse.pipeline.order import in_order
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.pipeline.stages.identify import Identify
from gatehouse.pipeline.stages.limit import Limit
from gatehouse.pipeline.stages.read import Read
from gatehouse.pipeline.stages.record import Record
from gatehouse.pipeline.stages.route import Route as RouteStage
from gatehouse.pipeline.stages.route import RouteTable
from gatehouse.processes.protocol import Configure
from gatehouse.processes.steward_client import StewardClient
from gatehouse.processes.worker import Worker
from gatehouse.settings import ProviderSettings, Settings, decode_custom
from gatehouse.wire.http.data_plane import DataPlane, Route
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.server import DataServer
from gatehouse.wire.http.tls import Tls, tls_context

logger = logging.getLogger("gatehouse.worker")


class Models:
    """The models that targets name, by provider; replaced on reload. An old model is closed when its running calls are over."""

    def __init__(self) -> None:
        self.by_provider: dict[str, Model] = {}
        self._made_from: dict[str, object] = {}

    def replace(self, wanted: Mapping[str, tuple[object, Callable[[], Model]]]) -> list[Model]:
        """Take over what has not changed, make what has; returns what is not needed any more. Makes everything or nothing."""
        made: dict[str, Model] = {}
        for name, (source, make) in wanted.items():
            made[name] = self.by_provider[name] if self._made_from.get(name) == source else make()
        left = [model for name, model in self.by_provider.items() if made.get(name) is not model]
        self.by_provider.clear()
        self.by_provider.update(made)
        self._made_from = {name: source for name, (source, _) in wanted.items()}
        return left
