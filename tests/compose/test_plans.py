"""Settings to plans: names, fallbacks, prices and digests."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.compose.plans import build_plans, unlisted_plan
from gatehouse.compose.steward import lookup
from gatehouse.core.advice import ADVICE
from gatehouse.core.plans import Breaker, Hedge, Ladder
from gatehouse.operator_file import parse
from gatehouse.settings import Settings

BASE = """
providers:
  - {name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:8000/v1"}
prices: {on_unknown: %s, fallback: {input: "7", output: "8"}}
models:
  - name: a
    targets: [{provider: lab, model: priced, price: {input: "0.25", output: "2.00", cached_input: "0.025"}}]
    fallbacks: [b]
  - name: b
    targets: [{provider: lab, model: unpriced}]
    fallbacks: [a, c]
  - name: c
    targets: [{engine: llamacpp, path: builtin}]
"""


class Listing(msgspec.Struct):
    prices: dict[str, str]
    context_window: int | None
    source: str


def nothing(_kind: str, _url: str | None, _model: str) -> None:
    return None


def settings(on_unknown: str = "block") -> Settings:
    return parse(BASE % on_unknown, "f", {})


def test_fallbacks_are_followed_once() -> None:
    """A falls back to b, b to c and back to a: each model once, itself never."""
    plans = {plan.model: plan for plan in build_plans(settings(), nothing)}
    assert [[target.id for target in group] for group in plans["a"].fallbacks] == [["lab/unpriced"], ["llamacpp/tiny"]]
    assert [[target.id for target in group] for group in plans["b"].fallbacks] == [["lab/priced"], ["llamacpp/tiny"]]


def test_own_price_is_exact() -> None:
    """Per million tokens in units of 10^-10 USD; buckets left out cost what input or output costs."""
    price = build_plans(settings(), nothing)[0].targets[0].price
    assert price is not None
    assert (price.input, price.output, price.cached_input, price.reasoning) == (25 * 10**8, 2 * 10**10, 25 * 10**7, 2 * 10**10)
    assert price.snapshot.startswith("own:")


@pytest.mark.parametrize(("on_unknown", "expected"), [("block", None), ("zero", 0), ("fallback", 7 * 10**10)])
def test_unknown_price(on_unknown: str, expected: int | None) -> None:
    """Block leaves it unknown for Route to refuse, zero books nothing, fallback uses the given figure."""
    price = build_plans(settings(on_unknown), nothing)[1].targets[0].price
    assert (price.input if price else None) == expected


def test_the_catalogue_is_asked_only_without_an_own_price() -> None:
    """Prices and context windows of the catalogue fill what the operator did not say."""
    asked: list[tuple[Any, ...]] = []

    def lookup(*words: Any) -> Listing:
        asked.append(words)
        return Listing({"input": "1", "output": "2"}, 4096, "some catalogue 1")

    target = build_plans(settings(), lookup)[1].targets[0]
    assert asked == [("openai-compatible", "http://127.0.0.1:8000/v1", "unpriced")]
    assert target.context_window == 4096
    assert target.price is not None
    assert target.price.snapshot.startswith("some:")


def test_operations_of_targets() -> None:
    """Said in the file, or what the kind is known for: chat, bare text too where such servers continue it, embeddings never."""
    plans = build_plans(settings(), nothing)
    assert plans[0].targets[0].operations == {"chat", "completion"}
    named = parse(BASE.replace("model: unpriced", "model: unpriced, operations: [embedding]") % "block", "f", {})
    assert build_plans(named, nothing)[1].targets[0].operations == {"embedding"}


def test_a_listing_without_a_price_of_output_is_for_embeddings() -> None:
    """What only reads writes nothing that could cost; for everything else the price is unknown."""
    listing = Listing({"input": "1"}, 8192, "some catalogue 1")
    assert build_plans(settings(), lambda *words: listing)[1].targets[0].price is None
    named = parse(BASE.replace("model: unpriced", "model: unpriced, operations: [embedding]") % "block", "f", {})
    price = build_plans(named, lambda *words: listing)[1].targets[0].price
    assert price is not None
    assert (price.input, price.output) == (10**10, 0)


def test_embedded_engines_cost_nothing() -> None:
    """Unless the operator puts a price on them."""
    price = build_plans(settings(), nothing)[2].targets[0].price
    assert price is not None
    assert price.output == 0


@pytest.mark.parametrize(("said", "window"), [("", 2048), (", context_window: 512", 512), (", context_window: 90000", 2048)])
def test_the_context_of_an_embedded_engine(said: str, window: int) -> None:
    """What its file says, or less where the operator says so: what its host will give a call; and its answers just end there."""
    target = build_plans(parse(BASE.replace("path: builtin", f"path: builtin{said}") % "block", "f", {}), nothing)[2].targets[0]
    assert (target.context_window, target.ends_at_context) == (window, True)


def test_the_context_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Unknown, or what the operator says: the rest of the models is served all the same."""
    for content in (None, b"GGUF\x03\0\0\0 and then nothing of use"):
        path = tmp_path / "m.gguf"
        if content is not None:
            path.write_bytes(content)
        for said, window in (("", None), (", context_window: 512", 512)):
            text = BASE.replace("path: builtin", f'path: "{path}"{said}') % "block"
            assert build_plans(parse(text, "f", {}), nothing)[2].targets[0].context_window == window


def test_the_digest_follows_every_change() -> None:
    """Equal settings, equal digests; any change of a plan or its guard, another digest."""
    first = [plan.digest for plan in build_plans(settings(), nothing)]
    assert first == [plan.digest for plan in build_plans(settings(), nothing)]
    changed = parse(BASE.replace("name: c", "name: c\n    guard: {output: block}") % "block", "f", {})
    second = [plan.digest for plan in build_plans(changed, nothing)]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False]


RELIABLE = """
providers:
  - {name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:8000/v1", health: {interval: 5}}
models:
  - name: a
    policy: session
    session_header: x-session-id
    retries: 2
    hedge: {quantile: 0.95, after: 0.2, share: 0.02}
    cache: {ttl: 60}
    ladder: {stale: 3600, text: "later"}
    targets:
      - {provider: lab, model: one, breaker: {failures: 3, open: 0.5, rest: 10}}
      - {provider: lab, model: two, breaker: {enabled: false}}
    fallbacks: [b, c]
  - name: b
    targets: [{provider: lab, model: three}]
  - name: c
    targets: [{engine: llamacpp, path: builtin}]
"""


def test_what_is_done_about_failures_is_in_the_plan() -> None:
    """Breakers, policy, retries, hedge and ladder as the file says; a fallback's target knows what it stands for, and is an ordinary
    target of its own model."""
    plans = {plan.model: plan for plan in build_plans(parse(RELIABLE, "f", {}), nothing)}
    plan = plans["a"]
    assert (plan.policy, plan.session_header, plan.retries) == ("session", "x-session-id", 2)
    assert (plan.hedge, plan.ladder) == (Hedge(0.2, 0.95, 0.02), Ladder(3600.0, "later"))
    assert plan.targets[0].breaker == Breaker(failures=3, open=0.5, rest=10.0)
    assert not plan.targets[1].breaker.enabled
    assert [target.rung for target in plan.everywhere] == ["target", "target", "model", "embedded"]
    assert [plans[name].targets[0].rung for name in "bc"] == ["target", "target"]


def test_a_model_that_is_not_listed_has_the_catalogues_price() -> None:
    """Its target is the provider's as a whole: no caller's word becomes a label, and nobody shuts out others by asking in vain."""
    open_one = parse("providers:\n  - {name: o, kind: openai, api_key: x, passthrough: [gpt-5*], forward: {user: hash}}\n", "f", {})
    plan = unlisted_plan(open_one, "o/gpt-5-mini", lookup)
    assert plan is not None
    (target,) = plan.targets
    assert (plan.model, plan.label, target.id, target.model) == ("o/gpt-5-mini", "o/*", "o/*", "gpt-5-mini")
    assert target.price is not None
    assert target.price.snapshot.startswith("genai-prices:")
    assert not target.breaker.enabled
    assert (target.forward.user, plan.remote_urls) == ("hash", "refuse")
    other = unlisted_plan(open_one, "o/gpt-5", lookup)
    assert other is not None
    assert other.digest != plan.digest
    assert unlisted_plan(open_one, "o/gpt-4", lookup) is None
    assert unlisted_plan(settings(), "lab/x", lookup) is None


def test_an_alias_changes_no_digest() -> None:
    """Cached answers stay good when a model gets another name."""
    text = BASE % "block"
    named = parse(text.replace("  - name: b", "    aliases: [quick]\n  - name: b"), "f", {})
    before, after = build_plans(settings(), nothing)[0], build_plans(named, nothing)[0]
    assert (after.aliases, after.digest) == (("quick",), before.digest)


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        ("kind: openai", ADVICE),
        ("kind: azure-openai, base_url: 'https://a.openai.azure.com'", ADVICE),
        ("kind: azure-openai, base_url: 'https://a.openai.azure.com', api_version: '2024-10-21'", set()),
        ("kind: openai-compatible, base_url: 'http://127.0.0.1:8000/v1'", {"store", "safety_identifier", "prompt_cache_key", "verbosity"}),
        ("kind: openai-compatible, base_url: 'http://127.0.0.1:8000/v1', profile: vllm", set()),
        ("kind: mistral", {"prompt_cache_key"}),
        ("kind: openrouter", {"verbosity"}),
        ("kind: anthropic", set()),
        ("kind: cohere", set()),
    ],
)
def test_advice_is_told_to_who_knows_it(provider: str, told: set[str]) -> None:
    """What only advises goes to servers that are known to take the field; all others are asked the same without it."""
    text = f"""
providers: [{{name: lab, {provider}}}]
models: [{{name: a, targets: [{{provider: lab, model: m, price: {{input: "1", output: "1"}}}}]}}]
"""
    assert build_plans(parse(text, "f", {}), nothing)[0].targets[0].advice == told
