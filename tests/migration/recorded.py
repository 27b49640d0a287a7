"""The schema that the migrations make, as pg_dump tells it; `python -m tests.migration.recorded` records it anew."""

import re
import secrets
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from connectors.schema import migrate
from connectors.settings import Settings
from deploy.processes import variables
from deploy.servers import PostgresServer

RECORDED = Path(__file__).parents[2] / "sql" / "schema.sql"
_HEAD = "-- The schema that the migrations make, for reading. `make schema` writes it, and a test compares.\n\n"
_PASSING = re.compile(r"^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)\n", re.MULTILINE)


def dump(postgres: PostgresServer, settings: Settings) -> str:
    """The schema of a database, without month partitions, the migration tool's tables, owners and versions."""
    text = subprocess.run(
        [
            postgres.binaries / "pg_dump",
            *("--schema-only", "--no-owner", "--no-privileges"),
            *("--exclude-table=public.spark_events_20*", "--exclude-table=slate._yoyo*"),
        ],
        env={
            "PGHOST": str(settings.db_host),
            "PGPORT": str(settings.db_port),
            "PGDATABASE": settings.db_name,
            "PGUSER": settings.db_user,
            "PGPASSWORD": settings.db_password.get_secret_value() if settings.db_password else "",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return _HEAD + re.sub(r"\n{3,}", "\n\n", _PASSING.sub("", text)).strip() + "\n"


def main() -> None:
    """Migrate an empty database, and write what it is then."""
    with TemporaryDirectory(prefix="slate-schema-") as directory:
        postgres = PostgresServer(Path(directory), password=secrets.token_hex(16))
        postgres.start()
        try:
            environment = postgres.environment()
            fields = {name: environment[one] for name, one in variables().items() if one in environment}
            settings = Settings.load(local=False, **fields)
            migrate(settings)
            RECORDED.write_text(dump(postgres, settings))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
