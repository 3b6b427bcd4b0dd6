"""`langchain-openai`: chains, tools, structured output and embeddings, as an application built on it uses them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.clients.behaving import WEATHER, gatehouse
from tests.served.whole import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Person(BaseModel):
    """What is to be found in a text."""

    name: str
    age: int


@tool
def weather(city: str) -> str:
    """What the weather is in a city."""
    return f"21 degrees in {city}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with gatehouse(tmp_path_factory.mktemp("langchain")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chat(server: Server) -> AsyncIterator[ChatOpenAI]:
    """What an application makes once."""
    model = ChatOpenAI(model="assistant", base_url=f"{server.url}/v1", api_key=SecretStr(server.key), max_retries=0, timeout=30)
    yield model
    await model.root_async_client.close()


async def test_a_chain(chat: ChatOpenAI) -> None:
    """Prompt, model, parser: whole, streamed, and several at once; tokens are counted."""
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")]) | chat | StrOutputParser()
    assert await chain.ainvoke({"question": "hi"}) == "Hello there."
    assert "".join([piece async for piece in chain.astream({"question": "hi"})]) == "Hello there."
    assert await chain.abatch([{"question": "a"}, {"question": "b"}]) == ["Hello there."] * 2
    said = await chat.ainvoke("hi")
    assert isinstance(said, AIMessage)
    assert said.usage_metadata is not None
    assert said.usage_metadata["total_tokens"] == 18


async def test_tools(chat: ChatOpenAI) -> None:
    """Bound, called, answered: the loop that every agent runs."""
    bound: Any = chat.bind_tools([weather])
    asked = HumanMessage("What is the weather in Paris?")
    said = await bound.ainvoke([asked])
    (called,) = said.tool_calls
    assert (called["name"], called["args"]) == ("weather", {"city": "Paris"})
    result: ToolMessage = await weather.ainvoke(called)
    assert (await bound.ainvoke([asked, said, result])).content == WEATHER


async def test_structured_output(chat: ChatOpenAI) -> None:
    """By a strict schema: an object comes back."""
    found: Any = await chat.with_structured_output(Person, method="json_schema").ainvoke("Ada is 36.")
    assert found == Person(name="Ada", age=36)


async def test_embeddings_and_completions(server: Server) -> None:
    """The other two classes of the package."""
    vectors = OpenAIEmbeddings(
        model="vectors", base_url=f"{server.url}/v1", api_key=SecretStr(server.key), check_embedding_ctx_length=False, max_retries=0
    )
    assert await vectors.aembed_documents(["a", "bcd"]) == [[1.0, 0.5, -0.25], [3.0, 0.5, -0.25]]
    assert await vectors.aembed_query("ab") == [2.0, 0.5, -0.25]
    await vectors.async_client._client.close()
    text = OpenAI(model="assistant", base_url=f"{server.url}/v1", api_key=SecretStr(server.key), max_retries=0)
    assert await text.ainvoke("Once") == "upon a time"
    await text.async_client._client.close()
