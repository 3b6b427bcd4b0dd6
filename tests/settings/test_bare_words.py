"""Bare words and figures of the operator's file mean what their place means, or are refused with the line."""

import pytest

from gatehouse.operator_file import SettingsError, parse
from gatehouse.settings import ModelSettings, ProviderSettings

ENVIRONMENT = {"TRUTH": "true", "SECRET": "a-very-secret-value"}
TRUTHS = {"true": True, "yes": True, "on": True, "On": True, "YES": True, "false": False, "no": False, "off": False, "Off": False}


def model(text: str) -> ModelSettings:
    """A model with a line of its own for `text`, the fourth."""
    (made,) = parse(f"models:\n  - name: a\n    targets: [{{engine: llamacpp, path: x}}]\n    {text}\n", "f.yaml", ENVIRONMENT).models
    return made


def provider(text: str) -> ProviderSettings:
    """A provider with a line of its own for `text`, the third."""
    (made,) = parse(f"providers:\n  - kind: openai\n    {text}\n", "f.yaml", ENVIRONMENT).providers
    return made


@pytest.mark.parametrize(("word", "meant"), TRUTHS.items())
def test_yes_and_on_are_true_where_a_truth_is_expected(word: str, meant: bool) -> None:
    """The words of YAML 1.1, in each of its spellings."""
    assert provider(f"plaintext: {word}\n    name: p").plaintext is meant
    assert provider(f"name: p\n    forward: {{metadata: {word}}}").forward.metadata is meant
    assert model(f"strict_audit: {word}").strict_audit is meant
    assert provider(f"name: p\n    passthrough: {word}").passthrough is meant


@pytest.mark.parametrize("word", ["off", "Off", "OFF", "'off'", '"off"'])
def test_off_is_a_word_where_off_is_one_of_the_words(word: str) -> None:
    """A policy that can be off is switched off with and without quotes, although YAML reads the bare word as false."""
    guard = model(f"guard: {{input: {word}, output: {word}}}").guard
    assert (guard.input, guard.output) == ("off", "off")
    assert provider(f"name: p\n    forward: {{user: {word}}}").forward.user == "off"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guard: {output: on}", "guard.output: 'on' is none of block, flag, off, redact"),
        ("guard: {output: no}", "guard.output: 'no' is none of block"),
        ("guard: {output: true}", "guard.output: 'true' is none of"),
        ("guard: {output: 0}", "guard.output: '0' is none of"),
        ("guard: {output: reduct}", "guard.output: 'reduct' is none of"),
        ("guard: {unscannable: {image: yes}}", "guard.unscannable.image: 'yes' is none of allow, deny"),
        ("policy: off", "policy: 'off' is none of cost, latency"),
        ("remote_urls: no", "remote_urls: 'no' is none of fetch, pass, refuse"),
        ("strict_audit: y", "strict_audit: true or false (or yes, no, on, off) is expected, without quotes"),
        ("strict_audit: 'on'", "strict_audit: true or false"),
        ("strict_audit: ${TRUTH}", "a variable is always text"),
        ("strict_audit: 1", "strict_audit: Expected `bool`, got `int`"),
        ("retries: yes", "retries: Expected `int`, got `bool`"),
        ("aliases: [b, no]", "aliases[1]: no without quotes is false to YAML; if it is meant as text, put it in quotes"),
        ("session_header: ~", "session_header: Expected `str`, got `null`"),
    ],
)
def test_what_can_be_taken_in_two_ways_is_refused(text: str, words: str) -> None:
    """A word that its place does not offer, and a truth where text is expected: the line, the place, and what would do."""
    with pytest.raises(SettingsError) as caught:
        model(text)
    assert str(caught.value).startswith("f.yaml: line 4: models[0].")
    assert words in str(caught.value)


def test_the_line_is_the_entrys_own() -> None:
    """Also within a mapping of names to words."""
    with pytest.raises(SettingsError, match=r"line 7: .*file: 'no' is none of allow, deny"):
        model("guard:\n      unscannable:\n        image: allow\n        file: no")


@pytest.mark.parametrize("text", ["api_key: no", "proxy: off", "base_url: on", "ca_bundle: no"])
def test_a_truth_is_no_text(text: str) -> None:
    """Whether "no" is a name or the wish to have none, nobody knows."""
    with pytest.raises(SettingsError, match=r"line 3: .* without quotes is (true|false) to YAML"):
        provider(f"{text}\n    name: p")


def test_a_variable_in_the_place_of_a_word_is_not_shown() -> None:
    """What it holds may be a secret; the refusal shows its name."""
    with pytest.raises(SettingsError) as caught:
        model("guard: {output: '${SECRET}'}")
    assert "'${SECRET}' is none of" in str(caught.value)
    assert "a-very-secret-value" not in str(caught.value)


def test_figures_are_text_where_text_is_expected() -> None:
    """As they were written, to the last digit: keys, versions, names of models, prices."""
    assert provider("name: p\n    api_key: 0123456789").api_key.reveal() == "0123456789"
    text = "providers: [{name: p, kind: azure-openai, base_url: 'https://x.test', api_key: k, api_version: 2024-10-21}]"
    assert parse(text, "f.yaml", {}).providers[0].api_version == "2024-10-21"
    text = "models: [{name: 4.10, targets: [{engine: llamacpp, path: x, price: {input: 0.10, output: 2}}]}]"
    (priced,) = parse(text, "f.yaml", {}).models
    assert priced.name == "4.10"
    price = priced.targets[0].price
    assert price is not None
    assert (price.input, price.output) == ("0.10", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers: 010", "workers: 010 is 8 to YAML"),
        ("workers: 0x10", "workers: 0x10 is 16 to YAML"),
        ("drain_seconds: 1:30", "drain_seconds: 1:30 is 90 to YAML"),
        ("drain_seconds: .inf", "drain_seconds: .inf is inf to YAML"),
    ],
)
def test_numbers_whose_value_would_surprise_are_refused(text: str, words: str) -> None:
    """Octal, hexadecimal, base sixty and infinity: a setting is a plain decimal number."""
    with pytest.raises(SettingsError, match=r"line 2") as caught:
        parse(f"\n{text}", "f.yaml", {})
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("30", 30.0), ("0.5", 0.5), (".5", 0.5), ("1_000", 1000.0), ("+3", 3.0), ("1.5e+2", 150.0)])
def test_plain_numbers_are_taken(text: str, value: float) -> None:
    """With a sign, a fraction, an exponent, and marks between thousands."""
    assert parse(f"drain_seconds: {text}", "f.yaml", {}).drain_seconds == value
