"""A LiteLLM proxy's config.yaml becomes an operator's file of ours, with a report of what could not be taken over and why.

Nothing is guessed and nothing secret is copied: a credential that stands in the file itself becomes a variable of the environment
that the report asks for, and no value of one is ever in the result, the report or an error. What comes out is read by our own
reader before it is handed over, so it is a file that a server takes.
"""

import ipaddress
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, get_args
from urllib.parse import urlsplit

import msgspec
import yaml

from gatehouse.compose.litellm_kinds import ELSEWHERE, MODES, PREFIXES, STRATEGIES, Prefix, split_model
from gatehouse.compose.plans import Lookup, build_plans
from gatehouse.core.money import format_usd, parse_usd
from gatehouse.operator_file import SettingsError, parse
from gatehouse.settings import ProviderKind
from gatehouse.yaml_lines import YamlError, read_yaml

_ENVIRONMENT: Final = ".".join(("os", "environ/"))
"""How LiteLLM's file names a variable; nothing here reads one."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._:/@+-]+")
_MARK: Final = "\x00"
"""Around the name of a variable, until the file is written."""
_SAMPLE: Final = "https://sample.invalid"
_MILLION: Final = Decimal(1_000_000)
_FINEST: Final = Decimal("1e-10")
"""What prices are told in; LiteLLM's are floating-point numbers and may have a tail of digits."""
_NO_KEY: Final = frozenset({"none", "null", "empty", "dummy", "fake", "fake-key", "not-needed", "anything"})
"""What is written where a server of one's own wants no key and the SDK insists on one."""
_PRICES: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
}
_TAKEN: Final = frozenset(
    {"model", "api_key", "api_base", "base_url", "api_version", "organization", "weight", "timeout", "stream_timeout", "extra_headers"}
    | {"azure_ad_token", "vertex_project", "vertex_location", "vertex_credentials"}
    | {"aws_region_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_profile_name"}
    | set(_PRICES)
)
"""Fields of litellm_params that are looked at."""
_MOVED: Final = frozenset(
    {"api_key", "azure_ad_token", "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "vertex_credentials"}
)
"""Those of them whose values never get into the file."""
_ROUTING: Final = frozenset(
    {"fallbacks", "default_fallbacks", "model_group_alias", "routing_strategy", "num_retries", "timeout", "request_timeout"}
    | {"stream_timeout", "allowed_fails", "cooldown_time", "cache", "cache_params"}
)
"""Settings of router and library that are looked at."""
_SILENT: Final = frozenset({"id", "db_model", "base_model", "mode", "max_tokens", "max_input_tokens", "max_output_tokens", *_PRICES})
"""Fields of model_info that are looked at, or mean nothing outside LiteLLM."""


class Note(msgspec.Struct, frozen=True):
    """Something that was not taken over, or differs: where it stands in LiteLLM's file, what became of it, and what to do."""

    where: str
    what: str
    advice: str = ""


class Imported(msgspec.Struct, frozen=True):
    """An operator's file, the report, and the variables of the environment that the file needs."""

    text: str
    notes: tuple[Note, ...]
    variables: tuple[str, ...]


class ImportRefused(SettingsError):
    """The file cannot be imported; the text says why, and holds no value of it."""


def import_litellm(text: str, source: str, lookup: Lookup) -> Imported:
    """Convert the text of a config.yaml; `source` names it in errors, `lookup` is the price catalogue.

    Raises:
        ImportRefused: not YAML, not of LiteLLM's shape, or without a model that can be taken over.
    """
    try:
        tree, _, _ = read_yaml(text.replace("${", "$${"), {})
    except YamlError as error:
        raise ImportRefused(f"{source}: line {error.line}: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model_list"), list):
        raise ImportRefused(f"{source}: there is no model_list in it, so it is not a configuration of LiteLLM's proxy")
    made = _Importer()
    made.read(tree)
    if not made.models:
        raise ImportRefused(f"{source}: none of its models can be taken over: " + "; ".join(f"{n.where}: {n.what}" for n in made.notes))
    return made.imported(source, lookup)


class _Importer:
    """What has been made so far."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.models: dict[str, dict[str, Any]] = {}
        self.providers: dict[str, dict[str, Any]] = {}
        self._samples: dict[str, str] = {}
        """Each variable of the environment that the file needs, and a value with which the file can be checked."""
        self._moved: dict[str, str] = {}
        """Secrets that stood in the file, and the variable that each of them is to be put into: two of them never become one."""
        self._renamed: dict[str, str] = {}

    def read(self, tree: Mapping[str, Any]) -> None:
        """All of a file."""
        for index, entry in enumerate(tree["model_list"]):
            self._entry(f"model_list[{index}]", entry)
        settings = {name: _mapping(tree.get(name)) for name in ("litellm_settings", "router_settings", "general_settings")}
        # The router's word counts more than the library's, as with LiteLLM.
        common = {**settings["litellm_settings"], **settings["router_settings"]}
        self._routing(common)
        for section, values in settings.items():
            self._rest(section, values)
        for section in tree.keys() - {"model_list", *settings}:
            if section == "environment_variables":
                words = "its values are not copied: they may be secrets"
                self._note(section, words, f"set in the environment: {', '.join(sorted(_mapping(tree[section])))}")
            else:
                self._note(section, "this section is not taken over")

    # --- models ----------------------------------------------------------------------------------------------------

    def _entry(self, where: str, entry: Any) -> None:
        params, info = _mapping(_mapping(entry).get("litellm_params")), _mapping(_mapping(entry).get("model_info"))
        said, model = _mapping(entry).get("model_name"), params.get("model")
        if not isinstance(said, str) or not isinstance(model, str) or not said or not model:
            self._note(where, "it has no model_name or no litellm_params.model")
            return
        broken = [field for field, value in params.items() if field in _TAKEN - _MOVED and not _is_plain(value)]
        for field in broken:
            self._note(
                f"{where}.litellm_params.{field}",
                "a line break or another character that is not to be seen stands in it; the entry is not taken over",
                "write it in one line, without spaces around it",
            )
        if broken:
            return
        found = split_model(model)
        if found is None:
            self._note(
                where, f"the provider of {model!r} is not known here", "write it as a provider of kind openai-compatible, if it is one"
            )
            return
        prefix, name = found
        known = PREFIXES[prefix]
        if known.kind == "openai" and (params.get("api_base") or params.get("base_url")):
            known = msgspec.structs.replace(known, kind="openai-compatible", variable="", needs_address=True)
        if known.kind not in get_args(ProviderKind):
            self._note(where, f"this version has no provider of kind {known.kind}")
            return
        mode = info.get("mode", "chat")
        if mode not in MODES:
            self._note(where, f"calls of the mode {mode!r} are not served here")
            return
        wildcard = name == "*" or said.endswith("*")
        provider = self._provider(where, known, prefix, params, said[:-2] if wildcard and said.endswith("/*") else "")
        if provider is None:
            return
        if wildcard:
            self._wildcard(where, said, name, provider)
            return
        target = self._target(where, params, info, MODES[mode] or known.operation)
        group = self.models.setdefault(self._named(where, said), {"targets": []})
        group["targets"].append({"provider": provider, "model": name, **target})

    def _wildcard(self, where: str, said: str, name: str, provider: str) -> None:
        if said == f"{provider}/*" and name == "*":
            self.providers[provider]["passthrough"] = True
        else:
            words = f"a wildcard can only be NAME/* for all models of the provider NAME, and this is {said!r}"
            self._note(where, words, "list the models, or name the provider like the prefix and give it passthrough")

    def _named(self, where: str, said: str) -> str:
        name = _NOT_IN_NAMES.sub("-", said).lstrip("-._:/@+")[:128] or "model"
        if name != said:
            self._renamed[said] = name
            self._note(where, f"the name {said!r} cannot be one here; it is {name!r}")
        return name

    def _target(self, where: str, params: Mapping[str, Any], info: Mapping[str, Any], operation: str) -> dict[str, Any]:
        target: dict[str, Any] = {}
        if operation:
            target["operations"] = [operation]
        weight = params.get("weight")
        if isinstance(weight, int) and weight > 0:
            target["weight"] = weight
        price = self._price(where, params, info)
        if price is not None:
            target["price"] = price
        for field, ours in (("max_input_tokens", "context_window"), ("max_output_tokens", "max_output_tokens")):
            if isinstance(info.get(field), int) and info[field] > 0:
                target[ours] = info[field]
        limits = {ours: _seconds(params.get(field)) for field, ours in (("timeout", "total"), ("stream_timeout", "first_byte"))}
        deadlines = {name: limit for name, limit in limits.items() if limit}
        if deadlines:
            target["deadlines"] = deadlines
        for field in params.keys() - _TAKEN:
            words = "not taken over: what a call does not say is the target's to decide"
            self._note(f"{where}.litellm_params.{field}", words if field not in ELSEWHERE else "not taken over", ELSEWHERE.get(field, ""))
        for field in info.keys() - _SILENT:
            if not field.startswith("supports_"):
                self._note(f"{where}.model_info.{field}", "not taken over")
        return target

    # --- providers -------------------------------------------------------------------------------------------------

    def _provider(self, where: str, known: Prefix, prefix: str, params: Mapping[str, Any], wanted: str) -> str | None:
        """The name of the provider that these parameters mean; one that is alike is used again."""
        made: dict[str, Any] = {"kind": known.kind}
        if known.profile:
            made["profile"] = known.profile
        address = params.get("api_base") or params.get("base_url")
        if isinstance(address, str):
            made["base_url"] = self._address(where, address, known)
        elif known.base_url:
            made["base_url"] = known.base_url
        elif known.needs_address:
            self._note(where, f"{prefix} needs an address, and api_base is not given")
            return None
        if _plain_http(made.get("base_url", "")):
            made["plaintext"] = True
            self._note(where, "the provider is spoken to without TLS", "use https where you can, and then take plaintext out")
        self._identify(where, known, prefix, params, made)
        for name, provider in self.providers.items():
            if {field: value for field, value in provider.items() if field != "passthrough"} == made and wanted in ("", name):
                return name
        base = wanted if _NAME.fullmatch(wanted) else prefix.replace("_", "-")
        name = next(n for n in (base, *(f"{base}-{number}" for number in range(2, 10_000))) if n not in self.providers)
        self.providers[name] = made
        return name

    def _price(self, where: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, str] | None:
        """What a million tokens cost. None leaves it to the catalogue, also when one of the prices is none: half of them would be wrong."""
        given = {field: value for field in _PRICES if (value := params.get(field, info.get(field))) is not None}
        price = {_PRICES[field]: _per_million(value) for field, value in given.items()}
        for field in [field for field in given if not price[_PRICES[field]]]:
            self._note(f"{where}.{field}", "this is no price; none of this entry's prices is taken over", "give targets[].price")
        return {"output": "0", **price} if "input" in price and all(price.values()) else None

    def _identify(self, where: str, known: Prefix, prefix: str, params: Mapping[str, Any], made: dict[str, Any]) -> None:
        """Who we are to the provider."""
        kind = known.kind
        if kind == "bedrock":
            self._aws(where, params, made)
        elif kind == "vertex":
            google = {}
            if "vertex_project" in params:
                google["project"] = self._value(params["vertex_project"])
            if "vertex_location" in params:
                google["location"] = self._value(params["vertex_location"], "global")
            given = params.get("vertex_credentials", f"{_ENVIRONMENT}GOOGLE_APPLICATION_CREDENTIALS")
            named = isinstance(given, str) and not given.lstrip().startswith("{")
            google["credentials_file"] = self._value(given) if named else self._variable("GOOGLE_APPLICATION_CREDENTIALS")
            if not named:
                self._note(f"{where}.litellm_params.vertex_credentials", "the key itself is not copied", "put it into a file of its own")
            made["google"] = google
        elif (api_key := self._api_key(where, known, prefix, params)) is not None:
            made["api_key"] = api_key
        elif kind == "azure-openai" and params.get("azure_ad_token") is not None:
            made["api_key"] = self._secret(f"{where}.litellm_params.azure_ad_token", params["azure_ad_token"], "AZURE_AD_TOKEN")
            made["credential"] = "bearer"
        elif known.variable:
            made["api_key"] = self._variable(known.variable)
        if kind == "azure-openai" and params.get("api_version") is not None:
            made["api_version"] = self._value(params["api_version"])
        headers = dict(_mapping(params.get("extra_headers")))
        if params.get("organization") is not None:
            headers["openai-organization"] = params["organization"]
        if headers:
            place = f"{where}.litellm_params.extra_headers"
            made["headers"] = {
                str(name): self._secret(place, value, _variable(f"{prefix}_{str(name).removeprefix(f'{prefix}-')}").upper())
                for name, value in headers.items()
            }

    def _api_key(self, where: str, known: Prefix, prefix: str, params: Mapping[str, Any]) -> str | None:
        """The key that an entry gives, if it is one."""
        given, place = params.get("api_key"), f"{where}.litellm_params.api_key"
        if given is None or given == "":
            return None
        if known.kind == "openai-compatible" and not known.variable and str(given).lower() in _NO_KEY:
            self._note(place, "stands for no key; none is sent")
            return None
        name = known.kind if prefix == "openai" else prefix
        return self._secret(place, given, known.variable or f"{_variable(name)}_API_KEY".upper())

    def _aws(self, where: str, params: Mapping[str, Any], made: dict[str, Any]) -> None:
        region = params.get("aws_region_name")
        made["region"] = self._value(region, "us-east-1") if region is not None else "us-east-1"
        if region is None:
            self._note(where, "no aws_region_name is given; us-east-1 was written", "name the region")
        if params.get("api_key") is not None:
            made["api_key"] = self._secret(f"{where}.litellm_params.api_key", params["api_key"], "AWS_BEARER_TOKEN_BEDROCK")
        elif params.get("aws_profile_name") is not None:
            made["aws"] = {"profile": self._value(params["aws_profile_name"])}
        else:
            fields = ("aws_access_key_id", "aws_secret_access_key", *(("aws_session_token",) if "aws_session_token" in params else ()))
            made["aws"] = {
                field.removeprefix("aws_"): self._secret(
                    f"{where}.litellm_params.{field}", params.get(field, f"{_ENVIRONMENT}{field.upper()}"), field.upper()
                )
                for field in fields
            }

    def _address(self, where: str, address: str, known: Prefix) -> str:
        if "@" in address or "?" in address:
            # Whatever stands there may be a password.
            return self._secret(f"{where}.litellm_params.api_base", address, _variable(f"{known.kind}_BASE_URL"))
        url = self._value(address)
        if url.startswith(_MARK):
            if known.suffix:
                self._note(where, f"the address in {url.strip(_MARK)} must end in {known.suffix} here")
            return url
        url = url.rstrip("/")
        if known.kind == "azure-openai":
            return url.split("/openai", 1)[0]
        return url if not known.suffix or url.endswith(known.suffix) else url + known.suffix

    def _secret(self, where: str, value: Any, variable: str) -> str:
        """A reference to a secret; one that stands in the file is not copied."""
        text = str(value)
        if text.startswith(_ENVIRONMENT):
            return self._variable(text.removeprefix(_ENVIRONMENT))
        known = self._moved.get(text)
        if known is None:
            names = (variable, *(f"{variable}_{number}" for number in range(2, 10_000)))
            known = self._moved[text] = next(name for name in names if name not in self._samples)
        advice = f"put it into the environment as {known}, and change it at the provider"
        self._note(where, "a secret stands in the file; it was not copied", advice)
        return self._variable(known)

    def _value(self, value: Any, sample: str = _SAMPLE) -> str:
        text = str(value)
        return self._variable(text.removeprefix(_ENVIRONMENT), sample) if text.startswith(_ENVIRONMENT) else text

    def _variable(self, name: str, sample: str = _SAMPLE) -> str:
        clean = _variable(name)
        self._samples.setdefault(clean, sample)
        return f"{_MARK}{clean}{_MARK}"

    # --- routing ---------------------------------------------------------------------------------------------------

    def _routing(self, common: Mapping[str, Any]) -> None:
        """Fallbacks, aliases, retries, deadlines, breakers and the cache, which LiteLLM says for all models together."""
        self._fallbacks(common)
        self._aliases(_mapping(common.get("model_group_alias")))
        strategy = common.get("routing_strategy", "simple-shuffle")
        policy = STRATEGIES.get(strategy) if isinstance(strategy, str) else None
        if policy is None:
            self._note("router_settings.routing_strategy", f"{strategy!r} is not known here", "weighted is in force; see models[].policy")
        retries = common.get("num_retries")
        total = _seconds(common.get("timeout", common.get("request_timeout")))
        first = _seconds(common.get("stream_timeout"))
        fails = common.get("allowed_fails")
        cooldown = _seconds(common.get("cooldown_time"))
        cached = common.get("cache") is True
        ttl = _seconds(_mapping(common.get("cache_params")).get("ttl")) or 300.0
        for model in self.models.values():
            if policy not in (None, "weighted") and len(model["targets"]) > 1:
                model["policy"] = policy
            if isinstance(retries, int) and retries > 0:
                model["retries"] = min(retries, 3)
            if cached:
                model["cache"] = {"ttl": ttl}
            for target in model["targets"]:
                limits = {"total": total, "first_byte": first}
                merged = {**{name: limit for name, limit in limits.items() if limit}, **target.get("deadlines", {})}
                if merged:
                    target["deadlines"] = merged
                if isinstance(fails, int) and fails > 0:
                    target.setdefault("breaker", {})["failures"] = fails
                if cooldown:
                    target.setdefault("breaker", {}).update(open=cooldown, longest=max(cooldown, 8.0))
        if isinstance(retries, int) and retries > 3:
            self._note("num_retries", f"{retries} retries are three here, inside a budget of a tenth of the calls")
        if cached:
            self._note("cache", "answers are kept in memory, for identical calls of one key", "models[].cache.scope widens that")

    def _fallbacks(self, common: Mapping[str, Any]) -> None:
        pairs: list[tuple[str, Any]] = []
        for entry in common.get("fallbacks") or ():
            pairs += _mapping(entry).items()
        for asked, wanted in pairs:
            model = self.models.get(self._renamed.get(asked, asked))
            if model is None:
                self._note("fallbacks", f"{asked!r} is none of the models taken over")
                continue
            self._fall_back("fallbacks", asked, model, wanted)
        wanted = common.get("default_fallbacks")
        for name, model in self.models.items() if wanted else ():
            self._fall_back("default_fallbacks", name, model, wanted)

    def _fall_back(self, where: str, asked: str, model: dict[str, Any], wanted: Any) -> None:
        """Add to a model's fallbacks those of `wanted` that are there and answer some of what it answers."""
        listed = model.setdefault("fallbacks", [])
        for other in wanted if isinstance(wanted, list) else [wanted]:
            name = self._renamed.get(other, other) if isinstance(other, str) else ""
            if name not in self.models:
                self._note(where, f"{asked!r} falls back to {other!r}, which is none of the models taken over")
            elif _operations(model).isdisjoint(_operations(self.models[name])):
                self._note(where, f"{asked!r} falls back to {name!r}, which answers nothing of what it answers; it does not here")
            elif name not in listed and self.models[name] is not model:
                listed.append(name)
        if not listed:
            del model["fallbacks"]

    def _aliases(self, aliases: Mapping[str, Any]) -> None:
        for alias, meant in aliases.items():
            said = _mapping(meant).get("model") if isinstance(meant, dict) else meant
            name = self._renamed.get(str(said), str(said))
            if name not in self.models or alias in self.models or not _NAME.fullmatch(alias):
                self._note("router_settings.model_group_alias", f"{alias!r} cannot be an alias of {said!r}")
            else:
                self.models[name].setdefault("aliases", []).append(alias)

    def _rest(self, section: str, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in _ROUTING or section == "general_settings":
                self._note(f"{section}.{name}", "not taken over", ELSEWHERE.get(name, ""))

    def _note(self, where: str, what: str, advice: str = "") -> None:
        note = Note(where, what, advice)
        if note not in self.notes:
            self.notes.append(note)

    # --- what comes out --------------------------------------------------------------------------------------------

    def imported(self, source: str, lookup: Lookup) -> Imported:
        """The file, proven to be one that a server takes."""
        tree = {
            "providers": [{"name": name, **provider} for name, provider in self.providers.items()],
            "models": [{"name": name, **model} for name, model in self.models.items()],
        }
        needed = "".join(f"#   {name}\n" for name in self._samples)
        head = "# Taken over from a configuration of LiteLLM's proxy.\n"
        if needed:
            head += f"# Variables it needs in the environment:\n{needed}"
        text = head + yaml.safe_dump(_written(tree), sort_keys=False, allow_unicode=True, width=120)
        try:
            settings = parse(text, source, self._samples)
        except SettingsError as error:
            raise ImportRefused(f"what was made of {source} is not a file that a server takes: {error}") from None
        for plan in build_plans(settings, lookup):
            unpriced = [target.id for target in plan.targets if target.price is None]
            if unpriced:
                advice = "give targets[].price, or say prices: {on_unknown: zero}; until then such calls are refused"
                self._note(f"model {plan.model}", f"no price is known of {', '.join(unpriced)}", advice)
        return Imported(text, tuple(self.notes), tuple(self._samples))


def _written(value: Any) -> Any:
    """`value` as our file writes it: marked names are variables, and what else looks like one is none."""
    if isinstance(value, dict):
        return {_written(name): _written(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_written(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return re.sub(f"{_MARK}([A-Za-z0-9_]+){_MARK}", r"${\1}", value.replace("${", "$${"))


def _operations(model: Mapping[str, Any]) -> set[str]:
    """What the targets of a model answer; those that do not say chat, and go on with texts."""
    return {each for target in model["targets"] for each in target.get("operations", ("chat", "completion"))}


def _is_plain(value: Any) -> bool:
    """Whether nothing in a value could pass for something else in a file, or is a slip of a block of YAML."""
    if isinstance(value, dict):
        # Headers: their values are moved like secrets.
        return all(_is_plain(name) for name in value)
    return not isinstance(value, str) or (value.isprintable() and value == value.strip())


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _variable(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_]+", "_", name).upper() if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else name
    return clean if not clean[:1].isdigit() else f"_{clean}"


def _per_million(value: Any) -> str:
    """A price a token as one a million tokens; "" for what is none."""
    try:
        amount = (Decimal(str(value)) * _MILLION).quantize(_FINEST)
        return format_usd(parse_usd(str(amount)))
    except (InvalidOperation, ValueError):
        return ""


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 86400 else None


def _plain_http(url: str) -> bool:
    if not url.startswith("http://"):
        return False
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
