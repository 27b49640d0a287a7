"""What a PostgreSQL error means for a batch, by its SQLSTATE (PostgreSQL manual, appendix A). Never by its text."""

from enum import Enum
from typing import Final

import psycopg
from psycopg import errors


class Fault(Enum):
    """What to do about it."""

    RETRY = "retry"
    """The server or the connection: wait, connect again, try again."""
    DATA = "data"
    """Something in the batch: halve it until the row stands alone."""
    DUPLICATE = "duplicate"
    """An identity of the batch is stored already."""
    TIMEOUT = "timeout"
    """The batch took too long: halve it, but blame no row."""
    FENCED = "fenced"
    """Another worker moved a partition on."""
    FATAL = "fatal"
    """The schema or our permissions: nothing that waiting mends."""


FENCED: Final = "SL001"
"""Raised by `slate.advance`."""

_SINGLE: Final = {FENCED: Fault.FENCED, "57014": Fault.TIMEOUT}
_DATA_CLASSES: Final = ("21", "22", "23", "54")
_FATAL_CLASSES: Final = ("0A", "2F", "3D", "3F", "42", "28")


def classify(error: psycopg.Error) -> Fault:
    """The fault behind an error; anything unknown is retried, for nothing is lost by waiting."""
    state = error.sqlstate
    if state is None:
        return Fault.DATA if isinstance(error, errors.DataError) else Fault.RETRY
    if state in _SINGLE:
        return _SINGLE[state]
    if isinstance(error, errors.UniqueViolation) and error.diag.table_name == "event_ids":
        return Fault.DUPLICATE
    if state.startswith(_DATA_CLASSES):
        return Fault.DATA
    if state.startswith(_FATAL_CLASSES):
        return Fault.FATAL
    return Fault.RETRY
