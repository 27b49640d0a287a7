"""What `slate migrate` does: the schema in PostgreSQL, then the stream in NATS."""

import asyncio
from collections.abc import Iterator

import nats.errors
import nats.js.errors

from connectors.jetstream import connect, ensure_stream
from connectors.postgres import Progress
from connectors.schema import migrate
from connectors.settings import Settings
from connectors.stream_state import StreamState, stream_state


def migrate_all(settings: Settings) -> Iterator[str]:
    """Bring schema and stream up to date, and say what was done, step by step.

    Raises:
        SlateError: a server cannot be reached, or what is there contradicts the settings.
    """
    applied = migrate(settings)
    yield f"Schema: applied {', '.join(applied)}" if applied else "Schema: up to date"
    before = asyncio.run(_before(settings))
    if before is not None:
        Progress(settings).begin(before)  # else workers would look for what left the stream before
    info = asyncio.run(ensure_stream(settings))
    yield (
        f"Stream {settings.stream}: {settings.partitions} partition{'s' * (settings.partitions > 1)}, "
        f"{info.state.messages:,} messages"
    )


async def _before(settings: Settings) -> StreamState | None:
    """The stream as it is, None where there is none."""
    client = await connect(settings, "slate-migrate")
    try:
        return await stream_state(client.jetstream(timeout=5), settings.stream)
    except (nats.js.errors.Error, nats.errors.Error, TimeoutError):
        return None  # where there should be one, `ensure_stream` says what to do
    finally:
        await client.close()
