from difflib import unified_diff

from connectors.settings import Settings
from deploy.servers import PostgresServer
from tests.migration.recorded import RECORDED, dump


def test_the_migrations_make_the_recorded_schema(postgres: PostgresServer, settings: Settings) -> None:
    recorded, made = RECORDED.read_text(), dump(postgres, settings)
    difference = "".join(unified_diff(recorded.splitlines(True), made.splitlines(True), "recorded", "made", n=1))
    assert not difference, f"run `make schema`, and see whether this is what you meant:\n{difference}"
