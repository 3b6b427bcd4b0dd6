"""Settings: one frozen tree of everything the operator decides, and the environment, which only this module reads.

`gatehouse.operator_file` reads the tree from the operator's file. The docstring under each field is its reference entry.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gatehouse.core.attribution import TAG_NAME
from gatehouse.core.calls import Operation
from gatehouse.core.identity import Role
from gatehouse.core.plans import Capability, Policy
from gatehouse.core.secrets import Secret

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$", description="letters, digits and . _ : / @ + -")]
TagName = Annotated[str, Meta(pattern=rf"^{TAG_NAME.pattern}$", description="lower case letters, digits and _ . -")]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Port = Annotated[int, Meta(ge=0, le=65535)]


class _Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class TlsSettings(_Tree, frozen=True):
    """TLS for the data port. Both files are read again when they change."""

    cert: str
    """Path of the certificate chain (PEM)."""
    key: str
    """Path of the private key (PEM)."""


class HttpSettings(_Tree, frozen=True):
    """Bounds of one connection and one request."""

    max_body_bytes: Positive = 32 * 1024 * 1024
    """Largest request body of an authenticated caller."""
    max_body_bytes_by_role: dict[Role, Positive] = {}
    """Another bound for callers of a role (admin, developer, viewer, auditor); of several roles the largest counts."""
    max_connections: Positive = 16_384
    """Open connections a worker accepts; beyond it accepting pauses."""
    head_seconds: Seconds = 10.0
    """Time to send a complete request head."""
    body_idle_seconds: Seconds = 30.0
    """Longest silence while a body is being sent."""
    keep_alive_seconds: Seconds = 75.0
    """How long an idle connection is kept."""
    slow_client_seconds: Seconds = 60.0
    """How long a client may leave its buffer full before it is cut."""
    stream_comment_seconds: Seconds | None = None
    """A stream that was silent for so long gets a comment, for machines on the way that end what is silent. The first one sends the
    head, so that an error after it travels in the stream instead of a status. Off unless given."""


class ListenSettings(_Tree, frozen=True):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """Address of the data port."""
    port: Port = 8080
    """The data port: OpenAI-compatible API; 0 picks a free one."""
    admin_host: str = "127.0.0.1"
    """Address of the admin port; keep it private."""
    admin_port: Port = 8081
    """The admin port: keys, usage, requests, audit, metrics; 0 picks a free one."""
    base_path: Annotated[str, Meta(max_length=128, pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""
    """What stands before every path of the data port ("/llm"), for proxies that pass it on; /livez and /readyz answer without it too."""
    trusted_proxies: list[str] = []
    """Networks ("10.0.0.0/8") whose `X-Forwarded-For` is believed; of anybody else it is not looked at."""
    tls: TlsSettings | None = None
    """Serve the data port over TLS."""
    http: HttpSettings = HttpSettings()
    """Limits of connections and requests."""


class PriceSettings(_Tree, frozen=True):
    """USD per million tokens, as decimal strings. Buckets left out cost what input or output costs."""

    input: str
    """Tokens of the prompt."""
    output: str
    """Tokens of the answer."""
    cached_input: str | None = None
    """Prompt tokens read from the provider's cache."""
    cache_write: str | None = None
    """Prompt tokens written to the provider's cache."""
    reasoning: str | None = None
    """Hidden reasoning tokens."""
    audio_input: str | None = None
    """Audio tokens in."""
    audio_output: str | None = None
    """Audio tokens out."""


class DeadlineSettings(_Tree, frozen=True):
    """Seconds a target is given."""

    connect: Seconds = 5.0
    """To an open connection."""
    first_byte: Seconds = 60.0
    """Until the answer begins."""
    idle: Seconds = 30.0
    """Between two pieces of an answer."""
    total: Seconds = 600.0
    """For the whole call."""


ProviderKind = Literal[
    "openai",
    "openai-compatible",
    "azure-openai",
    "anthropic",
    "mistral",
    "groq",
    "together",
    "fireworks",
    "deepseek",
    "openrouter",
    "bedrock",
    "gemini",
    "vertex",
    "cohere",
]
"""Each has its entry in `compose.providers.KINDS`."""
ServerProfile = Literal["vllm", "sglang", "ollama", "tgi", "llama-server"]


class HealthSettings(_Tree, frozen=True):
    """Whether a provider is well, asked beside the calls."""

    interval: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Seconds between two questions of a worker; 0 asks none: calls alone tell."""
    failures: Positive = 2
    """Questions in a row that must go wrong before its targets are left alone."""


class GuardrailSettings(_Tree, frozen=True):
    """A guardrail of Amazon Bedrock, beside Gatehouse's own guard."""

    id: Annotated[str, Meta(min_length=1, max_length=2048)]
    """Its id or ARN."""
    version: Annotated[str, Meta(pattern="^([1-9][0-9]{0,7}|DRAFT)$")]
    """A number, or DRAFT."""


class AwsSettings(_Tree, frozen=True):
    """Who we are to AWS: a key, a profile, or the role of the machine. Exactly one of them."""

    access_key_id: Secret = Secret("")
    """Of a key of its own, usually "${AWS_ACCESS_KEY_ID}"."""
    secret_access_key: Secret = Secret("")
    """Beside it, usually "${AWS_SECRET_ACCESS_KEY}"."""
    session_token: Secret = Secret("")
    """Beside them when the key is a temporary one; it is not renewed."""
    profile: str | None = None
    """A profile of AWS's files that holds a key; the files are read again when they change."""
    credentials_file: str = "~/.aws/credentials"
    """The first of these files."""
    config_file: str = "~/.aws/config"
    """The second of these files."""
    credentials: Literal["instance", "container"] | None = None
    """instance asks an EC2 instance's own address for its role's key (IMDSv2), container the place that ECS or EKS names in the
    environment. The key is renewed before it expires."""


class ForwardSettings(_Tree, frozen=True):
    """What a provider is told beside the question. Nothing unless it is named here; baggage and tracestate never."""

    user: Literal["off", "hash", "plain"] = "off"
    """The end user that a call names (`user`, `safety_identifier`): not told, told as a hash for this provider, or as named."""
    metadata: bool = False
    """The call's metadata, cost tags among it."""
    store: bool = False
    """That the provider may store the call, when the caller says so. That it may not is always told."""
    traceparent: bool = False
    """The caller's W3C trace, with a span of its own for each attempt."""


class GoogleSettings(_Tree, frozen=True):
    """Who we are to Google Cloud, and where."""

    credentials_file: str = ""
    """The key file (JSON) of the service account that calls are made as. It is read again for each access token."""
    project: str | None = None
    """The project that pays; without it the service account's own."""
    location: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")] = "global"
    """Where models run ("europe-west4")."""
    token_url: str | None = None
    """Where access tokens are fetched, for a private way to Google; without it where the credentials file says, if that is Google's
    own address."""


class ProviderSettings(_Tree, frozen=True):
    """A remote place that serves models, and how to reach it."""

    name: Name
    """What targets call it."""
    kind: ProviderKind
    """Whose API it is; openai-compatible is for everything else that speaks like OpenAI."""
    profile: ServerProfile | None = None
    """The server behind kind openai-compatible, when it is one of these: what it takes and cannot do is then known."""
    base_url: str | None = None
    """Up to and including the version ("http://127.0.0.1:8000/v1"); the hosted kinds have a default. For azure-openai the
    address of the resource ("https://NAME.openai.azure.com")."""
    api_version: str | None = None
    """azure-openai only: the version of the deployments' API ("2024-10-21"); without it the v1 API is used."""
    credential: Literal["api-key", "bearer"] | None = None
    """azure-openai only: what `api_key` is: a key of the resource (api-key, the default) or a token of Entra (bearer)."""
    api_key: Secret = Secret("")
    """Its credential, usually "${NAME}"."""
    api_keys: list[Secret] = []
    """Several credentials instead of one: calls go round among them; one that is refused or at its limit is left aside."""
    plaintext: bool = False
    """Allow http:// to a host that is not loopback."""
    ca_bundle: str | None = None
    """PEM file of the authorities to trust instead of the system's."""
    proxy: Secret | None = None
    """Egress proxy (http://host:port); without it HTTPS_PROXY and NO_PROXY hold. "none" turns it off."""
    max_connections: Positive = 256
    """Connections a worker keeps to it."""
    max_waiting: Positive = 1024
    """Calls of a worker that may wait for a connection."""
    headers: dict[str, Secret] = {}
    """Fixed headers to send along."""
    region: Annotated[str, Meta(pattern="^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$")] | None = None
    """bedrock only: the region of AWS ("eu-central-1")."""
    aws: AwsSettings | None = None
    """bedrock only: who signs the requests; without it, `api_key` is a Bedrock API key."""
    guardrail: GuardrailSettings | None = None
    """bedrock only: what every chat passes through at AWS. An answer it stops ends as one that a content filter stopped."""
    google: GoogleSettings | None = None
    """vertex only: who we are, and where."""
    health: HealthSettings = HealthSettings()
    """Health checks."""
    passthrough: bool | list[Annotated[str, Meta(min_length=1, max_length=128)]] = False
    """Its models that may be asked for as "NAME/model" without being listed: all of them, or these ("gpt-5*"). A key needs a grant."""
    forward: ForwardSettings = ForwardSettings()
    """What it is told of who asks."""


class BreakerSettings(_Tree, frozen=True):
    """When a target is left alone after failures, and for how long."""

    enabled: bool = True
    """Off, the target is asked whatever it does."""
    failures: Positive = 5
    """Failures in a row after which it is left alone; a share of the calls counts from so many on too."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The share of the calls within `window` that may fail."""
    window: Seconds = 10.0
    """Seconds over which that share is taken."""
    open: Seconds = 1.0
    """Seconds it is left alone the first time; twice as long each further time, a fifth more or less by chance."""
    longest: Seconds = 8.0
    """The most that becomes."""
    probes: Positive = 1
    """Calls of a worker that may try it at a time afterwards."""
    rest: Seconds = 60.0
    """The longest Retry-After that is honoured."""
    quarantine: Seconds = 300.0
    """Seconds it is not asked when it refused our credentials (401, 403); a reload ends that."""


class TargetSettings(_Tree, frozen=True):
    """One place that can answer a model's calls: a provider's model or an embedded engine's."""

    provider: Name | None = None
    """A provider of this file."""
    model: str | None = None
    """The model's name there."""
    engine: Literal["llamacpp"] | None = None
    """An embedded engine instead of a provider."""
    path: str | None = None
    """The engine's model file (GGUF), or "builtin"."""
    weight: Positive = 1
    """Its share among the targets of the model."""
    price: PriceSettings | None = None
    """What it costs; without it the price catalogue is asked. Embedded engines cost nothing."""
    context_window: Positive | None = None
    """Tokens of prompt and answer it can hold. An embedded engine takes no more than its file says, and 8,192 where this is not set."""
    max_output_tokens: Positive | None = None
    """The longest answer it gives."""
    capabilities: list[Capability] | None = None
    """What it can do; without it, everything."""
    operations: Annotated[list[Operation], Meta(min_length=1)] | None = None
    """What it answers: chat, completion, embedding. Without it, chat, and completion too where the provider's kind continues
    bare text (openai-compatible and its profiles, llamacpp). Embedding is always named: an embedding model does nothing else."""
    region: str | None = None
    """Where it runs."""
    deadlines: DeadlineSettings = DeadlineSettings()
    """How long it may take."""
    slots: Positive | None = None
    """Engine only: how many calls it decodes at once."""
    breaker: BreakerSettings = BreakerSettings()
    """When it is left alone."""


class CacheSettings(_Tree, frozen=True):
    """Reuse of whole answers for identical calls."""

    scope: Literal["key", "team", "tenant"] = "key"
    """Who shares answers."""
    ttl: Seconds = 300.0
    """Seconds an answer is kept."""


class GuardSettings(_Tree, frozen=True):
    """What is done about secrets in what goes in and comes out, and about content no rule can read."""

    input: Literal["block", "redact", "flag", "off"] = "block"
    """Findings in a request."""
    output: Literal["block", "redact", "flag", "off"] = "redact"
    """Findings in an answer."""
    max_text_bytes: Positive = 4_000_000
    """The most text one call may carry."""
    unscannable: dict[Literal["image", "audio", "file", "tokens", "extra"], Literal["allow", "deny"]] = {}
    """Content types the rules cannot read."""


class HedgeSettings(_Tree, frozen=True):
    """Ask a second target when the first takes long to begin; the first to begin wins, what the other read is paid too."""

    after: Seconds | None = None
    """Seconds without a first event."""
    quantile: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """As long as this share of recent calls did not need (0.95); with `after`, whichever is longer."""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """The share of the calls that may be hedged at most."""


class LadderSettings(_Tree, frozen=True):
    """What answers when neither a target nor a fallback does."""

    stale: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    """Seconds for which an answer of the cache may be used beyond its time; needs `cache`."""
    text: Annotated[str, Meta(max_length=20_000)] = ""
    """Words to answer with in the end; empty is an error instead."""


class ModelSettings(_Tree, frozen=True):
    """A name that callers ask for."""

    name: Name
    """What callers ask for."""
    targets: Annotated[list[TargetSettings], Meta(min_length=1)]
    """Who may answer, by weight."""
    aliases: list[Name] = []
    """Other names for the same model: records, budgets and metrics know it by its own name."""
    fallbacks: list[Name] = []
    """Models whose targets are tried, in order, when these fail before the first byte."""
    policy: Policy = "weighted"
    """Which target is asked: weighted (chance, by weight), least_work (fewest tokens before it, of two drawn), latency (soonest first
    event, of two drawn), cost (cheapest for the call), session (one target for a session), prefix (one target for prompts that begin
    alike, bounded to 1.25 of its share)."""
    session_header: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,64}$")] = ""
    """Policy session: the request header, in lower case, that names the session; without it `user`, or else the key."""
    prefix_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    """Policy prefix: how much of a prompt's beginning decides. Longer than what all callers share: a common system prompt, say."""
    retries: Annotated[int, Meta(ge=0, le=3)] = 0
    """How often a target that failed is asked once more when there is no other, inside the retry budget (a tenth of the calls)."""
    hedge: HedgeSettings | None = None
    """Off unless given."""
    ladder: LadderSettings | None = None
    """What answers when no target does."""
    extra_fields: list[str] = []
    """Request fields beyond the known ones that are passed on."""
    max_output_tokens: Positive = 4096
    """The bound of a call that names none."""
    cache: CacheSettings | None = None
    """Off unless given."""
    guard: GuardSettings = GuardSettings()
    """Secrets and unscannable content."""
    remote_urls: Literal["refuse", "fetch", "pass"] = "refuse"
    """Addresses of images and files in a call: refused, fetched by the gateway under `fetch` below, or left to the target to fetch."""
    strict_audit: bool = False
    """Wait until the record of the call is on disk before a target is asked."""


class StorageSettings(_Tree, frozen=True):
    """Where everything that must be kept is kept."""

    url: Secret = Secret("sqlite:///gatehouse.db")
    """sqlite:///FILE (relative to the data directory) or postgresql://..."""


class StateSettings(_Tree, frozen=True):
    """Where what may be lost is kept: how targets are, as far as several servers tell each other."""

    url: Secret = Secret("memory://")
    """memory:// keeps it in the server. valkey://[USER:PASSWORD@]HOST[:PORT] tells the other servers there; redis:// is the same, valkeys://
    and rediss:// go over TLS. A `%`, `/`, `?`, `#` or `@` in the password is written as %25, %2F, %3F, %23, %40."""
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "gatehouse"
    """Begins the name of the channel. Servers with the same prefix hear each other; give two installations on one Valkey different ones."""
    ca_bundle: str | None = None
    """With TLS: PEM file of the authorities to trust instead of the system's."""
    client_cert: str | None = None
    """With TLS: PEM file of the certificate that we show."""
    client_key: str | None = None
    """With TLS: PEM file of its private key, unless that is in the same file."""
    connect_seconds: Annotated[float, Meta(gt=0, le=60)] = 2.0
    """Time for a connection, TLS and password included."""
    answer_seconds: Annotated[float, Meta(gt=0, le=60)] = 2.0
    """Time for an answer, and for what is published to come back; later counts as lost, and is connected anew."""


class SecretsSettings(_Tree, frozen=True):
    """The root key from which every other key derives."""

    root: str = ""
    """file:PATH or env:NAME; empty is root.key in the data directory."""


class PricesSettings(_Tree, frozen=True):
    """What happens when neither the target nor the catalogue knows a price."""

    on_unknown: Literal["block", "zero", "fallback"] = "block"
    """block refuses the call, zero books nothing, fallback uses `fallback`."""
    fallback: PriceSettings | None = None
    """The price of what has none."""


class CacheMemorySettings(_Tree, frozen=True):
    """Memory for cached answers."""

    max_bytes: Positive = 64 * 1024 * 1024
    """Bytes a worker keeps."""


class FetchSettings(_Tree, frozen=True):
    """What the gateway fetches for models with `remote_urls: fetch`: public addresses only, directly and without redirects."""

    http: bool = False
    """Take http:// addresses as well."""
    ports: list[Annotated[int, Meta(ge=1, le=65535)]] = []
    """The ports that may be connected to; 80 and 443 unless there are any here."""
    hosts: list[str] = []
    """The only hosts, when there are any; "*.example.com" covers what ends so."""
    networks: list[str] = []
    """Networks that are not public and may be fetched from nevertheless ("10.1.2.0/24")."""
    max_bytes: Positive = 8 * 1024 * 1024
    """The largest image or file."""
    max_per_call: Annotated[int, Meta(ge=1, le=64)] = 8
    """How many addresses one call may have."""
    seconds: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Time for each of them."""
    ca_bundle: str | None = None
    """PEM file of the authorities to trust instead of the system's."""


class TagSettings(_Tree, frozen=True):
    """Cost tags that calls may carry, in `metadata` or the header `x-gatehouse-tags`."""

    allow: Annotated[list[TagName], Meta(max_length=16)] = []
    """The names that are kept with a call and that usage can be grouped by; all others are not looked at."""


class AttributionSettings(_Tree, frozen=True):
    """Whom calls are booked under beside their key."""

    user: Literal["off", "hash", "plain"] = "off"
    """The end user that a call names: not kept, kept as a keyed hash, or as named."""
    peer: Literal["off", "keep"] = "off"
    """The address a call came from (see `listen.trusted_proxies`): not kept, or kept with its record, also when nobody was identified."""


class ResponsesSettings(_Tree, frozen=True):
    """Responses that are kept, encrypted, so that callers can read and continue them (`/v1/responses`)."""

    store: bool = False
    """Whether any are kept. They hold what was said: off unless the operator decides otherwise."""
    scope: Literal["key", "team"] = "key"
    """Who can read and continue one: the key that asked for it, or every key of its team."""
    days: Annotated[float, Meta(gt=0, le=3650)] = 30.0
    """How long one is kept; afterwards it is not found any more, and deleted."""
    max_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 4 * 1024 * 1024
    """Largest conversation that is kept. What is larger is answered and not kept; where the caller insists, it is refused."""


class IdempotencySettings(_Tree, frozen=True):
    """Calls whose request has an `Idempotency-Key`: asked for again by the same API key they are answered again, and charged once."""

    minutes: Annotated[float, Meta(ge=0, le=1440)] = 10.0
    """How long an answer is kept, in the server's memory only; 0 passes over the header."""
    max_bytes: Annotated[int, Meta(ge=65_536)] = 64 * 1024 * 1024
    """Memory of the server for such answers; the oldest go first. An answer may take a sixteenth of it."""


class Settings(_Tree, frozen=True):
    """Everything the operator's file says."""

    listen: ListenSettings = ListenSettings()
    """Listeners."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Processes that carry calls."""
    providers: list[ProviderSettings] = []
    """Remote places that serve models."""
    models: list[ModelSettings] = []
    """The names callers may ask for."""
    storage: StorageSettings = StorageSettings()
    """Where everything that must be kept is kept."""
    state: StateSettings = StateSettings()
    """Where what may be lost is kept, and shared with other servers."""
    secrets: SecretsSettings = SecretsSettings()
    """The root key."""
    prices: PricesSettings = PricesSettings()
    """Unknown prices."""
    cache: CacheMemorySettings = CacheMemorySettings()
    """Memory for cached answers."""
    idempotency: IdempotencySettings = IdempotencySettings()
    """Requests that are sent again."""
    fetch: FetchSettings = FetchSettings()
    """Fetching what calls point to."""
    tags: TagSettings = TagSettings()
    """Cost tags."""
    attribution: AttributionSettings = AttributionSettings()
    """End users."""
    responses: ResponsesSettings = ResponsesSettings()
    """Responses that are kept."""
    drain_seconds: Seconds = 30.0
    """How long running calls may take to finish when the server stops."""


class Environment(msgspec.Struct, frozen=True):
    """What the process environment says."""

    data_dir: Path
    bootstrap_key: Secret | None = None
    root_key: Secret | None = None
    url: str | None = None
    admin_url: str | None = None
    key: Secret | None = None
    https_proxy: Secret | None = None
    no_proxy: str = ""
    aws_container_relative_uri: str = ""
    aws_container_full_uri: str = ""
    aws_container_token_file: str = ""

    def secret(self, name: str) -> Secret | None:
        """A variable that a setting names (`secrets: {root: "env:NAME"}`)."""
        value = os.environ.get(name)
        return Secret(value) if value else None


def read_environment() -> Environment:
    """Read the environment once. Names: GATEHOUSE_DATA_DIR, _BOOTSTRAP_KEY, _ROOT_KEY, _URL, _ADMIN_URL, _KEY, HTTPS_PROXY, NO_PROXY,
    and where AWS says that a container gets its credentials (AWS_CONTAINER_...)."""
    env = os.environ

    def secret(*names: str) -> Secret | None:
        return next((Secret(env[name]) for name in names if env.get(name)), None)

    return Environment(
        data_dir=Path(env.get("GATEHOUSE_DATA_DIR") or "gatehouse-data"),
        bootstrap_key=secret("GATEHOUSE_BOOTSTRAP_KEY"),
        root_key=secret("GATEHOUSE_ROOT_KEY"),
        url=env.get("GATEHOUSE_URL"),
        admin_url=env.get("GATEHOUSE_ADMIN_URL"),
        key=secret("GATEHOUSE_KEY"),
        https_proxy=secret("HTTPS_PROXY", "https_proxy"),
        no_proxy=env.get("NO_PROXY") or env.get("no_proxy") or "",
        aws_container_relative_uri=env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or "",
        aws_container_full_uri=env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or "",
        aws_container_token_file=env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") or "",
    )


_INHERITED = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}
    | {"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONWARNINGS", "OMP_NUM_THREADS"}
)
"""What an inner process needs of the environment. Providers' keys are not among it: workers get them over the inner socket."""


def worker_environment() -> dict[str, str]:
    """What an inner process inherits."""
    return {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}


def process_environment() -> Mapping[str, str]:
    """The variables that `${NAME}` in the operator's file may name."""
    return os.environ
