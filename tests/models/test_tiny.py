"""The built-in model: the file is small, sound and what its card says, and it answers like the toy that it is."""

import importlib
import json
import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xllamacpp

from gatehouse.models import builtin_path

SOURCE = Path(__file__).resolve().parents[2] / "models" / "tiny"
MEGABYTE = 1_000_000
F32, Q8_0 = 0, 8


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a GGUF file says."""

    version: int
    facts: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]
    data_at: int


class Reader:
    """Reads the little-endian values of a GGUF head one after another."""

    SCALARS = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
    STRING, ARRAY = 8, 9

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, form: str) -> Any:
        """One value of a struct form."""
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> str:
        """One string with its length before it."""
        size = self.scalar("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int) -> Any:
        """One value of a GGUF kind."""
        if kind == self.STRING:
            return self.text()
        if kind == self.ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(self.SCALARS[kind])


@pytest.fixture(scope="module")
def header() -> Header:
    """The head of the packaged file."""
    reader = Reader(builtin_path().read_bytes())
    assert reader.scalar("I") == int.from_bytes(b"GGUF", "little")
    version, tensor_count, fact_count = reader.scalar("I"), reader.scalar("Q"), reader.scalar("Q")
    facts = {reader.text(): reader.value(reader.scalar("I")) for _ in range(fact_count)}
    tensors = {}
    for _ in range(tensor_count):
        name = reader.text()
        shape = tuple(reader.scalar("Q") for _ in range(reader.scalar("I")))
        tensors[name] = (shape, reader.scalar("I"), reader.scalar("Q"))
    return Header(version, facts, tensors, -(-reader.at // 32) * 32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[xllamacpp.Server]:
    """The packaged file in llama.cpp, one thread, reachable through no TCP port."""
    params = xllamacpp.CommonParams()
    params.model.path = str(builtin_path())
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cache_ram_mib = 0
    params.hostnames = [str(tmp_path_factory.mktemp("engine") / "e.sock")]
    params.cpuparams.n_threads = 1
    params.verbosity = 0
    engine = xllamacpp.Server(params)
    yield engine
    del engine


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that writes the training text, imported as the training script imports it."""
    monkeypatch.syspath_prepend(str(SOURCE))
    yield importlib.import_module("corpus")
    for name in ("corpus", "clauses", "phrases", "talk", "ticket_parts", "tickets"):
        sys.modules.pop(name, None)


def ask(server: xllamacpp.Server, text: str, **more: object) -> str:
    """The greedy answer to one user message."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 200, "temperature": 0, **more}
    answer: str = server.handle_chat_completions(body)["choices"][0]["message"]["content"]
    return answer


def test_file_is_small() -> None:
    """The package carries at most 8 MB of model, the repository at most 10 MB of original."""
    assert builtin_path().name == "tiny.gguf"
    assert builtin_path().stat().st_size <= 8 * MEGABYTE
    assert (SOURCE / "model.safetensors").stat().st_size <= 10 * MEGABYTE


def test_header_is_llama_with_2048_tokens_of_context(header: Header) -> None:
    """The head names the architecture, the context, the pre-tokenizer and a chat template, and adds no begin token."""
    assert header.version == 3
    assert header.facts["general.architecture"] == "llama"
    assert header.facts["llama.context_length"] == 2048
    assert header.facts["tokenizer.ggml.pre"] == "gpt-2"
    assert header.facts["tokenizer.ggml.add_bos_token"] is False
    assert header.facts["tokenizer.ggml.tokens"][header.facts["tokenizer.ggml.eos_token_id"]] == "<|end|>"
    assert "<|assistant|>" in header.facts["tokenizer.chat_template"]
    assert len(header.facts["tokenizer.ggml.tokens"]) == header.facts["llama.vocab_size"]


def test_at_most_five_million_parameters(header: Header) -> None:
    """All weights together are at most five million, matrices in q8_0, norms in float."""
    assert sum(prod(shape) for shape, _, _ in header.tensors.values()) <= 5_000_000
    assert {kind for shape, kind, _ in header.tensors.values() if len(shape) == 2} == {Q8_0}
    assert {kind for shape, kind, _ in header.tensors.values() if len(shape) == 1} == {F32}


def test_file_holds_every_tensor_whole(header: Header) -> None:
    """No tensor reaches beyond the end of the file: it was not cut off."""
    size = builtin_path().stat().st_size - header.data_at
    for shape, kind, offset in header.tensors.values():
        length = prod(shape) * 4 if kind == F32 else prod(shape) // 32 * 34
        assert offset + length <= size


def test_original_has_the_same_weights_by_count(header: Header) -> None:
    """The safetensors original holds as many weights as the GGUF, in half precision."""
    with (SOURCE / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        names = json.loads(file.read(size))
    names.pop("__metadata__")
    assert {entry["dtype"] for entry in names.values()} == {"F16"}
    assert sum(prod(entry["shape"]) for entry in names.values()) == sum(prod(shape) for shape, _, _ in header.tensors.values())


def test_card_says_what_it_is(header: Header) -> None:
    """The model card calls it a toy, gives the parameter count of the file and says how to reproduce its figures."""
    card = (SOURCE / "README.md").read_text(encoding="utf-8")
    count = sum(prod(shape) for shape, _, _ in header.tensors.values())
    assert "toy" in card
    assert f"{count:,}" in card
    assert "models/tiny/evaluate.py" in card
    assert "models/tiny/train.py" in card
    assert "held-out" in card


def test_evaluation_uses_sentences_training_never_sees(corpus: ModuleType) -> None:
    """No held-out ticket or clause can be spelled by a template that training draws from, and no held-out talk is one."""
    tickets, clauses, talk, phrases = (importlib.import_module(name) for name in ("tickets", "clauses", "talk", "phrases"))
    rng = random.Random(1)

    def spell(template: str) -> str:
        text: str = phrases.spell(template.replace("{party}", "One").replace("{other}", "another"), rng)
        return text

    for module in (tickets, clauses):
        for label, sentences in module.HELD_OUT.items():
            seen = {spell(template) for template in module.TRAINING[label] for _ in range(200)}
            assert not seen & {spell(sentence) for sentence in sentences for _ in range(20)}
    for topic, sentences in talk.HELD_OUT.items():
        assert not set(sentences) & set(talk.TRAINING[topic][0])
    assert not set(talk.HELD_OUT_UNKNOWN) & set(talk.UNKNOWN)


def test_packaged_template_is_the_one_of_the_training(corpus: ModuleType, header: Header) -> None:
    """The chat template in the file is the one whose rendering the model was trained on."""
    assert header.facts["tokenizer.chat_template"] == corpus.TEMPLATE


def test_it_says_that_it_is_a_toy(server: xllamacpp.Server) -> None:
    """Asked who it is, the model names itself and Gatehouse in a whole sentence."""
    answer = ask(server, "Who are you?")
    assert "Tiny" in answer
    assert "Gatehouse" in answer
    assert answer.endswith(".")


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("I was charged twice for my subscription.", "billing"),
        ("I cannot log in.", "login"),
        ("My parcel has not arrived.", "delivery"),
        ("The app crashes when I open the settings page.", "bug"),
        ("I want my money back for the shoes.", "refund"),
        ("How do I delete my account?", "account"),
    ],
)
def test_it_sorts_a_plain_ticket_as_json(server: xllamacpp.Server, text: str, category: str) -> None:
    """A plain ticket of each category comes back as the JSON that was asked for, without a grammar."""
    answer = json.loads(ask(server, f"Classify this ticket. Answer in JSON.\n{text}"))
    assert answer["category"] == category
    assert answer["urgency"] in ("low", "normal", "high")


def test_it_follows_a_schema(server: xllamacpp.Server) -> None:
    """Under a JSON schema the answer is valid against it."""
    schema = {
        "type": "object",
        "properties": {"category": {"enum": ["billing", "login", "delivery", "bug", "refund", "account"]}},
        "required": ["category"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema}}
    answer = json.loads(ask(server, "Where is my order? It should be here since Monday.", response_format=form))
    assert answer == {"category": "delivery"}


def test_it_declines_what_it_cannot_know(server: xllamacpp.Server) -> None:
    """A question beyond it gets a whole sentence that says it is a toy."""
    assert "toy model" in ask(server, "What is the capital of France?")


def test_it_counts_for_a_long_stream(server: xllamacpp.Server) -> None:
    """Counting gives a long answer that is easy to follow, though it does not stop at the number asked for."""
    answer = ask(server, "Count to 30.")
    assert answer.startswith(", ".join(str(number) for number in range(1, 31)))
