"""Reads statements from `sql/`, where all SQL lives."""

from functools import cache
from importlib.resources import files


@cache
def read(path: str) -> str:
    """The text of a file below `sql/`."""
    return files("sql").joinpath(path).read_text("utf-8")
