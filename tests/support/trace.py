"""A real trace of requests to a language model, read where it is: it is not ours to copy."""

from pathlib import Path
from typing import Final

import pytest

TRACE: Final = Path(__file__).parents[3] / "shared" / "data" / "azure-llm-2023" / "code.csv"

needs_trace: Final = pytest.mark.skipif(
    not TRACE.exists(), reason="the trace is not ours to copy, and ../shared/data is not beside this clone"
)
"""Skips a test where the trace is not (a failure under CI)."""
