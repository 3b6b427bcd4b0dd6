"""Attempts for tests that stand where Dispatch would, and a way to wait for what must come about."""

import asyncio
from collections.abc import Callable
from typing import Any

from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.adapters.providers.openai import openai_codec
from gatehouse.core.plans import Deadlines
from gatehouse.core.secrets import Secret
from gatehouse.dialects.openai.profiles import PLAIN, Profile


class Trial:
    """An attempt with deadlines a test can wait for."""

    def __init__(self, **deadlines: float) -> None:
        self.request_id = "req_0123456789abcdef"
        self.tenant = "default"
        self.deadlines = Deadlines(**{"connect": 2.0, "first_byte": 5.0, "idle": 5.0, "total": 20.0, **deadlines})
        self.sent = False
        self.traceparent = ""

    def vacated(self) -> None:
        """A provider has no slots."""


async def eventually(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Return as soon as `condition` holds. Raises TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def openai_model(base_url: str, *, name: str = "lab", profile: Profile = PLAIN, api_key: Secret | None = None, **options: Any) -> HttpModel:
    """A provider that speaks like OpenAI."""
    keys = () if api_key is None else (api_key,)
    return HttpModel(ModelOptions(**{"name": name, "base_url": base_url, "api_keys": keys, **options}), openai_codec(profile))
