"""What a response used, and what that costs, exactly.

Prices are those of the library genai-prices, by date; arithmetic is decimal. Cached tokens are part of their modality
and reasoning is part of output text, so neither is added again. A model that the library does not know is unpriced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

from genai_prices import Usage as PricedUsage
from genai_prices import calc_price


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response."""

    input: int
    """All that the model read."""
    output: int
    """All that it wrote, reasoning included."""
    cached: int = 0
    """Those of the input that were cached."""
    input_audio: int = 0
    output_audio: int = 0
    cached_audio: int = 0
    input_image: int = 0
    cached_image: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> Self:
        """Read the `usage` of a `response.done`. What it does not tell is 0."""
        read = usage.get("input_token_details") or {}
        cached = read.get("cached_tokens_details") or {}
        written = usage.get("output_token_details") or {}
        return cls(
            input=int(usage.get("input_tokens") or 0),
            output=int(usage.get("output_tokens") or 0),
            cached=int(read.get("cached_tokens") or 0),
            input_audio=int(read.get("audio_tokens") or 0),
            output_audio=int(written.get("audio_tokens") or 0),
            cached_audio=int(cached.get("audio_tokens") or 0),
            input_image=int(read.get("image_tokens") or 0),
            cached_image=int(cached.get("image_tokens") or 0),
            reasoning=int(written.get("reasoning_tokens") or 0),
        )

    @property
    def total(self) -> int:
        """What counts against a quota."""
        return self.input + self.output


def cost_of(model: str, usage: Usage, at: datetime | None = None) -> Decimal | None:
    """US dollars for a response at a time (now); None if the model has no price."""
    priced = PricedUsage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached,
        input_audio_tokens=usage.input_audio,
        output_audio_tokens=usage.output_audio,
        cache_audio_read_tokens=usage.cached_audio,
        input_image_tokens=usage.input_image,
        cache_image_read_tokens=usage.cached_image,
    )
    try:
        return calc_price(
            priced, model_ref=model, provider_id="openai", genai_request_timestamp=at or datetime.now(UTC)
        ).total_price
    except LookupError:
        return None
