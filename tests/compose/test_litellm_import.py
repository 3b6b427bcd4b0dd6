"""`gatehouse import litellm`: what is taken over, what is told, and that no secret comes along.

The fixtures are written after LiteLLM's public documentation of its proxy's config.yaml.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatehouse.compose.litellm_import import Imported, ImportRefused, import_litellm
from gatehouse.compose.offline import check_settings
from gatehouse.compose.steward import lookup
from gatehouse.operator_file import parse
from gatehouse.settings import Settings

FIXTURE = Path(__file__).parent / "litellm" / "everything.yaml"


@pytest.fixture(scope="module")
def made() -> Imported:
    """Of the large fixture."""
    return import_litellm(FIXTURE.read_text(), "config.yaml", lookup)


@pytest.fixture(scope="module")
def settings(made: Imported) -> Settings:
    """What a server reads from it."""
    samples = dict.fromkeys(made.variables, "https://sample.invalid") | {"AWS_REGION": "eu-central-1"}
    return parse(made.text, "gatehouse.yaml", samples)


def small(model: str, **params: Any) -> str:
    return yaml.safe_dump({"model_list": [{"model_name": "m", "litellm_params": {"model": model, **params}}]})


def test_what_is_taken_over(settings: Settings) -> None:
    """Model groups become models with targets; deployments of one place share a provider."""
    models = {model.name: model for model in settings.models}
    assert list(models) == ["gpt-4o", "bare", "claude", "local", "vllm-model", "embed", "sonnet-aws"]
    gpt = models["gpt-4o"]
    assert [(target.provider, target.model, target.weight) for target in gpt.targets] == [
        ("azure", "gpt-4o-eu", 3),
        ("azure-2", "gpt-4o-ca", 1),
        ("openai", "gpt-4o", 1),
    ]
    assert (gpt.targets[1].deadlines.total, gpt.targets[1].deadlines.first_byte) == (30.0, 5.0)
    assert (gpt.targets[0].deadlines.total, gpt.targets[0].breaker.failures, gpt.targets[0].breaker.open) == (600.0, 3, 30.0)
    assert (gpt.policy, gpt.retries, gpt.fallbacks, gpt.aliases) == ("latency", 3, ["claude", "vllm-model"], ["gpt-4"])
    assert gpt.cache is not None
    assert gpt.cache.ttl == 120.0
    assert models["claude"].aliases == ["hidden"]
    assert models["embed"].targets[0].operations == ["embedding"]
    price = models["local"].targets[0].price
    assert price is not None
    assert (price.input, price.output, models["local"].targets[0].context_window) == ("1.5", "2", 8192)


def test_providers_by_kind(settings: Settings) -> None:
    """Each prefix leads to its kind, with the address and the profile that belong to it."""
    providers = {provider.name: provider for provider in settings.providers}
    assert {name: provider.kind for name, provider in providers.items()} == {
        "azure": "azure-openai",
        "azure-2": "azure-openai",
        "openai": "openai",
        "openai-2": "openai",
        "anthropic": "anthropic",
        "ollama": "openai-compatible",
        "hosted-vllm": "openai-compatible",
        "bedrock": "bedrock",
        "groq": "groq",
    }
    assert providers["azure"].base_url == "https://eu-resource.openai.azure.com"
    assert (providers["azure"].api_version, providers["azure-2"].api_version) == ("2024-10-21", None)
    assert (providers["ollama"].base_url, providers["ollama"].profile, providers["ollama"].plaintext) == (
        "http://10.0.0.5:11434/v1",
        "ollama",
        True,
    )
    assert providers["hosted-vllm"].profile == "vllm"
    assert providers["bedrock"].aws is not None
    assert providers["groq"].passthrough is True


def test_no_secret_comes_along(made: Imported) -> None:
    """Not in the file, nor in the report: a credential that stood in the file is a variable now, and the report asks for it."""
    everything = made.text + repr(made.notes)
    secrets = ("secret-in-the-file", "hunter2", "org-secret", "master-secret", "db-secret", "redis-secret", "cache-secret", "env-secret")
    for secret in secrets:
        assert secret not in everything
    assert made.variables == (
        "AZURE_API_KEY_EU", "AZURE_API_BASE_CA", "AZURE_API_KEY", "OPENAI_API_KEY", "OPENAI_ORGANIZATION", "ANTHROPIC_API_KEY",
        "OPENAI_COMPATIBLE_BASE_URL", "AWS_REGION", "CUSTOM_AWS_ID", "AWS_SECRET_ACCESS_KEY", "GROQ_API_KEY",
    )  # fmt: skip
    moved = [note.where for note in made.notes if "secret stands in the file" in note.what]
    assert "model_list[1].litellm_params.api_key" in moved


@pytest.mark.parametrize(
    "where",
    [
        "model_list[0].litellm_params.rpm",
        "model_list[2].litellm_params.temperature",
        "model_list[2].model_info.team",
        "model_list[6]",
        "model_list[10]",
        "model_list[11]",
        "model_list[12]",
        "model_list[13]",
        "litellm_settings.drop_params",
        "litellm_settings.callbacks",
        "litellm_settings.context_window_fallbacks",
        "router_settings.model_group_alias",
        "router_settings.redis_password",
        "general_settings.master_key",
        "general_settings.database_url",
        "environment_variables",
        "guardrails",
        "fallbacks",
        "num_retries",
    ],
)
def test_what_is_not_taken_over_is_told(made: Imported, where: str) -> None:
    """Every one with its place; nothing vanishes silently."""
    assert any(note.where == where for note in made.notes), [note.where for note in made.notes]


def test_config_check_takes_it(settings: Settings) -> None:
    """As `gatehouse config check` does."""
    assert len(check_settings(settings)["models"]) == len(settings.models)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no model_list"),
        ("[1, 2]", "no model_list"),
        ("model_list: [\n", "line"),
        ("model_list: []", "none of its models"),
        ("model_list: [{model_name: a}]", "none of its models"),
        (small("somewhere/else"), "is not known here"),
        (small("hosted_vllm/x"), "needs an address"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, words: str) -> None:
    """With a sentence, and nothing is written."""
    with pytest.raises(ImportRefused, match=words):
        import_litellm(text, "config.yaml", lookup)


def test_an_unpriced_model_is_told() -> None:
    """Here a call of unknown price is refused, where LiteLLM books nothing."""
    made = import_litellm(small("openai_like/x", api_base="https://models.example/v1"), "c", lookup)
    assert [note.where for note in made.notes] == ["model m"]
    assert "on_unknown" in made.notes[0].advice


@pytest.mark.parametrize("value", ["${HOME}", "a ${X} b"])
def test_what_looks_like_a_variable_of_ours_is_none(value: str) -> None:
    """LiteLLM knows no ${NAME}: a text that has one stays as it is."""
    made = import_litellm(small("openai_like/x", api_base="https://models.example/v1", api_version=1, organization=None), "c", lookup)
    assert "$" not in made.text
    odd = import_litellm(small(f"openai_like/{value}", api_base="https://models.example/v1"), "c", lookup)
    assert parse(odd.text, "x", {}).models[0].targets[0].model == value


def test_the_command(tmp_path: Path) -> None:
    """Writes the file, tells the report on standard error, never writes over a file unasked, and gives JSON to programs."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gatehouse", "import", "litellm", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    out = tmp_path / "gatehouse.yaml"
    done = run(str(FIXTURE), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "AZURE_API_KEY_EU" in done.stderr
    assert "secret-in-the-file" not in done.stderr + out.read_text()
    again = run(str(FIXTURE), "--out", str(out))
    assert again.returncode == 1
    assert "--replace" in again.stderr
    told = json.loads(run(str(FIXTURE), "--json").stdout)
    assert told["config"] == out.read_text()
    assert run(str(tmp_path / "nothing.yaml")).returncode == 1


def test_two_secrets_never_become_one() -> None:
    """Each that stood in the file has a variable of its own, and the same one twice has one."""
    entries = [("a", "key-one"), ("b", "key-two"), ("c", "key-one")]
    models = [{"model_name": name, "litellm_params": {"model": "groq/x", "api_key": key}} for name, key in entries]
    made = import_litellm(yaml.safe_dump({"model_list": models}), "c", lookup)
    assert made.variables == ("GROQ_API_KEY", "GROQ_API_KEY_2")
    settings = parse(made.text, "x", dict(zip(made.variables, ("one", "two"), strict=True)))
    assert [model.targets[0].provider for model in settings.models] == ["groq", "groq-2", "groq"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (2.7777777777777776e-07, "0.2777777778"),
        (1e-17, "0"),
        ("0.0000025", "2.5"),
        (-1, None),
        (float("nan"), None),
        (1e999, None),
        ("cheap", None),
        (True, None),
    ],
)
def test_prices_are_read_to_the_last_digit_we_have(given: object, taken: str | None) -> None:
    """A tail of digits is rounded away; what is no price is told, and then the entry has none: never half of one."""
    text = small("groq/x", input_cost_per_token=0.000001, output_cost_per_token=given)
    made = import_litellm(text, "c", lookup)
    price = parse(made.text, "x", {"GROQ_API_KEY": "k"}).models[0].targets[0].price
    assert (None if price is None else price.output) == taken
    assert any("is no price" in note.what for note in made.notes) == (taken is None)


@pytest.mark.parametrize("word", ["none", "EMPTY", "dummy", ""])
def test_a_word_for_no_key_is_none(word: str) -> None:
    """Servers of one's own want none, and LiteLLM's SDK insists on one: no variable is asked for, and nothing is called a secret."""
    made = import_litellm(small("hosted_vllm/x", api_base="http://127.0.0.1:8000/v1", api_key=word), "c", lookup)
    assert made.variables == ()
    assert "api_key" not in made.text
    assert not any("secret" in note.what for note in made.notes)


def test_a_moved_secret_has_a_name_of_its_own() -> None:
    """Upper case, after whose it is; that of another server with OpenAI's protocol is never OpenAI's own variable."""
    lab = import_litellm(small("openai/x", api_base="https://lab.example/v1", api_key="s3cret"), "c", lookup)
    assert lab.variables == ("OPENAI_COMPATIBLE_API_KEY",)
    vllm = import_litellm(small("hosted_vllm/x", api_base="https://lab.example/v1", api_key="s3cret"), "c", lookup)
    assert vllm.variables == ("HOSTED_VLLM_API_KEY",)


@pytest.mark.parametrize(
    "bad", ["http://127.0.0.1:1/v1\n", "http://127.0.0.1:1/v1\nplaintext: true", "http://h\x00HOME\x00/v1", "http://h/\u2028v1"]
)
@pytest.mark.parametrize("field", ["api_base", "base_url"])
def test_an_address_of_several_lines_is_told_and_not_written(bad: str, field: str) -> None:
    """Nor with any other character that is not to be seen: the entry is left out, the others are taken over, the value is nowhere."""
    good = {"model_name": "good", "litellm_params": {"model": "openai/x", "api_base": "http://127.0.0.1:1/v1"}}
    text = yaml.safe_dump({"model_list": [good, {"model_name": "m", "litellm_params": {"model": "openai/y", field: bad}}]})
    made = import_litellm(text, "config.yaml", lookup)
    assert [model.name for model in parse(made.text, "f", dict.fromkeys(made.variables, "x")).models] == ["good"]
    (note,) = [note for note in made.notes if note.where == f"model_list[1].litellm_params.{field}"]
    assert "line break" in note.what
    assert "HOME" not in made.text
    assert bad not in str(made.notes)


@pytest.mark.parametrize("field", ["model", "api_version", "organization", "vertex_project", "aws_region_name"])
def test_no_other_value_is_of_several_lines(field: str) -> None:
    """What is written as it stands is looked at alike; where nothing is left, the refusal says why."""
    params = {"model": "openai/x", field: "openai/x\nkind: anthropic"}
    with pytest.raises(ImportRefused, match="line break"):
        import_litellm(yaml.safe_dump({"model_list": [{"model_name": "m", "litellm_params": params}]}), "config.yaml", lookup)


def test_fallbacks_answer_what_was_asked() -> None:
    """Models that only make embeddings fall back to such, and never to a chat; nor does a chat to them. What was left out is told."""

    def entry(name: str, mode: str) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": f"openai/{name}"}, "model_info": {"mode": mode}}

    tree = {
        "model_list": [entry("chat", "chat"), entry("spare", "chat"), entry("vectors", "embedding"), entry("more-vectors", "embedding")],
        "router_settings": {"default_fallbacks": ["spare"], "fallbacks": [{"vectors": ["more-vectors", "chat"]}, {"chat": ["vectors"]}]},
    }
    made = import_litellm(yaml.safe_dump(tree), "config.yaml", lookup)
    settings = parse(made.text, "f", dict.fromkeys(made.variables, "x"))
    assert {model.name: model.fallbacks for model in settings.models} == {
        "chat": ["spare"], "spare": [], "vectors": ["more-vectors"], "more-vectors": [],
    }  # fmt: skip
    told = [(note.where, note.what.split(",")[0]) for note in made.notes if "falls back" in note.what]
    assert told == [
        ("fallbacks", "'vectors' falls back to 'chat'"),
        ("fallbacks", "'chat' falls back to 'vectors'"),
        ("default_fallbacks", "'vectors' falls back to 'spare'"),
        ("default_fallbacks", "'more-vectors' falls back to 'spare'"),
    ]
