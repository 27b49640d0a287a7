"""Prices of made-up usage are those that real usage is priced by."""

import pytest

from realtime.prices import MODELS, cost
from realtime.usage import Usage, cost_of


@pytest.mark.parametrize("model", MODELS)
def test_made_up_usage_costs_what_real_usage_costs(model: str) -> None:
    assert cost(model, 1_000_000, 1_000_000) == cost_of(model, Usage(1_000_000, 1_000_000))
    assert cost(model, 1_000_000, 0) == cost_of(model, Usage(1_000_000, 0))
