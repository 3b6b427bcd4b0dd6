"""Several keys for one provider: calls go round among the good ones, and nobody is told which key was which."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.providers import _keys
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.adapters.providers.openai import openai_codec
from gatehouse.adapters.telemetry.tally import ProcessTally
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Target
from gatehouse.core.secrets import Secret
from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, completion, failure, http, stream
from tests.adapters.providers.trials import Trial

KEYS = ("sk-first-0001", "sk-second-0002", "sk-third-0003")
TARGET = Target("lab/qwen", "lab", "qwen")
OTHER = Target("lab/other", "lab", "other")
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)


class Doorman:
    """A provider that answers each key as told: `says` is the answer to a key, for one model or all."""

    def __init__(self) -> None:
        self.says: dict[str | tuple[str, str], bytes] = {}
        self.asked: list[str] = []

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        key = seen.headers["authorization"].removeprefix("Bearer ")
        self.asked.append(key)
        body = json.loads(seen.body) if seen.body else {}
        good = stream() if body.get("stream") else completion() if body else http(b"{}")
        wire.write(self.says.get((key, body.get("model", "")), self.says.get(key, good)))


@pytest.fixture
def doorman() -> Doorman:
    """Lets every key in until told otherwise."""
    return Doorman()


@pytest.fixture
async def model(upstream: FakeUpstream, doorman: Doorman) -> AsyncIterator[HttpModel]:
    """The adapter with three keys."""
    upstream.will(doorman)
    made = HttpModel(ModelOptions(name="lab", base_url=upstream.url, api_keys=tuple(Secret(key) for key in KEYS)), openai_codec())
    yield made
    await made.close()


async def ask(model: HttpModel, target: Target = TARGET, **changes: Any) -> None:
    async for _ in await model.answer(msgspec.structs.replace(CALL, **changes), target, Trial()):
        pass


async def refused(model: HttpModel, target: Target = TARGET) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        await ask(model, target)
    return caught.value


async def test_calls_go_round(model: HttpModel, doorman: Doorman) -> None:
    """Whole or streamed, each key carries every third call."""
    for number in range(6):
        await ask(model, stream=number % 2 == 0)
    assert doorman.asked == [*KEYS, *KEYS]


async def test_a_refused_key_is_left_aside(model: HttpModel, doorman: Doorman) -> None:
    """The call that finds out goes on with the next key; later calls do not try the bad one, for any model."""
    doorman.says[KEYS[0]] = failure(401)
    await ask(model)
    assert doorman.asked == list(KEYS[:2])
    doorman.asked.clear()
    for _ in range(4):
        await ask(model)
        await ask(model, OTHER)
    assert KEYS[0] not in doorman.asked
    assert set(doorman.asked) == set(KEYS[1:])


async def test_a_key_without_a_model_keeps_the_others(model: HttpModel, doorman: Doorman) -> None:
    """A 403 is about the model that was asked: for another one the key goes on."""
    doorman.says[KEYS[0], "qwen"] = failure(403)
    await ask(model)
    doorman.asked.clear()
    for _ in range(3):
        await ask(model)
    assert KEYS[0] not in doorman.asked
    doorman.asked.clear()
    for _ in range(3):
        await ask(model, OTHER)
    assert KEYS[0] in doorman.asked


async def test_a_key_at_its_limit_rests(model: HttpModel, doorman: Doorman) -> None:
    """For as long as the provider says, and for the model it was said of; then it is asked again."""
    doorman.says[KEYS[0], "qwen"] = failure(429, headers=[("retry-after-ms", "200")])
    await ask(model)
    doorman.asked.clear()
    for _ in range(4):
        await ask(model)
    assert KEYS[0] not in doorman.asked
    await ask(model, OTHER)
    await ask(model, OTHER)
    assert KEYS[0] in doorman.asked
    doorman.says.clear()
    doorman.asked.clear()
    async with asyncio.timeout(5):
        while KEYS[0] not in doorman.asked:
            await ask(model)


async def test_when_all_rest_the_call_is_told_how_long(model: HttpModel, doorman: Doorman) -> None:
    """The first call hears the last key's answer; the next is not sent at all, and is told the shortest rest."""
    for key, seconds in zip(KEYS, (30, 20, 40), strict=True):
        doorman.says[key] = failure(429, headers=[("retry-after", str(seconds))])
    assert (await refused(model)).code == "upstream_overloaded"
    doorman.asked.clear()
    error = await refused(model)
    assert (error.code, error.sent, doorman.asked) == ("upstream_overloaded", False, [])
    assert error.retry_after is not None
    assert 15 < error.retry_after <= 20


async def test_when_all_are_refused_the_target_is(model: HttpModel, doorman: Doorman) -> None:
    """The failure is the one that quarantines a target; each later call tries one key, so that a mended one is found."""
    for key in KEYS:
        doorman.says[key] = failure(401)
    assert (await refused(model)).code == "upstream_auth"
    assert doorman.asked == list(KEYS)
    doorman.asked.clear()
    assert (await refused(model)).code == "upstream_auth"
    assert len(doorman.asked) == 1
    doorman.says.clear()
    await ask(model)
    doorman.asked.clear()
    await ask(model)
    assert len(doorman.asked) == 1


async def test_other_failures_are_nobodys_key(model: HttpModel, doorman: Doorman) -> None:
    """A refusal of the request or a broken server says nothing about the key: no other key is tried."""
    for status in (400, 500, 503):
        doorman.says = dict.fromkeys(KEYS, failure(status))
        doorman.asked.clear()
        await refused(model)
        assert len(doorman.asked) == 1


async def test_a_refused_key_is_tried_again_in_time(model: HttpModel, doorman: Doorman, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have mended it at the provider."""
    monkeypatch.setattr(_keys, "REFUSED_SECONDS", 0.05)
    doorman.says[KEYS[0]] = failure(401)
    await ask(model)
    doorman.says.clear()
    doorman.asked.clear()
    async with asyncio.timeout(5):
        while KEYS[0] not in doorman.asked:
            await ask(model)


async def test_keys_are_known_by_their_place(model: HttpModel, doorman: Doorman, caplog: pytest.LogCaptureFixture) -> None:
    """The log says once that a key was refused and which it is; no key stands in logs, errors, ping or repr."""
    doorman.says[KEYS[1]] = failure(401, f"bad key {KEYS[1]}")
    for _ in range(6):
        await ask(model)
    assert [record.message for record in caplog.records] == ["lab: key 2 was refused (401) and is left aside"]
    said = await model.ping()
    assert said == "The provider refuses 1 of 3 keys."
    doorman.says |= dict.fromkeys(KEYS, failure(401, f"bad {KEYS[0]}"))
    error = await refused(model)
    for text in (said, caplog.text, repr(model), str(vars(model)), str(vars(model._http)), str(error), error.detail):
        assert not any(key in text for key in KEYS)


async def test_keys_left_aside_are_counted_by_their_place(model: HttpModel, doorman: Doorman) -> None:
    """Operators see which of the keys they configured is in trouble, and never the key."""
    tally = ProcessTally()
    model.count_keys(tally)
    doorman.says[KEYS[0]] = failure(401)
    doorman.says[KEYS[1]] = failure(429)
    await ask(model)
    assert tally.value("gatehouse_provider_keys_aside_total", ("lab", "1", "refused")) == 1
    assert tally.value("gatehouse_provider_keys_aside_total", ("lab", "2", "limited")) == 1
