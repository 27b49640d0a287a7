"""The shape of every row that ingest writes: its columns in order and their types.

The statements are in `sql/ingest/`, and say what becomes of a row whose key exists.
"""

from operator import itemgetter
from typing import Final

from connectors.arrays import BIGINT, INTEGER, JSON, LABEL, TEXT, TIMESTAMP, UUID
from connectors.tables import Table

SESSIONS: Final = "spark_sessions"
EVENTS: Final = "spark_events"
FUNCTION_CALLS: Final = "spark_function_calls"
TELEMETRY: Final = "spark_telemetry"
USAGE: Final = "spark_usage"
PREVIEWS: Final = "spark_previews"
GENERATED_SCRIPTS: Final = "spark_generated_scripts"
BUILD_JOBS: Final = "spark_build_jobs"

TABLES: Final = (
    Table(
        SESSIONS,
        {
            "session_id": LABEL,
            "connected_at": TIMESTAMP,
            "disconnected_at": TIMESTAMP,
            "user_id": UUID,
            "model": LABEL,
            "mode": LABEL,
            "meta": JSON,
        },
        key=itemgetter(1),
        shared=True,
    ),
    Table(
        EVENTS,
        {
            "session_id": LABEL,
            "type": LABEL,
            "ts": TIMESTAMP,
            "user_id": UUID,
            "project_id": UUID,
            "payload": JSON,
        },
        month_of="ts",
    ),
    Table(
        FUNCTION_CALLS,
        {
            "session_id": LABEL,
            "call_id": TEXT,
            "name": LABEL,
            "ts": TIMESTAMP,
            "duration_ms": INTEGER,
            "status": LABEL,
            "error": TEXT,
            "args": JSON,
            "output": JSON,
            "user_id": UUID,
            "project_id": UUID,
            "seq": BIGINT,
        },
        key=itemgetter(1, 2),
    ),
    Table(TELEMETRY, {"session_id": LABEL, "kind": LABEL, "ts": TIMESTAMP, "data": JSON}),
    Table(
        USAGE,
        {
            "session_id": LABEL,
            "ts": TIMESTAMP,
            "model": LABEL,
            "tokens_prompt": INTEGER,
            "tokens_completion": INTEGER,
            "cost_estimate": TEXT,
            "user_id": UUID,
        },
    ),
    Table(
        PREVIEWS,
        {
            "session_id": LABEL,
            "engine": LABEL,
            "ts": TIMESTAMP,
            "status": LABEL,
            "frame_ref": TEXT,
            "meta": JSON,
        },
    ),
    Table(
        GENERATED_SCRIPTS,
        {
            "session_id": LABEL,
            "script_name": TEXT,
            "script_content": TEXT,
            "prompt": TEXT,
            "created_at": TIMESTAMP,
        },
    ),
    Table(
        BUILD_JOBS,
        {"id": TEXT, "session_id": LABEL, "build_target": LABEL, "status": LABEL, "ts": TIMESTAMP},
        key=itemgetter(1),
        shared=True,
    ),
)
"""Everything that ingest writes to `public`, in the order in which it is written."""
