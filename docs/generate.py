"""Writes docs/reference from the code: settings, command line, HTTP, metrics and errors. Run it with `make docs`."""

import ast
import inspect
from pathlib import Path
from typing import Any

import msgspec
import typer

import gatehouse.settings as settings_module
from gatehouse.adapters.providers._codec import Codec
from gatehouse.adapters.providers.anthropic import anthropic_codec
from gatehouse.adapters.providers.bedrock import bedrock_codec
from gatehouse.adapters.providers.cohere import cohere_codec
from gatehouse.adapters.providers.gemini import gemini_codec
from gatehouse.adapters.system import SystemClock
from gatehouse.adapters.telemetry.tally import FAMILIES
from gatehouse.cli.main import app
from gatehouse.compose.aws import BEDROCK_CAPABILITIES
from gatehouse.compose.google import GEMINI_CAPABILITIES
from gatehouse.compose.providers import ANTHROPIC_CAPABILITIES, COHERE_CAPABILITIES
from gatehouse.core import errors
from gatehouse.core.advice import ADVICE
from gatehouse.core.calls import Operation
from gatehouse.core.errors import GatehouseError
from gatehouse.core.plans import Capability
from gatehouse.dialects.anthropic import AnthropicDialect
from gatehouse.dialects.openai import OpenAIDialect
from gatehouse.dialects.openai.profiles import HOSTED, PLAIN, SERVERS, Profile
from gatehouse.dialects.openai.responses import ResponsesDialect
from gatehouse.pipeline.stages.route import RouteTable
from gatehouse.pipeline.turns import KeepPolicy, Turns
from gatehouse.settings import Settings
from gatehouse.wire.admin.app import Endpoint
from gatehouse.wire.admin.endpoints import endpoints
from gatehouse.wire.http.counting import counting_endpoints
from gatehouse.wire.http.endpoints import Endpoint as DataEndpoint
from gatehouse.wire.http.models import model_endpoints
from gatehouse.wire.http.responses import response_endpoints

REFERENCE = Path(__file__).parent / "reference"


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)


def pages() -> dict[str, str]:
    """File name to text."""
    return {
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "http.md": http_page(),
        "metrics.md": metrics_page(),
        "errors.md": errors_page(),
        "providers.md": providers_page(),
    }


def settings_page() -> str:
    """Each setting with its type, default and meaning."""
    told = field_docs()
    lines = [
        "# Settings",
        "",
        "The operator's file is YAML. Unknown keys are refused with their line. `${NAME}` in a string is replaced from the environment;",
        "`$${` is a literal `${`. Reloaded on SIGHUP and when the file changes; `listen`, `workers`, `storage`, `state`, `secrets`,",
        "`cache` and `responses` need a restart.",
        "",
        "Without quotes, `yes`, `on`, `no` and `off` are true and false where true or false is expected, and `off` is the word where it is",
        "one of the words (`output: off`). Anywhere else a bare word of these is refused with its line; so are numbers that YAML reads",
        "otherwise than people do (`010`, `1:30`). Bare figures are text, as written, where text is expected (`input: 0.25`).",
        "",
    ]
    waiting: list[tuple[str, type]] = [("the top level", Settings)]
    seen: set[type] = set()
    while waiting:
        title, kind = waiting.pop(0)
        if kind in seen:
            continue
        seen.add(kind)
        lines += [f"## {title}", "", inspect.cleandoc(kind.__doc__ or ""), "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            inner = nested(field.type)
            waiting += [(f"{field.name}", each) for each in inner]
            lines.append(f"| `{field.name}` | {shown(field.type)} | {default(field)} | {told[kind.__name__, field.name]} |")
        lines.append("")
    lines += ["## Environment", "", inspect.cleandoc(settings_module.read_environment.__doc__ or ""), ""]
    return "\n".join(lines)


def field_docs() -> dict[tuple[str, str], str]:
    """The string under each field of each settings class. A field without one is an error."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(settings_module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                    found[node.name, name] = str(text).replace("\n    ", " ").replace("|", "\\|")
    return found


def nested(kind: Any) -> list[type]:
    """The settings classes inside a type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [each for argument in getattr(kind, "__args__", ()) for each in nested(argument)]


def shown(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, type):
        if issubclass(kind, msgspec.Struct):
            return "section"
        return {"Secret": "secret string", "str": "string", "int": "integer", "float": "number", "bool": "boolean", "NoneType": "null"}.get(
            kind.__name__, kind.__name__.lower()
        )
    origin = getattr(kind, "__origin__", None)
    arguments: tuple[Any, ...] = getattr(kind, "__args__", ())
    name = getattr(origin, "__name__", str(origin))
    if hasattr(kind, "__metadata__"):
        return shown(origin)
    if name == "Literal":
        return ", ".join(f"`{each}`" for each in arguments)
    if name == "list":
        return f"list of {shown(arguments[0])}"
    if name == "dict":
        return f"map of {shown(arguments[0])} to {shown(arguments[1])}"
    return " or ".join(shown(each) for each in arguments if each is not type(None))


def default(field: Any) -> str:
    """A default in words."""
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT or isinstance(field.default, msgspec.Struct):
        return "-"
    if type(field.default).__name__ == "Secret":
        return f"`{field.default.reveal()}`" if field.default.reveal() else "-"
    return "-" if field.default in (None, "") else f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def cli_page() -> str:
    """Each command with its options."""
    root = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Commands that ask a server find it and its key in the data directory of this machine, in `GATEHOUSE_ADMIN_URL` and",
        "`GATEHOUSE_KEY`, or take `--url` and `--key`. `gatehouse chat` speaks to the data port: `GATEHOUSE_URL`. The key in the data",
        "directory is sent to this machine's servers only. `SSL_CERT_FILE` names the authority of a server with a private certificate.",
        "",
        "`--json` puts JSON, and nothing else, on standard output; what went wrong is a sentence on standard error. Exit status: 0 well,",
        "1 not possible (the sentence says why), 2 a wrong option, or an audit log that is not whole, 130 an answer that was interrupted.",
        "",
        "Completion of commands and options: `gatehouse --install-completion` sets it up for the shell it runs in (bash, zsh, fish);",
        "`gatehouse --show-completion` prints it, to be put where your shell looks.",
        "",
    ]
    for words, command in commands(root, ("gatehouse",)):
        lines += [f"## {' '.join(words)}", "", (command.help or "").strip(), "", "| option | default | meaning |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            text = getattr(parameter, "help", "") or ""
            name = parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
            value = (
                "required"
                if parameter.required
                else "-"
                if parameter.default in (None, False) or callable(parameter.default)
                else f"`{parameter.default}`"
            )
            lines.append(f"| `{name}` | {value} | {text} |")
        lines.append("")
    return "\n".join(lines)


def commands(command: Any, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """Every command below `command`, in order."""
    if hasattr(command, "commands"):
        return [found for name, each in command.commands.items() for found in commands(each, (*words, name))]
    return [(words, command)]


def table() -> tuple[Endpoint, ...]:
    """The admin endpoints; nothing is called, so nothing has to stand behind them."""
    services: Any = None
    return endpoints(services)


def data_endpoints() -> tuple[DataEndpoint, ...]:
    """The data port's endpoints that are no calls; nothing is kept behind them."""
    table = RouteTable()
    nothing: Any = None
    return (
        *model_endpoints(table),
        *response_endpoints(Turns(KeepPolicy(), SystemClock()), ResponsesDialect()),
        *counting_endpoints(AnthropicDialect(), table, nothing, nothing),
    )


def http_page() -> str:
    """Both ports."""
    lines = [
        "# HTTP",
        "",
        "## Data port",
        "",
        "| method | path | what |",
        "|---|---|---|",
        "| POST | `/v1/chat/completions` | OpenAI chat completions, streamed and not |",
        "| POST | `/v1/responses` | OpenAI responses, streamed and not |",
        "| POST | `/v1/completions` | OpenAI completions: text to be continued, streamed and not |",
        "| POST | `/v1/embeddings` | OpenAI embeddings, as numbers or base64 |",
        "| POST | `/v1/messages` | Anthropic messages, streamed and not |",
        *(f"| {each.method} | `{each.path}` | {each.summary} |" for each in data_endpoints()),
        "| GET | `/livez` | whether this process runs |",
        "| GET | `/readyz` | whether this process can serve, and whether it can write its journal |",
        "",
        "A key goes in `Authorization: Bearer` or `x-api-key`; two different keys at once are a 400. Answers carry",
        "`x-gatehouse-request-id`, `x-gatehouse-target`, `x-gatehouse-cost-usd` (not streamed), `x-gatehouse-cache` (hit, miss, bypass)",
        "and `x-ratelimit-*`; `x-gatehouse-replayed` marks an answer to a repeated `Idempotency-Key`. A stream carries its cost as",
        "`gatehouse.cost_usd` in the usage event when usage was asked for; one of Anthropic's always does, in `message_delta`. The path",
        "decides in whose words errors are told; where a path belongs to nobody, Anthropic's for a request with `anthropic-version`.",
        "",
        "## Admin port",
        "",
        "`/admin/openapi.json` describes these endpoints with their bodies.",
        "",
        "| method | path | permission | what |",
        "|---|---|---|---|",
    ]
    lines += [f"| {each.method} | `{each.path}` | {each.permission} | {each.summary} |" for each in table()]
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    """Each metric with its labels."""
    lines = [
        "# Metrics",
        "",
        "`/metrics` on the admin port, summed over all processes. Labels come from closed sets.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{each.name}` | {each.kind} | {', '.join(each.labels) or '-'} | {each.text} |" for each in FAMILIES]
    return "\n".join([*lines, ""])


def errors_page() -> str:
    """Each error with the status it has on the data port."""
    lines = [
        "# Errors",
        "",
        "Every error has a type, a code, a message that is safe to show, and the request id. In Anthropic's words",
        "(`/v1/messages`) it has no code, and where the status differs it is told beside the type.",
        "",
        "| error | status | type | type for Anthropic | meaning |",
        "|---|---|---|---|---|",
    ]
    dialect, other = OpenAIDialect(), AnthropicDialect()
    for kind in kinds(GatehouseError):
        example = kind("x", code="upstream_broken") if kind is errors.UpstreamFailed else kind("x")
        status, body = dialect.encode_error(example, "req")
        said = msgspec.json.decode(body)["error"]
        there, body = other.encode_error(example, "req")
        theirs = f"`{msgspec.json.decode(body)['error']['type']}`" + ("" if there == status else f" ({there})")
        meaning = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
        lines.append(f"| {kind.__name__} | {status} | `{said['type']}` | {theirs} | {meaning} |")
    return "\n".join([*lines, ""])


INBOUND: dict[str, tuple[str, Operation]] = {
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/responses": ("responses", "chat"),
    "/v1/messages": ("anthropic", "chat"),
    "/v1/completions": ("openai", "completion"),
    "/v1/embeddings": ("openai", "embedding"),
}
"""Each inbound API: the format it answers in, and what it asks for."""
OWN: dict[str, tuple[str, Codec, frozenset[Capability], str]] = {
    "anthropic": ("anthropic", anthropic_codec(), ANTHROPIC_CAPABILITIES, "https://docs.anthropic.com/en/api/messages"),
    "gemini": ("gemini", gemini_codec(), GEMINI_CAPABILITIES, "https://ai.google.dev/api/generate-content"),
    "vertex": (
        "gemini",
        gemini_codec(),
        GEMINI_CAPABILITIES,
        "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference",
    ),
    "vertex, Claude": (
        "anthropic",
        anthropic_codec(),
        ANTHROPIC_CAPABILITIES,
        "https://docs.anthropic.com/en/api/claude-on-vertex-ai",
    ),
    "cohere": ("cohere", cohere_codec(), COHERE_CAPABILITIES, "https://docs.cohere.com/reference/chat"),
    "bedrock": (
        "bedrock",
        bedrock_codec(),
        BEDROCK_CAPABILITIES,
        "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html",
    ),
}
"""Kinds with a format of their own, which it is, what their targets can do, and where that is documented; all others speak OpenAI's."""


def providers_page() -> str:
    """Which inbound API reaches which provider, and what each provider takes and cannot do."""
    speakers = {"openai-compatible": PLAIN, **{f"openai-compatible, profile {name}": found for name, found in SERVERS.items()}, **HOSTED}
    lines = [
        "# Providers",
        "",
        "Every inbound API reaches every provider that does what it asks for. *passes* means that an answer leaves as the bytes that",
        "came when no stage had to change it; *translated* that it is written anew, event by event. Requests are always written anew.",
        "",
        "| provider | " + " | ".join(f"`{path}`" for path in INBOUND) + " |",
        "|---|" + "---|" * len(INBOUND),
    ]
    for name, profile in speakers.items():
        lines.append(f"| {name} | " + " | ".join(_pair("openai", profile.operations, path) for path in INBOUND) + " |")
    for name, (form, codec, _, _) in OWN.items():
        lines.append(f"| {name} | " + " | ".join(_pair(form, frozenset(codec.forms), path) for path in INBOUND) + " |")
    lines += [
        "",
        "## What targets can do",
        "",
        "A call that needs what a target cannot do goes to another target of the model or is refused with a word; nothing is left out in",
        "silence. `capabilities` of a target says otherwise for that target: what it lists is sent.",
        "",
        "| provider | its targets cannot | documented at |",
        "|---|---|---|",
    ]
    for name, profile in speakers.items():
        lines.append(f"| {name} | {_listed(profile.lacks)} | {profile.source} |")
    for name, (_, _, able, source) in OWN.items():
        lines.append(f"| {name} | {_listed(frozenset(Capability) - able)} | {source} |")
    lines += [
        "",
        "## What is said otherwise",
        "",
        "For servers that speak like OpenAI. *Left out* is only what advises: who the user is, notes of the caller, how hard to think.",
        "*Advice* are fields that every model takes in a chat (`store: false`, `service_tier: auto`, `verbosity`, ...) and that only these",
        "servers are told, with names in them as their `forward` says.",
        "",
        "| provider | the bound of the output | renamed | left out | advice | also |",
        "|---|---|---|---|---|---|",
    ]
    for name, profile in speakers.items():
        renamed = ", ".join(f"`{before}` to `{after}`" for before, after in profile.renames.items()) or "-"
        advice = "all" if profile.advice == ADVICE else _listed(profile.advice)
        lines.append(f"| {name} | `{profile.tokens_field}` | {renamed} | {_listed(profile.drops)} | {advice} | {_manners(profile)} |")
    return "\n".join([*lines, ""])


def _pair(form: str, operations: frozenset[Operation], path: str) -> str:
    inbound, operation = INBOUND[path]
    if operation not in operations:
        return "-"
    return "passes" if inbound == form else "translated"


def _listed(words: frozenset[str]) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words)) or "-"


def _manners(profile: Profile) -> str:
    said = [
        "" if profile.developer_role else "developer messages become system messages",
        "" if profile.speaker_names else "names of speakers are left out",
        "" if profile.asks_usage else "counts streams unasked",
        "ids of tool calls are made nine characters long" if profile.short_tool_ids else "",
        f"earlier reasoning goes back as `{profile.reasoning_field}`" if profile.reasoning_field else "",
        "marks for a cache are sent" if profile.cache_marks else "",
        f"is told {msgspec.json.encode(profile.insists).decode()} when something must not be ignored" if profile.insists else "",
    ]
    return "; ".join(filter(None, said)) or "-"


def kinds(kind: type[GatehouseError]) -> list[type[GatehouseError]]:
    """The leaves and branches below `kind`."""
    return [found for each in kind.__subclasses__() for found in (each, *kinds(each))]


if __name__ == "__main__":
    main()
