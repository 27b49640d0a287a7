"""The Airflow DAG `spark_partitions_and_rollups`: daily maintenance, for those who run their schedules in Airflow.

Its one task is `slate maintain`, the same that the systemd timer runs. The database is that of the Airflow connection
`spark_pg_primary`; `SLATE_BIN` names the program where `slate` is not on the path of the workers, and the stream and
what is kept how long come from the environment of the workers. The password goes through the environment of the
command, never through its arguments.
"""

import os
import subprocess
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.bases.hook import BaseHook

CONNECTION = "spark_pg_primary"


@task(task_id="maintain", retries=3, retry_delay=timedelta(minutes=5), execution_timeout=timedelta(hours=2))
def maintain() -> None:
    """Run `slate maintain` on the database of the connection; its output is the task's log."""
    connection = BaseHook.get_connection(CONNECTION)
    told = {
        "SLATE_DB_HOST": connection.host,
        "SLATE_DB_PORT": str(connection.port or 5432),
        "SLATE_DB_NAME": connection.schema,
        "SLATE_DB_USER": connection.login,
        "SLATE_DB_PASSWORD": connection.password,
    }
    environment = os.environ | {name: value for name, value in told.items() if value}
    subprocess.run([os.environ.get("SLATE_BIN", "slate"), "maintain"], env=environment, check=True)  # noqa: S603


@dag(
    dag_id="spark_partitions_and_rollups",
    description="Months of spark_events ahead, retention, audit of yesterday's rollups",
    schedule="20 0 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["spark", "slate"],
)
def spark_partitions_and_rollups() -> None:
    """One task; retention and audit are in the program."""
    maintain()


spark_partitions_and_rollups()
