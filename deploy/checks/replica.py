"""The replica that reads go to, and the slot that keeps the primary's log for it."""

from collections.abc import Iterator
from typing import Final

import psycopg

from connectors.errors import SlateError
from connectors.settings import Settings
from connectors.sql import read
from deploy.checks.postgres import connect_postgres, query
from deploy.checks.row import Check, first_line, size

SLOT_WARN: Final = 1 << 30
"""Bytes of the log that a slot without a reader may keep before it is reported."""


def check_replica(settings: Settings) -> Iterator[Check]:
    """Whether the replica answers and follows; whether a slot fills the primary's disk."""
    try:
        with connect_postgres(settings) as primary:
            (here,) = primary.execute(read("queries/primary_position.sql").encode()).fetchall()
            slots = query(primary, "slots") if here["position"] is not None else []
    except (SlateError, psycopg.Error):
        return  # said elsewhere
    for slot in slots:
        state = "fail" if slot["state"] in ("unreserved", "lost") else "warn" if slot["bytes"] > SLOT_WARN else "ok"
        if state != "ok":
            yield Check(
                f"slot {slot['slot']}",
                "fail" if state == "fail" else "warn",
                f"nobody reads from it; it keeps {size(slot['bytes'])} of the log ({slot['state']})",
                "start its replica, or drop the slot: SELECT pg_drop_replication_slot('NAME')",
            )
    if settings.db_replica_host is None:
        return
    remedy = "check SLATE_DB_REPLICA_HOST and SLATE_DB_REPLICA_NAME, and that it runs; reads go to the primary"
    try:
        with connect_postgres(settings, replica=True) as replica:
            (there,) = replica.execute(read("queries/replica_position.sql").encode()).fetchall()
    except psycopg.Error as error:
        yield Check("replica", "warn", first_line(error), remedy)
        return
    if there["position"] is None:
        yield Check("replica", "warn", "it is no standby, or does not replay", remedy)
        return
    behind = max(0, (here["position"] or 0) - there["position"])
    late = behind > 0 and (there["age_s"] or 0.0) > settings.replica_max_lag_s
    if late:
        found = f"{size(behind)} and {there['age_s']:,.0f} s behind"
        yield Check("replica", "warn", found, "see its log and the disk and network between; reads go to the primary")
    else:
        yield Check("replica", "ok", f"{size(behind)} behind")
