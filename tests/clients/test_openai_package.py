"""The official `openai` package, in both its classes, over everything it offers for what we serve. It does not notice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tests.clients.behaving import PERSON, WEATHER, gatehouse
from tests.served.whole import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "What the weather is.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class Person(BaseModel):
    """What is to be found in a text."""

    name: str
    age: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with gatehouse(tmp_path_factory.mktemp("openai")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=30) as client:
        yield client


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    """The list pages itself, a look-up answers, and the unknown is the package's own error class."""
    assert [model.id async for model in sdk.models.list()] == ["assistant", "vectors"]
    assert (await sdk.models.retrieve("vectors")).object == "model"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("nobody")


async def test_a_conversation_with_a_tool(sdk: openai.AsyncOpenAI) -> None:
    """The model calls it, its result goes back, and the answer comes, with the helpers that people use."""
    first = await sdk.chat.completions.create(model="assistant", messages=QUESTION, tools=TOOLS, tool_choice="auto")
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    called: Any = message.tool_calls[0]
    assert (called.function.name, called.function.arguments) == ("weather", '{"city":"Paris"}')
    history = [*QUESTION, message.to_dict(), {"role": "tool", "tool_call_id": called.id, "content": "21 degrees"}]
    second = await sdk.chat.completions.create(model="assistant", messages=history, tools=TOOLS)
    assert second.choices[0].message.content == WEATHER


async def test_a_tool_in_a_stream(sdk: openai.AsyncOpenAI) -> None:
    """The stream helper puts the pieces together and says when the arguments are done."""
    async with sdk.chat.completions.stream(model="assistant", messages=QUESTION, tools=TOOLS) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == {"city": "Paris"}


async def test_what_applications_send_along(sdk: openai.AsyncOpenAI) -> None:
    """Everything that only advises or says the default, in both APIs, streamed too."""
    advice: Any = {
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "u-1",
        "prompt_cache_key": "chapter-1",
        "verbosity": "low",
        "modalities": ["text"],
    }
    whole = await sdk.chat.completions.create(model="assistant", messages=QUESTION, **advice)
    assert whole.choices
    options: Any = {"include_usage": True, "include_obfuscation": False}
    stream = await sdk.chat.completions.create(model="assistant", messages=QUESTION, stream=True, stream_options=options, **advice)
    assert [chunk async for chunk in stream][-1].usage is not None
    response = await sdk.responses.create(
        model="assistant",
        input="hi",
        text={"verbosity": "low"},
        **{name: advice[name] for name in ("store", "service_tier", "safety_identifier", "prompt_cache_key")},
    )
    assert response.status == "completed"


async def test_structured_output(sdk: openai.AsyncOpenAI) -> None:
    """A pydantic class goes out as a strict schema and comes back as an object, whole and streamed."""
    parsed = await sdk.chat.completions.parse(model="assistant", messages=QUESTION, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
    async with sdk.chat.completions.stream(model="assistant", messages=QUESTION, response_format=Person) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", age=36)
    assert final.choices[0].message.content == PERSON


async def test_streams_and_their_usage(sdk: openai.AsyncOpenAI) -> None:
    """Text in pieces; usage in the last chunk for who asked, and only then."""
    for options, seen in ((openai.omit, None), ({"include_usage": True}, 18)):
        asked: Any = {"model": "assistant", "messages": QUESTION, "stream": True, "stream_options": options}
        stream = await sdk.chat.completions.create(**asked)
        text, total = "", None
        async for chunk in stream:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            total = chunk.usage.total_tokens if chunk.usage else total
        assert (text, total) == ("Hello there.", seen)


async def test_completions_and_embeddings(sdk: openai.AsyncOpenAI) -> None:
    """Both older and newer ways to use a model that is not for chatting."""
    assert (await sdk.completions.create(model="assistant", prompt="Once")).choices[0].text == "upon a time"
    stream = await sdk.completions.create(model="assistant", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]) == "upon a time"
    vectors = await sdk.embeddings.create(model="vectors", input=["a", "bcd"])
    assert [item.embedding for item in vectors.data] == [[1.0, 0.5, -0.25], [3.0, 0.5, -0.25]]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"temperature": 9}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
    ],
)
async def test_errors_are_the_packages_own(sdk: openai.AsyncOpenAI, asked: dict[str, Any], error: type[openai.APIStatusError]) -> None:
    """Class, code and message as from OpenAI itself, with the id to quote."""
    with pytest.raises(error) as caught:
        await sdk.chat.completions.create(**{"model": "assistant", "messages": QUESTION, **asked})
    assert caught.value.code
    assert caught.value.response.headers["x-gatehouse-request-id"].startswith("req_")


async def test_a_bad_key(server: Server) -> None:
    """AuthenticationError, for each of the classes."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.models.list()


async def test_the_synchronous_class(server: Server) -> None:
    """The same surface without an event loop: in a thread, as a script would use it."""

    def script() -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=30) as sdk:
            assert [model.id for model in sdk.models.list()] == ["assistant", "vectors"]
            parsed = sdk.chat.completions.parse(model="assistant", messages=QUESTION, response_format=Person)
            assert parsed.choices[0].message.parsed == Person(name="Ada", age=36)
            called = sdk.chat.completions.create(model="assistant", messages=QUESTION, tools=TOOLS).choices[0].message.tool_calls
            assert called
            with sdk.chat.completions.stream(model="assistant", messages=[{"role": "user", "content": "hi"}]) as stream:
                for _ in stream:
                    pass
                assert stream.get_final_completion().choices[0].message.content == "Hello there."
            assert sdk.completions.create(model="assistant", prompt="Once").choices[0].text == "upon a time"
            assert len(sdk.embeddings.create(model="vectors", input="x").data[0].embedding) == 3
            with pytest.raises(openai.NotFoundError):
                sdk.chat.completions.create(model="nobody", messages=QUESTION)

    await asyncio.to_thread(script)
