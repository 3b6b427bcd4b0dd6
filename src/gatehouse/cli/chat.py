"""`gatehouse chat`: one answer, or a conversation, with what it cost and how fast it was."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gatehouse.cli.client import CommandError, Door, data_client, data_url, find_key
from gatehouse.cli.options import DataDir, Json, Key, aside, show, told
from gatehouse.cli.pictures import safe
from gatehouse.cli.streams import ChatStream, Piece, Told, for_terminal
from gatehouse.settings import Environment, read_environment

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERRUPTED: Final = 130
TAIL: Final = 16_384
"""Characters that are looked at for the last lines of the screen."""
HELP: Final = "/reset forgets the conversation, /model NAME asks another one, /quit or Ctrl-D ends; Ctrl-C stops an answer."

DataUrl = Annotated[str | None, typer.Option("--url", help="Data URL of the server (GATEHOUSE_URL).", show_default=False)]


def chat(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="What to ask; the word - stands for standard input. Without it: standard input, or a conversation."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model to ask. Without it, the first one served.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system message.")] = None,
    url: DataUrl = None,
    key: Key = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Ask a model; the answer streams. On a terminal without a prompt this is a conversation."""
    environment = read_environment()
    directory = data_dir or environment.data_dir
    base, door = _door(url, key, directory, environment)
    asked = _prompt(prompt or [])
    if asked is None and as_json:
        raise CommandError("--json needs a prompt.")
    talk = Conversation(door, model or _first_model(base, key, directory, environment), system)
    if asked is None:
        _converse(talk)
    else:
        _once(talk, asked, as_json=as_json)


class Conversation:
    """Messages so far, and whom they go to."""

    def __init__(self, door: Door, model: str, system: str | None) -> None:
        self.model = model
        self._door = door
        self._system = system
        self._messages: list[dict[str, str]] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, text: str) -> ChatStream:
        """A call with everything said so far and `text`."""
        return ChatStream(self._door, self.model, [*self._messages, {"role": "user", "content": text}])

    def remember(self, asked: str, answered: str) -> None:
        """Keep a turn. One without an answer is not kept: two questions in a row are not what templates expect."""
        if answered:
            self._messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


# -- finding what to ask ---------------------------------------------------------------------------------------------------


def _door(url: str | None, key: str | None, directory: Path, environment: Environment) -> tuple[str, Door]:
    base = data_url(url, directory, environment)
    return base, Door(base, find_key(base, key, directory, environment))


def _first_model(base: str, key: str | None, directory: Path, environment: Environment) -> str:
    """The first model that the key may chat with."""
    with contextlib.suppress(CommandError):
        for model in data_client(base, find_key(base, key, directory, environment)).get("/v1/models")["data"]:
            if "chat" in model.get("operations", ("chat",)):
                return str(model["id"])
    raise CommandError("Which model? Name it with --model.")


def _prompt(words: list[str]) -> str | None:
    """The prompt from words and standard input; None asks for a conversation."""
    if words:
        return " ".join(_read_standard_input() if word == "-" else word for word in words)
    return None if sys.stdin.isatty() else _read_standard_input()


def _read_standard_input() -> str:
    text = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise CommandError("Nothing to ask: standard input is empty. Give a prompt, or run this on a terminal.")
    return text


# -- one question ----------------------------------------------------------------------------------------------------------


def _once(talk: Conversation, asked: str, *, as_json: bool) -> None:
    """Ask once; exit status 130 when it was interrupted, as a shell expects."""
    with talk.ask(asked) as stream:
        text, interrupted = _answer(stream, quiet=as_json)
    if as_json:
        show(_report(text, stream.told, interrupted=interrupted))
    else:
        aside().print(f"[dim]{_figures(stream.told)}[/]")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _answer(stream: ChatStream, *, quiet: bool) -> tuple[str, bool]:
    """Show the answer as it comes; its text, and whether the person had enough of it."""
    shown: _Silent | _Plain | _Screen = _Silent() if quiet else _Screen() if sys.stdout.isatty() else _Plain()
    try:
        with shown:
            for piece in stream.pieces():
                shown.add(piece)
    except KeyboardInterrupt:
        stream.__exit__(None, None, None)
        return shown.text, True
    return shown.text, False


def _report(text: str, call: Told, *, interrupted: bool) -> dict[str, Any]:
    """The answer for programs."""
    speed = call.tokens_per_second
    return {
        "text": text,
        "model": call.model,
        "request_id": call.request_id,
        "target": call.target,
        "cache": call.cache,
        "finish_reason": call.finish,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "cost_usd": call.cost_usd,
        "first_token_seconds": None if call.first is None else round(call.first, 6),
        "seconds": round(call.took, 6),
        "tokens_per_second": None if speed is None else round(speed, 1),
        "interrupted": interrupted,
    }


def _figures(call: Told) -> str:
    """One line of what the call was."""
    words = []
    if call.completion_tokens is not None:
        words.append(f"{call.prompt_tokens:,} + {call.completion_tokens:,} tokens in {call.took:.2f} s")
    elif not call.complete:
        words.append(f"stopped after {call.took:.2f} s")
    if (speed := call.tokens_per_second) is not None:
        words.append(f"{speed:,.0f} tokens/s")
    if call.first is not None:
        words.append(f"first token after {call.first * 1000:,.0f} ms")
    if call.cost_usd is not None:
        words.append(f"${call.cost_usd}")
    if call.finish not in (None, "stop"):
        words.append(f"ended by {safe(str(call.finish))}")
    if call.target:
        words.append(safe(call.target))
    words += [f"cache {safe(call.cache)}", safe(call.request_id)]
    return " · ".join(words)


class _Silent:
    """Collects only."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def add(self, piece: Piece) -> None:
        """Take a piece."""
        self._pieces.append(piece.text)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Plain(_Silent):
    """To a file or a pipe: the bytes of the answer as they come, and nothing else."""

    def add(self, piece: Piece) -> None:
        """Write it at once."""
        super().add(piece)
        sys.stdout.write(piece.text)
        sys.stdout.flush()

    def __exit__(self, *_: object) -> None:
        if self.text and not self.text.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()


class _Screen(_Silent):
    """To a terminal: the last lines while it streams, the whole answer as Markdown when it has ended."""

    def __init__(self) -> None:
        super().__init__()
        from rich.live import Live

        self._thoughts: list[str] = []
        self._console = told()
        self._live = Live(console=self._console, transient=True, get_renderable=self._now, refresh_per_second=12)

    def add(self, piece: Piece) -> None:
        """Keep it; the screen is drawn at its own pace."""
        super().add(piece)
        self._thoughts.append(piece.reasoning)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        from rich.markdown import Markdown

        self._live.stop()
        if self.text:
            self._console.print(Markdown(for_terminal(self.text), hyperlinks=False), soft_wrap=False)

    def _now(self) -> "RenderableType":
        from rich.text import Text

        thinking = not self._pieces or not self.text
        text = for_terminal("".join(self._thoughts) if thinking else self.text)
        lines = Text(text[-TAIL:] or "…", style="dim" if thinking else "").wrap(self._console, self._console.width)
        return Text("\n").join(lines[-max(1, self._console.height - 2) :])


# -- a conversation --------------------------------------------------------------------------------------------------------


def _converse(talk: Conversation) -> None:
    """Ask and answer until the person goes."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its history and editing
    console = told()
    console.print(f"Talking to [bold]{safe(talk.model)}[/]. {HELP}")
    while True:
        try:
            said = input("› ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said.startswith("/"):
            if _obey(talk, said):
                return
        elif said:
            _turn(talk, said)


def _obey(talk: Conversation, said: str) -> bool:
    """A command of the conversation; whether it was the last."""
    word, _, rest = said.partition(" ")
    if word in {"/quit", "/exit"}:
        return True
    if word == "/reset":
        talk.reset()
        told().print("[dim]Forgotten.[/]")
    elif word == "/model" and rest.strip():
        talk.model = rest.strip()
        told().print(f"[dim]Asking {safe(talk.model)} from now on.[/]")
    else:
        told().print(f"[dim]{HELP}[/]")
    return False


def _turn(talk: Conversation, said: str) -> None:
    """One question and its answer; an error does not end the conversation."""
    with talk.ask(said) as stream:
        try:
            text, _ = _answer(stream, quiet=False)
        except CommandError as error:
            aside().print(f"[bold red]gatehouse:[/] {safe(str(error))}")
            return
    talk.remember(said, text)
    aside().print(f"[dim]{_figures(stream.told)}[/]")
