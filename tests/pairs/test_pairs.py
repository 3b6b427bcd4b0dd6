"""Every inbound API in front of every provider's format: what the model said arrives, whole or streamed, tool arguments included.

The golden files hold what leaves for each pair: the request as the provider gets it, and its answer as the caller gets it.
`python -m tests.pairs.test_pairs` writes them anew.
"""

import itertools
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.advice import advises
from gatehouse.core.calls import Call
from gatehouse.core.collect import Collector
from gatehouse.core.events import Answer, Event
from gatehouse.dialects.openai import encode_request
from gatehouse.dialects.openai.profiles import HOSTED, SERVERS, Profile
from tests.pairs.clients import CLIENTS, Client, Heard
from tests.pairs.stories import FORMATS, Called, Format, Story

GOLDEN = Path(__file__).parent / "golden"
PAIRS = [(inbound, outbound) for inbound in CLIENTS for outbound in FORMATS]
PROFILES = {**SERVERS, **HOSTED}

FIXED = Story(
    texts=("Let me ", "look: ", "Ös", "lo 🙂"),
    tools=(
        Called("call_1", "weather", ('{"ci', 'ty": "Os', 'lo", "days": 2}')),
        Called("call_2", "weather", ('{"city": "Ny-\\u00c5lesund \\"N\\""}',)),
    ),
)


def call_of(client: Client, *, stream: bool) -> Call:
    call = client.dialect.decode_request(json.dumps({**client.request, "stream": stream}).encode())
    return msgspec.structs.replace(call, include_usage=stream)


def read_events(form: Format, data: bytes, cuts: list[int]) -> list[Event]:
    """The events of a stream whose bytes came cut at `cuts`."""
    reader = form.reader()
    events: list[Event] = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(places):
        if not reader.finished:
            events += reader.feed(data[begin:end])
    reader.close()
    return events


def written_stream(client: Client, events: list[Event]) -> bytes:
    call = call_of(client, stream=True)
    writer = client.dialect.open_stream(call, "req_0123")
    return b"".join([writer.event(event, None) for event in events]) + writer.end()


def written_whole(client: Client, answer: Answer) -> bytes:
    return client.dialect.encode_answer(answer, call_of(client, stream=False))


def same(heard: Heard, story: Story) -> bool:
    """Arguments are compared as what they say: a format without text for them writes them anew."""
    said = [(tool.name, json.loads(tool.arguments)) for tool in story.tools]
    return (heard.text, [(name, json.loads(arguments)) for _, name, arguments in heard.tools]) == ("".join(story.texts), said)


CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.lists(st.text(CHARACTERS, min_size=1, max_size=8), min_size=1, max_size=4).map(tuple)
VALUES = st.dictionaries(
    st.text(CHARACTERS, max_size=4),
    st.one_of(st.integers(-9, 9), st.booleans(), st.text(CHARACTERS, max_size=8)),
    max_size=3,
)


@st.composite
def called(draw: st.DrawFn) -> Called:
    text = json.dumps(draw(VALUES), ensure_ascii=draw(st.booleans()))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=3)))
    places = [0, *cuts, len(text)]
    pieces = tuple(piece for begin, end in itertools.pairwise(places) if (piece := text[begin:end]))
    return Called(f"call_{draw(st.integers(0, 10**6))}", draw(st.sampled_from(["weather", "look_up"])), pieces)


STORIES = st.one_of(
    st.builds(Story, texts=TEXTS),
    st.builds(Story, texts=TEXTS, tools=st.lists(called(), min_size=1, max_size=2, unique_by=lambda tool: tool.id).map(tuple)),
    st.builds(Story, tools=st.lists(called(), min_size=1, max_size=3, unique_by=lambda tool: tool.id).map(tuple)),
    st.builds(Story, texts=TEXTS, reasoning=TEXTS),
)


@pytest.mark.parametrize(("inbound", "outbound"), PAIRS)
@given(story=STORIES, cuts=st.lists(st.integers(0, 3_000), max_size=12), bare=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_deltas_are_the_whole(inbound: str, outbound: str, story: Story, cuts: list[int], bare: bool) -> None:
    """However the bytes come: the streamed answer says what the whole one says, and both say what the model said.

    So it is for what passes as it came, for what is written anew (`bare`), and for a stream that is collected for a caller
    who does not stream.
    """
    client, form = CLIENTS[inbound], FORMATS[outbound]
    events = read_events(form, form.stream(story), cuts)
    answer = form.decode(form.whole(story))
    collector = Collector()
    for event in events:
        collector.add(event)
    if bare:
        events = [msgspec.structs.replace(event, raw=b"") for event in events]
        answer = msgspec.structs.replace(answer, raw=b"")
    streamed = client.stream(written_stream(client, events))
    whole = client.whole(written_whole(client, answer))
    collected = client.whole(written_whole(client, collector.answer()))
    for heard in (streamed, whole, collected):
        assert same(heard, story)
        assert heard.tokens == 50
        assert heard.finish == streamed.finish
    assert streamed.reasoning == whole.reasoning == collected.reasoning == "".join(story.reasoning)
    ids = [tool.id for tool in story.tools]
    assert [identifier for identifier, _, _ in streamed.tools] == ids
    assert [identifier for identifier, _, _ in whole.tools] == ids


def golden() -> dict[str, bytes]:
    """File name to contents: what leaves for every pair."""
    files: dict[str, bytes] = {}
    for inbound, client in CLIENTS.items():
        for outbound, form in FORMATS.items():
            name = f"{inbound}/{outbound}"
            files[f"{name}.request.json"] = pretty(form.encode(call_of(client, stream=True), "m"))
            answer = msgspec.structs.replace(form.decode(form.whole(FIXED)), raw=b"")
            files[f"{name}.answer.json"] = pretty(written_whole(client, answer))
            events: list[Event] = [msgspec.structs.replace(event, raw=b"") for event in read_events(form, form.stream(FIXED), [])]
            files[f"{name}.stream.sse"] = written_stream(client, events)
        for profile in PROFILES.values():
            body = encode_request(told(call_of(client, stream=True), profile), "m", profile)
            files[f"{inbound}/openai.{profile.name}.request.json"] = pretty(body)
    return files


def told(call: Call, profile: Profile) -> Call:
    """What Dispatch lets a server see of what only advises."""
    extra = {name: value for name, value in call.extra.items() if name in profile.advice or not advises(name, value)}
    return msgspec.structs.replace(call, extra=extra)


def pretty(body: bytes) -> bytes:
    return json.dumps(json.loads(body), indent=1, ensure_ascii=False).encode() + b"\n"


WRITTEN = golden()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_leaves_for_every_pair(name: str) -> None:
    """Byte for byte what stands in the golden files."""
    assert WRITTEN[name] == (GOLDEN / name).read_bytes()


def test_no_golden_file_is_left_over() -> None:
    """Each belongs to a pair."""
    assert {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*.*")} == set(WRITTEN)


if __name__ == "__main__":
    for at, contents in WRITTEN.items():
        (GOLDEN / at).parent.mkdir(parents=True, exist_ok=True)
        (GOLDEN / at).write_bytes(contents)
