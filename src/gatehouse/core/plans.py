"""Where a call may go: targets with everything a decision needs, frozen when the configuration was read."""

import enum
import re
from typing import Final, Literal

import msgspec

from gatehouse.core.calls import Operation
from gatehouse.core.grants import grants_model
from gatehouse.core.remote import RemoteUrls
from gatehouse.core.usage import Price


class Capability(enum.StrEnum):
    """What a call may need of a target. A target without it is not eligible; it is never silently ignored."""

    STREAM = "stream"
    TOOLS = "tools"
    IMAGES = "images"
    AUDIO = "audio"
    FILES = "files"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"
    CHOICES = "choices"
    """n > 1"""
    SEED = "seed"
    LOGIT_BIAS = "logit_bias"
    TOOL_CHOICE = "tool_choice"
    """Making the model call a tool, or one that is named."""
    SINGLE_TOOL = "single_tool"
    """No two tools called at once: parallel_tool_calls false"""
    PENALTIES = "penalties"
    """frequency_penalty and presence_penalty"""
    TOP_K = "top_k"
    INFILL = "infill"
    """A completion between a prompt and its suffix."""


CHATS: Final[frozenset[Operation]] = frozenset({"chat"})


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds. connect: to an open connection. first_byte: until the answer begins. idle: between two pieces. total: all of it."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 30.0
    total: float = 600.0


class Breaker(msgspec.Struct, frozen=True):
    """When a target is left alone, and for how long; times in seconds.

    It is left alone after so many `failures` in a row, or when at least that many and at least `share` of what came within
    `window` failed: first for `open`, twice as long each further time up to `longest`, each time a fifth more or less by chance.
    Then `probes` calls at a time try it. Who says Retry-After is left alone for that long, at most `rest`; who refuses our
    credentials for `quarantine`, or until the configuration is read again.
    """

    enabled: bool = True
    failures: int = 5
    share: float = 0.5
    window: float = 10.0
    open: float = 1.0
    longest: float = 8.0
    probes: int = 1
    rest: float = 60.0
    quarantine: float = 300.0


class Hedge(msgspec.Struct, frozen=True):
    """Ask a second target when the first has not begun: `after` so many seconds, or when it takes longer than the `quantile` of
    recent calls did. At most `share` of the calls are hedged."""

    after: float | None = None
    quantile: float | None = None
    share: float = 0.05


class Ladder(msgspec.Struct, frozen=True):
    """What answers when no target does: an earlier answer to the same call that expired at most `stale` seconds ago, then `text`."""

    stale: float = 0.0
    text: str = ""


Policy = Literal["weighted", "least_work", "latency", "cost", "session", "prefix"]
"""How one of several equal targets is picked: by chance and weight; the one with fewer tokens of work before it, of two drawn; the
one that begins sooner, of two drawn; the cheapest; always the same for a session; the same for prompts that begin alike."""

Rung = Literal["target", "model", "embedded", "stale", "text"]
"""Who answered: a target of the model asked for, of a model it falls back to, an embedded model it falls back to, the cache after
its time, or words that the operator wrote."""


class Forward(msgspec.Struct, frozen=True):
    """What a target is told of who asks, beside the question itself; nothing unless the operator says so."""

    user: Literal["off", "hash", "plain"] = "off"
    metadata: bool = False
    store: bool = False
    """Pass on that the provider may store the call."""
    traceparent: bool = False


class Target(msgspec.Struct, frozen=True):
    """One place that can answer. `id` is "<provider>/<model>" and a label of metrics; `price` None means unknown."""

    id: str
    provider: str
    model: str
    weight: int = 1
    price: Price | None = None
    context_window: int | None = None
    """Tokens of prompt and answer together; None when nobody says."""
    max_output_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset(Capability)
    operations: frozenset[Operation] = CHATS
    """What it answers; it is asked for nothing else."""
    region: str | None = None
    version: str = ""
    deadlines: Deadlines = Deadlines()
    breaker: Breaker = Breaker()
    rung: Rung = "target"
    """What its plan has it for; other than "target" in fallbacks."""
    forward: Forward = Forward()
    advice: frozenset[str] = frozenset()
    """Fields of `core.advice` that it knows; of the others it is told only those that the model lists."""
    ends_at_context: bool = False
    """An answer that fills the context just ends there, so that no bound of the answer is too large for it (embedded engines)."""


class CachePolicy(msgspec.Struct, frozen=True):
    """Exact answers may be reused for `ttl` seconds inside `scope`."""

    scope: Literal["key", "team", "tenant"] = "key"
    ttl: float = 300.0


class GuardPolicy(msgspec.Struct, frozen=True):
    """What Guard does for a model. Actions of the rule pack: block refuses, redact rewrites, flag only records, off does not look.

    `unscannable` names content types the rules cannot read: image, audio, file, tokens, extra; allow lets them pass, deny refuses.
    """

    input: Literal["block", "redact", "flag", "off"] = "block"
    output: Literal["block", "redact", "flag", "off"] = "redact"
    max_text_bytes: int = 4_000_000
    unscannable: dict[str, Literal["allow", "deny"]] = {}
    unscannable_default: Literal["allow", "deny"] = "allow"
    version: str = "1"


class Plan(msgspec.Struct, frozen=True):
    """The frozen resolution of a model name. `targets` are equals by weight; `fallbacks` are further groups, in order."""

    model: str
    targets: tuple[Target, ...]
    fallbacks: tuple[tuple[Target, ...], ...] = ()
    extra_fields: frozenset[str] = frozenset()
    max_output_tokens: int = 4096
    """The output bound of a call that names none."""
    cache: CachePolicy | None = None
    guard: GuardPolicy = GuardPolicy()
    strict_audit: bool = False
    """Wait until the opened record is on disk before a target is asked."""
    policy: Policy = "weighted"
    session_header: str = ""
    """Policy session: the request header (lower case) that names the session; without it the caller's `user`, or else the key."""
    prefix_tokens: int = 256
    """Policy prefix: how much of the beginning of a prompt decides, at four characters a token."""
    retries: int = 0
    """How often targets that failed are asked once more when there is no other, inside the retry budget."""
    hedge: Hedge | None = None
    ladder: Ladder | None = None
    remote_urls: RemoteUrls = "refuse"
    """What becomes of addresses of images and files in a call."""
    digest: bytes = b""
    """Changes whenever anything above changes; part of the cache key."""
    aliases: tuple[str, ...] = ()
    """Other names under which the model may be asked for."""
    label: str = ""
    """What metrics call it where its name is a caller's choice (see Passthrough); "" is its own name."""

    @property
    def everywhere(self) -> tuple[Target, ...]:
        """Every target a call may reach, fallbacks included."""
        return self.targets + tuple(target for group in self.fallbacks for target in group)


class Passthrough(msgspec.Struct, frozen=True):
    """A provider whose models may be asked for as "<provider>/<model>" without being listed: those that a pattern covers."""

    provider: str
    patterns: frozenset[str]

    def covers(self, name: str) -> bool:
        """Whether `name` is one of them. A name is plain steps, so that none can climb out of a path it is put into."""
        if not name.startswith(f"{self.provider}/") or _PLAIN_NAME.fullmatch(name) is None:
            return False
        return grants_model(self.patterns, name[len(self.provider) + 1 :])


_PLAIN_NAME: Final = re.compile(r"(?=.{1,192}\Z)[A-Za-z0-9][A-Za-z0-9._:@+-]*(?:/[A-Za-z0-9][A-Za-z0-9._:@+-]*)+", re.ASCII)
