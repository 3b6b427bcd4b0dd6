"""Bedrock behind a whole server: an application that speaks OpenAI's protocol does not notice what stands behind the name."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gatehouse.testing.bedrock import Account, converse, converse_stream, refusal, signed_by
from gatehouse.testing.upstream import FakeUpstream
from tests.served.whole import Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNT = Account("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1", session_token="session-abcdef")
CONFIG = """
providers:
  - name: aws
    kind: bedrock
    region: eu-central-1
    base_url: "{url}"
    guardrail: {{id: abc123, version: "1"}}
    aws: {{access_key_id: AKIDEXAMPLE, secret_access_key: "${{SECRET}}", session_token: "${{TOKEN}}"}}
models:
  - name: assistant
    targets: [{{provider: aws, model: "eu.anthropic.claude-sonnet-4-5-20250929-v1:0", price: {{input: "1", output: "1"}}}}]
"""


class Door:
    """The server and the fake of Bedrock behind it."""

    def __init__(self, server: Server, upstream: FakeUpstream) -> None:
        self.server = server
        self.upstream = upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """Bedrock that lets in who signs properly."""
    folder: Path = tmp_path_factory.mktemp("bedrock")
    async with FakeUpstream() as upstream:
        config = CONFIG.format(url=f"http://127.0.0.1:{upstream.port}")
        secrets = {"SECRET": ACCOUNT.secret_access_key, "TOKEN": "session-abcdef"}
        async with serving(folder / "data", config, environment=secrets) as server:
            yield Door(server, upstream)


async def test_a_chat_is_signed_answered_and_booked(door: Door) -> None:
    """Whole and streamed, in OpenAI's shape, with its usage in the ledger; the caller's key and ours stay apart."""
    door.upstream.will(signed_by(ACCOUNT, converse(), time.time))
    reply = await door.server.chat("hi", max_tokens=20)
    assert reply.status == 200
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == "Hello there."
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 5)
    door.upstream.will(signed_by(ACCOUNT, converse_stream(), time.time))
    streamed = await door.server.chat("hi", max_tokens=20, stream=True)
    frames = [line[6:] for line in streamed.body.split(b"\n\n") if line.startswith(b"data: ")]
    assert frames[-1] == b"[DONE]"
    said = [choice["delta"].get("content") or "" for frame in frames[:-1] for choice in json.loads(frame)["choices"]]
    assert "".join(said) == "Hello there."
    seen = door.upstream.seen[-1]
    assert door.server.key not in json.dumps(seen.headers)
    assert seen.json()["guardrailConfig"] == {"guardrailIdentifier": "abc123", "guardrailVersion": "1"}
    assert sum(row["input_tokens"] for row in await door.server.usage()) == 6


async def test_no_secret_of_ours_reaches_a_caller_or_a_log(door: Door) -> None:
    """Whatever AWS says to a wrong signature."""
    message = "The security token session-abcdef included in the request is expired"
    door.upstream.will(refusal(403, "ExpiredTokenException", message))
    reply = await door.server.chat("hi", max_tokens=20)
    assert reply.status >= 500
    log = door.server.log.read_text()
    for text in (reply.body.decode(), log):
        assert "session-abcdef" not in text
        assert ACCOUNT.secret_access_key not in text
