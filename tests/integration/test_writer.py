"""What the writer does when PostgreSQL is slow or refuses."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from connectors.postgres import Progress
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from connectors.stream_state import StreamState
from connectors.writer import Writer
from flows.rows import TABLES
from flows.validate import refused_by_store, validate
from tests.support.messages import STREAM, batch, message
from tests.support.stack import connect

SLOW_ROWS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON spark_usage FOR EACH ROW EXECUTE FUNCTION slow()
"""


def test_a_batch_that_takes_longer_than_the_time_out_is_written_in_parts_and_no_row_is_blamed(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(db_statement_timeout_s=0.5)
    Progress(settings).start(0, StreamState(STREAM, datetime(2026, 3, 1, tzinfo=UTC), 1, 0))
    those = batch(*[message(f"spark.usage.{number}", {"model": "m"}) for number in range(100)])
    with (
        connect(settings) as connection,
        closing(Writer(settings, TABLES, validate, refused_by_store, Shutdown())) as writer,
    ):
        connection.execute(SLOW_ROWS)
        assert writer.write([validate(those)]) == []
        assert connection.execute("SELECT count(*), count(DISTINCT session_id) FROM spark_usage").fetchone() == (
            100,
            100,
        )
        assert connection.execute("SELECT read, stored FROM slate.progress").fetchone() == (100, 100)
