"""What `slate migrate` does: the schema in PostgreSQL, then the stream in NATS."""

import asyncio
from collections.abc import Iterator

from connectors.jetstream import ensure_stream
from connectors.schema import migrate
from connectors.settings import Settings


def migrate_all(settings: Settings) -> Iterator[str]:
    """Bring schema and stream up to date, and say what was done, step by step.

    Raises:
        SlateError: a server cannot be reached, or what is there contradicts the settings.
    """
    applied = migrate(settings)
    yield f"Schema: applied {', '.join(applied)}" if applied else "Schema: up to date"
    info = asyncio.run(ensure_stream(settings))
    yield (
        f"Stream {settings.stream}: {settings.partitions} partition{'s' * (settings.partitions > 1)}, "
        f"{info.state.messages:,} messages"
    )
