"""What made-up usage costs, in US dollars and exactly.

The list is what the models cost in November 2026, in dollars for a million tokens. It prices simulated and
replayed traffic only: what a real session costs is for the publisher of that session to say.
"""

from decimal import Decimal

_PER_MILLION = {
    "gpt-realtime-2.1": ("4", "24"),
    "gpt-realtime-2.1-mini": ("0.6", "2.4"),
    "gpt-realtime-2": ("4", "24"),
    "gpt-realtime-1.5": ("4", "16"),
}
_MICRODOLLARS = {model: (Decimal(prompt), Decimal(done)) for model, (prompt, done) in _PER_MILLION.items()}
_SIX_PLACES = Decimal("0.000001")

MODELS = tuple(_PER_MILLION)
"""Models that have a price."""


def cost(model: str, prompt: int, completion: int) -> Decimal:
    """Dollars for these tokens, in six places as `spark_usage.cost_estimate` keeps them.

    Raises:
        KeyError: the model is not one of `MODELS`.
    """
    per_prompt, per_completion = _MICRODOLLARS[model]
    return ((per_prompt * prompt + per_completion * completion) * _SIX_PLACES).quantize(_SIX_PLACES)
