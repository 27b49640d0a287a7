"""What was read of one history of the database is not counted in another."""

from datetime import UTC, datetime

import pytest

from connectors.errors import FencedError
from connectors.history import History
from connectors.messages import NatsSourceMessage
from connectors.rollups import RollupWriter
from connectors.settings import Settings
from connectors.shutdown import Shutdown
from flows.fold import fold_up
from tests.support.rollups import USAGE_LABELS, Pipeline, counted, pipeline
from tests.support.stack import connect

TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"


def writes_with(pipe: Pipeline, history: History) -> None:
    pipe.rollups = RollupWriter(pipe.settings, Shutdown(), lambda sums: fold_up(sums, USAGE_LABELS), history)
    try:
        pipe.count([(0, 10)])
    finally:
        pipe.rollups.close()


def test_what_was_seen_of_another_history_is_not_counted(settings: Settings) -> None:
    with connect(settings) as connection, pipeline(settings, 1) as pipe:
        now_ns = int(datetime.now(UTC).timestamp() * 1e9)
        for number in range(10):
            pipe.publish(0, NatsSourceMessage("spark.delta.s", b'{"type":"delta","delta":{}}', number, now_ns, b""))
        pipe.ingest(0, 10)
        other, this = History(), History()
        other.read_from("0000FFFF")
        (timeline,) = connection.execute(TIMELINE).fetchone() or ("",)
        this.read_from(timeline)
        with pytest.raises(FencedError, match="gone back"):
            writes_with(pipe, other)
        assert counted(connection) == 0
        pipe._counted = [0]  # as a worker that begins anew
        writes_with(pipe, this)
        assert counted(connection) == 10
        assert pipe.differences() == []


def test_a_second_history_is_refused() -> None:
    history = History()
    history.read_from("00000001")
    history.read_from("00000001")
    with pytest.raises(FencedError, match=r"timeline 00000002, before 00000001"):
        history.read_from("00000002")
    assert history.timeline == "00000001"
