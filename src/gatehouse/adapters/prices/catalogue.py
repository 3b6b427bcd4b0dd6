"""The price catalogue: genai-prices, as shipped in its wheel. It is never updated over the network."""

import re
from datetime import datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Final

import msgspec
from genai_prices.data import providers
from genai_prices.types import ModelPrice, Provider, TieredPrices

_OF_BUCKET: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
}


class Listing(msgspec.Struct, frozen=True):
    """What the catalogue says: decimal strings of USD per million tokens by bucket, the context window, and its source.

    Models that only read, as those that make embeddings, have no price of output.
    """

    prices: dict[str, str]
    context_window: int | None
    source: str


class PriceCatalogue:
    """Looks models up by provider kind or API address."""

    def find(self, kind: str, base_url: str | None, model: str, at: datetime) -> Listing | None:
        """The listing in force at `at`, or None when the catalogue does not know the model at this provider.

        Where a price rises with the length of the prompt, the dearest tier is taken: a charge may then be too high,
        never too low; write the price into the target to have it otherwise.
        """
        provider = self._provider(kind, base_url)
        if provider is None:
            return None
        info = provider.find_model(model, all_providers=providers)
        if info is None:
            return None
        listed = _listed(info.get_prices(at))
        if "input" not in listed:
            return None
        return Listing(listed, info.context_window, f"genai-prices {version('genai-prices')} {provider.id}/{info.id}")

    @staticmethod
    def _provider(kind: str, base_url: str | None) -> Provider | None:
        if base_url is not None:
            return next((provider for provider in providers if re.match(provider.api_pattern, base_url)), None)
        return next((provider for provider in providers if provider.id == kind), None)


def _listed(price: ModelPrice) -> dict[str, str]:
    figures: dict[str, Any] = vars(price)
    listed = {bucket: _dearest(figures[key]) for bucket, key in _OF_BUCKET.items() if figures.get(key) is not None}
    return {bucket: format(figure, "f") for bucket, figure in listed.items()}


def _dearest(price: Decimal | TieredPrices) -> Decimal:
    if isinstance(price, TieredPrices):
        return max(price.base, *(tier.price for tier in price.tiers))
    return price
