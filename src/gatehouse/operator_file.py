"""The operator's file: YAML in, one validated Settings tree out, or an error with the line that is wrong and why.

Unknown keys, duplicate keys and wrong types are refused, because a setting that is silently ignored is worse than a server
that does not start.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import msgspec.inspect

from gatehouse.core.calls import FORBIDDEN_FIELDS
from gatehouse.core.money import parse_usd
from gatehouse.core.secrets import decode_custom, encode_custom
from gatehouse.settings import (
    ModelSettings,
    PriceSettings,
    ProviderSettings,
    Settings,
    StateSettings,
    TargetSettings,
    process_environment,
)
from gatehouse.yaml_lines import Lines, YamlError, as_meant, read_yaml

_ANYWHERE: Final = frozenset({"openai-compatible", "azure-openai"})
"""Kinds that are at another address for everybody."""
MAX_FILE_BYTES: Final = 4 * 1024 * 1024


class SettingsError(Exception):
    """The file or the environment is wrong; the text says where and how to mend it, and holds no secret."""


def load(path: Path) -> Settings:
    """Read and validate the operator's file.

    Raises:
        SettingsError: with file, line and reason; no value of a secret is ever in it.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse(text, str(path), process_environment())


def parse(text: str, source: str, environ: Mapping[str, str]) -> Settings:
    """Validate the text of a settings file; `source` names it in errors."""
    try:
        tree, lines, written = read_yaml(text, environ)
        tree = as_meant(tree, msgspec.inspect.type_info(Settings), lines, written)
    except YamlError as error:
        raise SettingsError(f"{source}: line {error.line}: {error}") from None
    try:
        settings = msgspec.convert(tree, Settings, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(str(error), lines, source)) from None
    _check(settings, lines, source)
    return settings


def check(settings: Settings) -> Settings:
    """Settings that a program made, validated like those of a file. Raises SettingsError."""
    try:
        settings = msgspec.convert(msgspec.to_builtins(settings, enc_hook=encode_custom), Settings, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from None
    for path, problem in _problems(settings):
        raise SettingsError(f"settings: {_shown(path)}: {problem}")
    return settings


_AT = re.compile(r" - at `(?:key in )?(.*?)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")
_MISSING = re.compile(r"Object missing required field `(.*?)`")


def _explain(message: str, lines: Lines, source: str) -> str:
    at = _AT.search(message)
    path = at[1] if at else "$"
    words = _AT.sub("", message)
    unknown, missing = _UNKNOWN.search(words), _MISSING.search(words)
    if unknown:
        line = lines.get(f"{path}.{unknown[1]}", lines.get(path, 1))
        return f"{source}: line {line}: unknown setting {unknown[1]!r} under {_shown(path)}"
    if missing:
        return f"{source}: line {lines.get(path, 1)}: {_shown(path)} needs {missing[1]!r}"
    while path not in lines and path != "$":
        path = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", path) or "$"
    return f"{source}: line {lines.get(path, 1)}: {_shown(path)}: {words}"


def _shown(path: str) -> str:
    return path.removeprefix("$").removeprefix(".") or "the top level"


def _check(settings: Settings, lines: Lines, source: str) -> None:
    """What types cannot say: names that must exist, pairs that exclude each other, figures that must be money."""
    for path, problem in _problems(settings):
        raise SettingsError(f"{source}: line {lines.get(path, 1)}: {problem}")


def _problems(settings: Settings) -> Iterator[tuple[str, str]]:
    providers = {provider.name for provider in settings.providers}
    yield from _doubles("providers", [provider.name for provider in settings.providers])
    yield from _doubles("models", [model.name for model in settings.models])
    yield from _alias_problems(settings.models)
    for index, provider in enumerate(settings.providers):
        if problem := _provider_problem(provider):
            yield f"$.providers[{index}]", f"provider {provider.name!r} of kind {provider.kind} {problem}"
    for index, provider in enumerate(settings.providers):
        for pattern in provider.passthrough if isinstance(provider.passthrough, list) else ():
            if "*" in pattern[:-1]:
                yield f"$.providers[{index}].passthrough", f"passthrough: {pattern!r} has its * not at the end"
    for index, model in enumerate(settings.models):
        yield from _model_problems(f"$.models[{index}]", model, providers, {model.name for model in settings.models})
    for path, where, networks in (
        ("$.fetch.networks", "fetch.networks", settings.fetch.networks),
        ("$.listen.trusted_proxies", "listen.trusted_proxies", settings.listen.trusted_proxies),
    ):
        yield from ((path, f"{where}: {net!r} is not a network like 10.1.2.0/24") for net in networks if not _is_network(net))
    if problem := _state_problem(settings.state):
        yield "$.state", f"state.{problem}"
    if settings.prices.on_unknown == "fallback" and settings.prices.fallback is None:
        yield "$.prices", "prices.on_unknown is fallback, so prices.fallback must be given"
    if settings.prices.fallback is not None and (problem := _price_problem(settings.prices.fallback)):
        yield "$.prices.fallback", problem


def _provider_problem(provider: ProviderSettings) -> str:
    if provider.kind in _ANYWHERE and not provider.base_url:
        return "needs base_url"
    if provider.profile is not None and provider.kind != "openai-compatible":
        return "takes no profile: that is for openai-compatible"
    if provider.kind != "azure-openai" and (provider.api_version is not None or provider.credential is not None):
        return "takes neither api_version nor credential: they are for azure-openai"
    if provider.api_key and provider.api_keys:
        return "has both api_key and api_keys: give one of them"
    if not all(provider.api_keys):
        return "has an empty entry in api_keys"
    return _aws_problem(provider) or _google_problem(provider)


def _aws_problem(provider: ProviderSettings) -> str:
    """What is wrong with how a provider says who we are to AWS."""
    aws = provider.aws
    if provider.kind != "bedrock":
        given = provider.region or aws is not None or provider.guardrail is not None
        return "takes neither region nor aws nor guardrail: they are for bedrock" if given else ""
    if provider.region is None:
        return "needs region"
    if aws is None:
        return "" if provider.api_key or provider.api_keys else "needs api_key (a Bedrock API key), or aws to sign its requests"
    ways = [bool(aws.access_key_id or aws.secret_access_key), aws.profile is not None, aws.credentials is not None]
    if sum(ways) != 1 or provider.api_key or provider.api_keys:
        return "needs exactly one of api_key, aws.access_key_id, aws.profile and aws.credentials"
    if ways[0] and not (aws.access_key_id and aws.secret_access_key):
        return "needs aws.access_key_id and aws.secret_access_key together"
    return ""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _state_problem(state: StateSettings) -> str:
    """What is wrong with where state is kept. The URL is never repeated: it may hold a password, and a mistake in it may show one."""
    forms = "memory://, or valkey://HOST (redis://; with TLS valkeys://, rediss://)"
    try:
        url = urlsplit(state.url.reveal())
        port = url.port
    except ValueError:
        return f"url has no port that is a number, or a host in wrong brackets: expected {forms}"
    tls = (state.ca_bundle, state.client_cert, state.client_key) != (None, None, None)
    if url.scheme == "memory":
        return f"url says more than memory://: expected {forms}" if state.url.reveal() != "memory://" else ""
    if url.scheme not in {"valkey", "redis", "valkeys", "rediss"}:
        return f"url is none that is known: expected {forms}"
    if not url.hostname or port == 0:
        return f"url names no host, or port 0: expected {forms}"
    if url.path not in {"", "/", "/0"} or url.query or url.fragment:
        return "url has something after the host: what is published knows no databases (use state.prefix), and options are settings here"
    if tls and url.scheme not in {"valkeys", "rediss"}:
        return "ca_bundle, client_cert and client_key belong to valkeys:// or rediss://"
    if state.client_key is not None and state.client_cert is None:
        return "client_key needs client_cert"
    return ""


def _google_problem(provider: ProviderSettings) -> str:
    """What is wrong with how a provider says who we are to Google Cloud."""
    if provider.kind != "vertex":
        return "takes no google: that is for vertex" if provider.google is not None else ""
    if provider.google is None or not provider.google.credentials_file:
        return "needs google.credentials_file, the key file of a service account"
    if provider.api_key or provider.api_keys:
        return "takes no api_key: calls are made as the service account of google.credentials_file"
    return ""


def _doubles(kind: str, names: list[str]) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"$.{kind}[{index}]", f"{kind} has two entries named {name!r}"


def _alias_problems(models: list[ModelSettings]) -> Iterator[tuple[str, str]]:
    owners = {model.name: model.name for model in models}
    for index, model in enumerate(models):
        for alias in model.aliases:
            if (owner := owners.setdefault(alias, model.name)) != model.name or alias == model.name:
                yield f"$.models[{index}].aliases", f"model {model.name!r}: the alias {alias!r} is a name of model {owner!r} already"
            elif model.aliases.count(alias) > 1:
                yield f"$.models[{index}].aliases", f"model {model.name!r} has the alias {alias!r} twice"


def _model_problems(path: str, model: ModelSettings, providers: set[str], models: set[str]) -> Iterator[tuple[str, str]]:
    for name in model.fallbacks:
        if name not in models:
            yield f"{path}.fallbacks", f"model {model.name!r} falls back to {name!r}, which this file does not define"
    for field in model.extra_fields:
        if field in FORBIDDEN_FIELDS:
            yield f"{path}.extra_fields", f"model {model.name!r}: {field!r} picks a network target, code or template and is never passed on"
    yield from _reliability_problems(path, model)
    for number, target in enumerate(model.targets):
        if problem := _target_problem(target, providers):
            yield f"{path}.targets[{number}]", f"model {model.name!r}: {problem}"


def _reliability_problems(path: str, model: ModelSettings) -> Iterator[tuple[str, str]]:
    hedge, ladder = model.hedge, model.ladder
    if hedge is not None and hedge.after is None and hedge.quantile is None:
        yield f"{path}.hedge", f"model {model.name!r}: hedge needs after (seconds) or quantile (0.95)"
    if hedge is not None and len(model.targets) < 2:
        yield f"{path}.hedge", f"model {model.name!r}: hedge asks a second target, and there is only one"
    if model.session_header and model.policy != "session":
        yield f"{path}.session_header", f"model {model.name!r}: session_header belongs to policy session"
    if model.prefix_tokens != 256 and model.policy != "prefix":
        yield f"{path}.prefix_tokens", f"model {model.name!r}: prefix_tokens belongs to policy prefix"
    if ladder is not None and ladder.stale and model.cache is None:
        yield f"{path}.ladder", f"model {model.name!r}: ladder.stale needs cache, which keeps the answers"
    if ladder is not None and not ladder.stale and not ladder.text:
        yield f"{path}.ladder", f"model {model.name!r}: ladder needs stale or text"


def _target_problem(target: TargetSettings, providers: set[str]) -> str:
    if (target.provider is None) == (target.engine is None):
        return "a target has either provider and model, or engine and path"
    if target.provider is not None:
        if target.provider not in providers:
            return f"this file defines no provider {target.provider!r}"
        if not target.model:
            return "a target of a provider needs model"
        if target.path or target.slots:
            return "path and slots belong to an engine's target"
    elif problem := _engine_problem(target):
        return problem
    return _price_problem(target.price) if target.price else ""


def _engine_problem(target: TargetSettings) -> str:
    if not target.path:
        return "a target of an engine needs path (a GGUF file, or builtin)"
    if target.operations is None or "embedding" not in target.operations:
        return ""
    if len(set(target.operations)) > 1:
        return "an engine's target makes embeddings or does the rest; give each a target of its own"
    return "the built-in model makes no embeddings; name a GGUF file of an embedding model" if target.path == "builtin" else ""


def _price_problem(price: PriceSettings) -> str:
    for bucket in price.__struct_fields__:
        text = getattr(price, bucket)
        if text is not None:
            try:
                parse_usd(text)
            except ValueError as error:
                return f"price.{bucket}: {error}"
    return ""
