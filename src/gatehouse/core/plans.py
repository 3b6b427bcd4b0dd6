"""Where a call may go: targets with everything a decision needs, frozen when the configuration was read."""

import enum
from typing import Literal

import msgspec

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
    EMBEDDINGS = "embeddings"
    COMPLETIONS = "completions"
    """Text to continue, beside chats."""
    TOOL_CHOICE = "tool_choice"
    """Making the model call a tool, or one that is named."""
    SINGLE_TOOL = "single_tool"
    """No two tools called at once: parallel_tool_calls false"""
    PENALTIES = "penalties"
    """frequency_penalty and presence_penalty"""
    TOP_K = "top_k"


class Deadlines(msgspec.Struct, frozen=True):
    """Seconds. connect: to an open connection. first_byte: until the answer begins. idle: between two pieces. total: all of it."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 30.0
    total: float = 600.0


class Target(msgspec.Struct, frozen=True):
    """One place that can answer. `id` is "<provider>/<model>" and a label of metrics; `price` None means unknown."""

    id: str
    provider: str
    model: str
    weight: int = 1
    price: Price | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[Capability] = frozenset(Capability)
    region: str | None = None
    version: str = ""
    deadlines: Deadlines = Deadlines()


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
    digest: bytes = b""
    """Changes whenever anything above changes; part of the cache key."""
    aliases: tuple[str, ...] = ()
    """Other names under which the model may be asked for."""

    @property
    def everywhere(self) -> tuple[Target, ...]:
        """Every target a call may reach, fallbacks included."""
        return self.targets + tuple(target for group in self.fallbacks for target in group)
