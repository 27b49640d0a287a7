"""The DAG in a real Airflow, in an environment of its own: too large to be installed by `make test`."""

import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from connectors.settings import Settings
from tests.support.run import run
from tests.support.stack import connect

AIRFLOW = "apache-airflow>=3.3,<4"
DAGS = Path(__file__).parents[2] / "deploy" / "airflow"


@pytest.fixture
def airflow(tmp_path: Path) -> Path:
    """The program, of the environment that SLATE_TEST_AIRFLOW names, else of a new one."""
    given = os.environ.get("SLATE_TEST_AIRFLOW")
    directory = Path(given) if given else tmp_path / "airflow"
    if not given:
        run([sys.executable, "-m", "venv", directory])
        result = run([directory / "bin" / "pip", "install", "--quiet", AIRFLOW], timeout=540)
        if result.returncode:
            pytest.skip(f"Airflow cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
    return directory / "bin" / "airflow"


@pytest.mark.chaos
def test_the_dag_maintains_the_database_of_its_connection(settings: Settings, airflow: Path, tmp_path: Path) -> None:
    password = settings.db_password.get_secret_value() if settings.db_password else ""
    environment = {
        "PATH": os.environ["PATH"],
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW_CONN_SPARK_PG_PRIMARY": (
            f"postgresql://{settings.db_user}:{quote(password)}@{settings.db_host}:{settings.db_port}/{settings.db_name}"
        ),
        "SLATE_BIN": str(Path(sys.executable).parent / "slate"),
        "SLATE_STREAM": settings.stream,
    }
    with connect(settings) as connection:
        names = "SELECT relname FROM pg_class WHERE relname ~ '^spark_events_[0-9]{4}_[0-9]{2}$' ORDER BY 1 DESC"
        ahead = connection.execute(names).fetchall()
        connection.execute(f"DROP TABLE {ahead[0][0]}".encode())
        assert run([airflow, "db", "migrate"], environment=environment, timeout=300).returncode == 0
        result = run([airflow, "dags", "test", "spark_partitions_and_rollups"], environment=environment, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        assert connection.execute(names).fetchall() == ahead
        if password:
            assert password not in result.stdout + result.stderr
