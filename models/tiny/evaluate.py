"""Measure the packaged `tiny.gguf` through llama.cpp and print the figures of the model card as a Markdown table.

    python models/tiny/evaluate.py [--gguf FILE] [--each N] [--show-errors]

Needs xllamacpp only (the gateway's core install has it). With the `tokenizers` package beside it, it also proves that
llama.cpp splits text exactly as the tokenizer of the training did. All questions come from held-out sentences.
"""

import argparse
import http.client
import json
import random
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import corpus
import xllamacpp

HERE = Path(__file__).resolve().parent
GGUF = HERE.parent.parent / "src" / "gatehouse" / "models" / "tiny.gguf"
SEED = 7
WARM = 0.8
STRINGS = (
    "Hello, who are you?",
    "I can't log in; it's broken, we'll wait, they've gone, you're right, I'd say so, I'm here.",
    "  two  spaces\tand a tab\n\n\nand   lines  \n",
    "Straße, naïve café, 東京タワー, Привет, مرحبا, 🙂👩‍👩‍👧 and é",
    "Invoice #88213: $12.99 + 19 % VAT = 15,46 (due 2026-01-31)!!! ???",
    '{"category": "billing", "urgency": "high"}',
    "x" * 300 + " 1234567890" * 5,
    "\u00a0non-breaking\u2003em space\u200bzero width\r\nCRLF",
    "ALL CAPS AND camelCase_snake_case-kebab.dots/slashes\\back",
    "<|user|>hi<|end|><|assistant|>",
    "<|not special|> <| user |> |>",
    "",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: how many of how many."""

    name: str
    right: int
    total: int

    def line(self) -> str:
        """The line as Markdown."""
        return f"| {self.name} | {100 * self.right / self.total:.1f} % | {self.right} / {self.total} |"


class Local(http.client.HTTPConnection):
    """HTTP over the Unix socket that the engine listens on; no TCP port is opened."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Model:
    """The packaged model in this process: one slot, one thread."""

    def __init__(self, gguf: Path, folder: str) -> None:
        self._socket = f"{folder}/e.sock"
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_ctx = 2048
        params.n_parallel = 1
        params.cache_ram_mib = 0
        params.hostnames = [self._socket]
        params.cpuparams.n_threads = 1
        params.verbosity = 0
        self._server = xllamacpp.Server(params)

    def answer(self, turns: Iterable[corpus.Turn], temperature: float, seed: int) -> tuple[str, bool]:
        """The answer and whether the model ended it by itself."""
        reply = self._server.handle_chat_completions(
            {
                "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
                "max_tokens": 400,
                "temperature": temperature,
                "seed": seed,
            }
        )
        if "choices" not in reply:
            raise SystemExit(f"the engine refused: {reply}")
        choice = reply["choices"][0]
        return choice["message"]["content"], choice["finish_reason"] == "stop"

    def post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """One of the engine's own HTTP calls."""
        line = Local(self._socket)
        line.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer: dict[str, object] = json.loads(line.getresponse().read())
        line.close()
        return answer


def label_of(mode: str, text: str) -> str:
    """The category or obligation that an answer names; empty where it names none in the form asked for."""
    if mode == "json":
        found = json_of(text)
        return str(found.get("category", found.get("obligation", ""))) if found else ""
    if mode == "word":
        return text.strip(" .").lower()
    match = re.match(r"This (?:is an? (.+?) ticket|clause creates an? (.+?) obligation)\b", text)
    return (match.group(1) or match.group(2)) if match else ""


def json_of(text: str) -> dict[str, object] | None:
    """The JSON object that an answer is, or None."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def well_formed(text: str, ended: bool, known: frozenset[str]) -> bool:
    """Whole sentences: ended by the model, begins with a capital, ends with a stop, known words only, no stutter."""
    words = re.findall(r"[a-z]+", text.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return (
        ended
        and len(words) >= 3
        and text[:1].isupper()
        and text.endswith((".", "!", "?"))
        and all(word in known for word in words)
        and len(set(triples)) >= 0.8 * len(triples)
    )


def measure(model: Model, each: int, temperature: float, complain: Callable[[str], None]) -> list[Figure]:
    """All figures at one temperature."""
    rng = random.Random(SEED)
    known = corpus.known_words()
    figures = []
    sentences: list[bool] = []
    objects: list[bool] = []
    pressing: list[bool] = []
    for kind, source in (("ticket category", corpus.held_out_tickets), ("clause obligation", corpus.held_out_clauses)):
        every: list[bool] = []
        for mode in ("plain", "sentence", "word", "json"):
            right = []
            for number, question in enumerate(source(rng, mode, each)):
                text, ended = model.answer(question.turns, temperature, SEED + number)
                right.append(label_of(mode, text) == question.label)
                if not right[-1]:
                    complain(f"{mode}: {question.turns[-1].text!r} is {question.label}, said {text!r}")
                if mode in ("plain", "sentence"):
                    sentences.append(well_formed(text, ended, known))
                if mode == "json":
                    found = json_of(text) or {}
                    objects.append(set(found) in ({"category", "urgency"}, {"obligation"}))
                    if question.urgency:
                        pressing.append(found.get("urgency") == question.urgency)
            every += right
            figures.append(Figure(f"{kind}, asked as {mode}", sum(right), len(right)))
        figures.append(Figure(f"**{kind}, all**", sum(every), len(every)))
    free = [*corpus.held_out_tickets(rng, "reply", 1), *corpus.held_out_talk(rng, each)]
    for number, question in enumerate(free):
        text, ended = model.answer(question.turns, temperature, SEED + number)
        sentences.append(well_formed(text, ended, known))
        if not sentences[-1]:
            complain(f"not well formed: {question.turns[-1].text!r} -> {text!r}")
    figures.append(Figure("ticket urgency (in JSON)", sum(pressing), len(pressing)))
    figures.append(Figure("**valid JSON with the right keys, on request, no grammar**", sum(objects), len(objects)))
    figures.append(Figure("**well-formed sentences**", sum(sentences), len(sentences)))
    return figures


def same_tokens(model: Model) -> str:
    """Compare llama.cpp's splitting with the training tokenizer's; fails loudly where they differ."""
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  (optional: only this comparison needs it)
    except ImportError:
        return "not compared: the `tokenizers` package is not installed"
    ours = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    rng = random.Random(SEED)
    strings = [*STRINGS, *(corpus.render(corpus.conversation(rng)) for _ in range(300))]
    for text in strings:
        theirs = model.post("/tokenize", {"content": text, "parse_special": True, "add_special": True})["tokens"]
        if theirs != ours.encode(text).ids:
            raise SystemExit(f"llama.cpp splits {text!r} differently")
    return f"equal on {len(strings)} strings"


def main() -> None:
    """Read the options, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gguf", type=Path, default=GGUF)
    options.add_argument("--each", type=int, default=3, help="fillings of every held-out sentence")
    options.add_argument("--show-errors", action="store_true")
    chosen = options.parse_args()

    def complain(line: str) -> None:
        if chosen.show_errors:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        model = Model(chosen.gguf, folder)
        print(f"Tokens, llama.cpp against the training tokenizer: {same_tokens(model)}.")
        for name, temperature in (("greedy", 0.0), (f"temperature {WARM}", WARM)):
            print(f"\n| held-out sentences, {name} | share | count |\n|---|---|---|")
            for figure in measure(model, chosen.each, temperature, complain):
                print(figure.line())


if __name__ == "__main__":
    main()
