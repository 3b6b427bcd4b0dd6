"""The operator's file: what is wrong is refused with its line, what is right becomes one frozen tree."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.calls import FORBIDDEN_FIELDS
from gatehouse.core.secrets import decode_custom, encode_custom
from gatehouse.operator_file import SettingsError, load, parse
from gatehouse.settings import Settings

GOOD = """\
providers:
  - {name: openai, kind: openai, api_key: "${THE_KEY}"}
  - {name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:8000/v1"}
models:
  - name: assistant
    targets:
      - {provider: lab, model: qwen3-8b, weight: 3}
      - {provider: openai, model: gpt-5-mini, price: {input: "0.25", cached_input: "0.025", output: "2.00"}}
    fallbacks: [tiny]
  - name: tiny
    targets: [{engine: llamacpp, path: builtin}]
storage: {url: "sqlite:///gatehouse.db"}
state: {url: "memory://"}
"""
ENV = {"THE_KEY": "a-very-secret-value"}


def test_the_smallest_useful_file() -> None:
    """The design's example is taken as it stands; variables are expanded, secrets hidden."""
    settings = parse(GOOD, "f.yaml", ENV)
    assert settings.providers[0].api_key.reveal() == "a-very-secret-value"
    assert "a-very-secret-value" not in repr(settings)
    assert [target.weight for target in settings.models[0].targets] == [3, 1]


def test_an_empty_file_is_all_defaults() -> None:
    """Nothing said is nothing changed."""
    assert parse("", "f.yaml", {}) == Settings()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("workers: 2\nwrokers: 3\n", 2, "unknown setting 'wrokers'"),
        ("models:\n  - name: a\n    targets:\n      - {engine: llamacpp, path: x, temprature: 1}\n", 4, "unknown setting 'temprature'"),
        ("workers: many\n", 1, "Expected `int`"),
        ("workers: 0\n", 1, ">= 1"),
        ("workers: 1\nworkers: 2\n", 2, "given twice"),
        ("a: &x 1\nb: *x\n", 1, "aliases"),
        ("a: !!python/object:os.system x\n", 1, "tags"),
        ("workers: [1\n", 2, "not YAML"),
        ("listen:\n  host: ${NOPE}\n", 2, "the environment has no NOPE"),
        ("models:\n  - targets: [{engine: llamacpp, path: x}]\n", 2, "needs 'name'"),
        ("models:\n  - name: a\n    targets: []\n", 3, "length >= 1"),
        ("models:\n  - name: a\n    targets: [{provider: gone, model: m}]\n", 3, "no provider 'gone'"),
        ("models:\n  - name: a\n    targets: [{provider: p, engine: llamacpp}]\n", 3, "either provider and model"),
        ("models:\n  - name: a\n    targets: [{engine: llamacpp}]\n", 3, "needs path"),
        ("models:\n  - name: a\n    fallbacks: [b]\n    targets: [{engine: llamacpp, path: x}]\n", 3, "does not define"),
        ("providers:\n  - {name: p, kind: openai-compatible}\n", 2, "needs base_url"),
        ("providers:\n  - {name: p, kind: openai}\n  - {name: p, kind: openai}\n", 3, "two entries named 'p'"),
        ("models:\n  - name: a\n    aliases: [b, b]\n    targets: [{engine: llamacpp, path: x}]\n", 3, "alias 'b' twice"),
        ("models:\n  - name: a\n    aliases: [a]\n    targets: [{engine: llamacpp, path: x}]\n", 3, "is a name of model 'a' already"),
        (
            "models:\n  - name: a\n    targets: [{engine: llamacpp, path: x}]\n"
            "  - name: b\n    aliases: [a]\n    targets: [{engine: llamacpp, path: x}]\n",
            5,
            "is a name of model 'a' already",
        ),
        ("models:\n  - name: a\n    hedge: {share: 0.1}\n    targets: [{engine: llamacpp, path: x}]\n", 3, "needs after"),
        ("models:\n  - name: a\n    hedge: {after: 1}\n    targets: [{engine: llamacpp, path: x}]\n", 3, "only one"),
        ("models:\n  - name: a\n    session_header: x-s\n    targets: [{engine: llamacpp, path: x}]\n", 3, "policy session"),
        ("models:\n  - name: a\n    ladder: {stale: 60}\n    targets: [{engine: llamacpp, path: x}]\n", 3, "needs cache"),
        ("models:\n  - name: a\n    ladder: {}\n    targets: [{engine: llamacpp, path: x}]\n", 3, "needs stale or text"),
        ("models:\n  - name: a\n    policy: fastest\n    targets: [{engine: llamacpp, path: x}]\n", 3, "'fastest' is none of"),
        ("providers:\n  - {name: p, kind: openai, passthrough: ['a*b']}\n", 2, "* not at the end"),
        ("fetch: {networks: [here]}\n", 1, "not a network"),
        ("tags: {allow: [Project]}\n", 1, "tags.allow"),
        ("prices: {on_unknown: fallback}\n", 1, "prices.fallback must be given"),
        ('prices: {on_unknown: fallback, fallback: {input: "-1", output: "1"}}\n', 1, "not negative"),
        ("state: {url: nowhere://}\n", 1, "memory"),
        ('state: {url: "memory://somewhere"}\n', 1, "state.url says more than memory://"),
        ('state: {url: "valkey://"}\n', 1, "state.url names no host"),
        ('state: {url: "valkey://host:0"}\n', 1, "state.url names no host, or port 0"),
        ('state: {url: "valkey://host:port"}\n', 1, "state.url has no port that is a number"),
        ('state: {url: "valkey://host/3"}\n', 1, "use state.prefix"),
        ('state: {url: "valkey://host?ssl_cert_reqs=none"}\n', 1, "options are settings here"),
        ('state: {url: "valkey://host", ca_bundle: ca.pem}\n', 1, "belong to valkeys:// or rediss://"),
        ('state: {url: "rediss://host", client_key: key.pem}\n', 1, "client_key needs client_cert"),
        ('state: {url: "valkey://host", prefix: "two words"}\n', 1, "state.prefix"),
        ('state: {url: "valkey://host", connect_seconds: 0}\n', 1, "state.connect_seconds"),
        ("models:\n  - name: a\n    extra_fields: [api_base]\n    targets: [{engine: llamacpp, path: x}]\n", 3, "never passed on"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, words: str) -> None:
    """Every kind of mistake: file, line, reason."""
    with pytest.raises(SettingsError) as caught:
        parse(text, "f.yaml", {})
    assert str(caught.value).startswith(f"f.yaml: line {line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("field", sorted(FORBIDDEN_FIELDS))
def test_no_setting_admits_a_forbidden_field(field: str) -> None:
    """CVE-2024-6587, PYSEC-2026-4070: what picks a network target or code is never passed on, not even by configuration."""
    with pytest.raises(SettingsError, match="never passed on"):
        parse(f"models:\n  - name: a\n    extra_fields: [{field}]\n    targets: [{{engine: llamacpp, path: x}}]\n", "f.yaml", {})


def test_errors_hold_no_secret() -> None:
    """A mistake beside a secret does not print it."""
    with pytest.raises(SettingsError) as caught:
        parse('providers:\n  - {name: openai, kind: openai, api_key: "${THE_KEY}", nope: "${THE_KEY}"}\n', "f.yaml", ENV)
    assert "a-very-secret-value" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, not UTF-8, too large: one sentence each."""
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 3"):
        load(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="larger than"):
        load(tmp_path / "big.yaml")


def test_the_tree_survives_the_inner_socket() -> None:
    """Encoded for a worker and decoded there, secrets included, it is the same tree."""
    settings = parse(GOOD, "f.yaml", ENV)
    encoded = msgspec.json.encode(settings, enc_hook=encode_custom)
    assert msgspec.json.decode(encoded, type=Settings, dec_hook=decode_custom) == settings


@given(st.text(max_size=200))
def test_any_text_is_settings_or_an_error(text: str) -> None:
    """No text of any kind gets past as anything but Settings or SettingsError."""
    try:
        parse(text, "f.yaml", {})
    except SettingsError as error:
        assert str(error).startswith("f.yaml: line ")


KEYS = "aws: {access_key_id: A, secret_access_key: B}"


@pytest.mark.parametrize(
    "rest",
    [
        "region: eu-central-1, api_key: k",
        f"region: us-gov-west-1, {KEYS}",
        "region: eu-central-1, aws: {access_key_id: A, secret_access_key: B, session_token: C}",
        "region: eu-central-1, aws: {profile: work}",
        "region: eu-central-1, aws: {credentials: instance}",
        "region: eu-central-1, api_key: k, guardrail: {id: g1, version: DRAFT}",
    ],
)
def test_bedrock_knows_one_way_to_say_who_we_are(rest: str) -> None:
    """A Bedrock API key, a key of IAM, a profile, or the machine's role."""
    (provider,) = parse(f"providers: [{{name: a, kind: bedrock, {rest}}}]", "f.yaml", {}).providers
    assert provider.region is not None


@pytest.mark.parametrize(
    ("kind", "rest", "said"),
    [
        ("bedrock", "api_key: k", "needs region"),
        ("bedrock", "region: eu-central-1", "needs api_key (a Bedrock API key), or aws to sign its requests"),
        ("bedrock", "region: eu-central-1, aws: {}", "needs exactly one of"),
        ("bedrock", f"region: eu-central-1, api_key: k, {KEYS}", "needs exactly one of"),
        ("bedrock", "region: eu-central-1, aws: {profile: p, credentials: instance}", "needs exactly one of"),
        ("bedrock", "region: eu-central-1, aws: {secret_access_key: B}", "together"),
        ("bedrock", "region: 'eu-central-1.evil.test/', api_key: k", "region"),
        ("openai", f"api_key: k, {KEYS}", "takes neither region nor aws"),
        ("openai", "api_key: k, guardrail: {id: g1, version: '1'}", "they are for bedrock"),
        ("bedrock", "region: eu-central-1, api_key: k, guardrail: {id: g1, version: latest}", "version"),
    ],
)
def test_bedrock_settings_that_cannot_work(kind: str, rest: str, said: str) -> None:
    """Refused with the line and what is missing; a region cannot name another host."""
    with pytest.raises(SettingsError) as caught:
        parse(f"\nproviders:\n  - {{name: a, kind: {kind}, {rest}}}", "f.yaml", {})
    assert "line 3" in str(caught.value)
    assert said in str(caught.value)


def test_vertex_is_called_as_a_service_account() -> None:
    """The key file is all it needs: the project is in it, and the location has a default."""
    (provider,) = parse("providers: [{name: a, kind: vertex, google: {credentials_file: k.json}}]", "f.yaml", {}).providers
    assert provider.google is not None
    assert (provider.google.location, provider.google.project) == ("global", None)


@pytest.mark.parametrize(
    ("kind", "rest", "said"),
    [
        ("vertex", "api_key: k", "needs google.credentials_file"),
        ("vertex", "google: {location: europe-west4}", "needs google.credentials_file"),
        ("vertex", "api_key: k, google: {credentials_file: k.json}", "takes no api_key"),
        ("vertex", "google: {credentials_file: k.json, location: 'x.evil.test/'}", "location"),
        ("gemini", "api_key: k, google: {credentials_file: k.json}", "takes no google"),
    ],
)
def test_vertex_settings_that_cannot_work(kind: str, rest: str, said: str) -> None:
    """Refused with the line and what is missing; a location cannot name another host."""
    with pytest.raises(SettingsError) as caught:
        parse(f"\nproviders:\n  - {{name: a, kind: {kind}, {rest}}}", "f.yaml", {})
    assert "line 3" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("engine: llamacpp, path: builtin, operations: [embedding]", "built-in model makes no embeddings"),
        ("engine: llamacpp, path: m.gguf, operations: [embedding, chat]", "makes embeddings or does the rest"),
        ("engine: llamacpp", "needs path"),
    ],
)
def test_engines_and_embeddings(target: str, words: str) -> None:
    """An engine makes embeddings or does the rest, and the built-in model makes none: a sentence when the server starts."""
    with pytest.raises(SettingsError, match=words):
        parse(f"models: [{{name: m, targets: [{{{target}}}]}}]\n", "f", {})


@pytest.mark.parametrize(
    "url",
    [
        "valkey://gate:{secret}@host",
        "redis://:{secret}@host:6380/0",
        "valkeys://gate:{secret}@[2001:db8::1]:6379",
        "rediss://gate:{secret}@host/",
    ],
)
def test_the_password_of_the_state_is_a_secret(url: str) -> None:
    """It is taken from the environment and shown nowhere."""
    settings = parse('state: {url: "${STATE}"}\n', "f.yaml", {"STATE": url.format(secret="a-very-secret-value")})
    assert settings.state.url.reveal() == url.format(secret="a-very-secret-value")
    assert "a-very-secret-value" not in repr(settings)


@pytest.mark.parametrize(
    "url", ["valkey://gate:a/{secret}@host", "valkey://gate:{secret}@host:x", "nowhere://{secret}", "valkey://[{secret}"]
)
def test_a_mistake_in_the_url_of_the_state_does_not_show_it(url: str) -> None:
    """A password with a character that should have been escaped makes another URL of it: the error repeats nothing."""
    with pytest.raises(SettingsError) as caught:
        parse('state: {url: "${STATE}"}\n', "f.yaml", {"STATE": url.format(secret="a-very-secret-value")})
    assert "state.url" in str(caught.value)
    assert "secret-value" not in str(caught.value)
