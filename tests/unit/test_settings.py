"""The environment: names, precedence, what an error tells, and what is never told."""

import pickle
import traceback
from pathlib import Path

import pytest

from connectors.errors import ConfigurationError
from connectors.jetstream import partitions_to_read
from connectors.settings import Settings
from deploy.processes import variables

CONTRACT = {
    "SLATE_DB_HOST": ("db_host", "db.example"),
    "SLATE_DB_REPLICA_HOST": ("db_replica_host", "replica.example"),
    "SLATE_DB_PORT": ("db_port", 6543),
    "SLATE_DB_NAME": ("db_name", "other"),
    "SLATE_DB_USER": ("db_user", "someone"),
    "REDIS_HOST": ("redis_host", "redis.example"),
    "REDIS_PORT": ("redis_port", 6380),
    "UNITY_MCP_URL": ("unity_mcp_url", "https://unity.example/mcp"),
    "SPARK_SONNET_MODE": ("mode", "creative"),
}
SECRET = "hunter2-of-the-test"


def write_local(text: str, directory: Path = Path(".slate")) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "env").write_text(text)


@pytest.mark.parametrize(("variable", "told"), CONTRACT.items(), ids=CONTRACT)
def test_the_contracts_variables_are_read(
    variable: str, told: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    field, value = told
    monkeypatch.setenv(variable, str(value))
    assert getattr(Settings.load(), field) == value


def test_every_variable_is_the_contracts_or_begins_with_slate() -> None:
    names = set(variables().values())
    secret = {"NATS_URL", "SLATE_DB_PASSWORD", "UNITY_MCP_TOKEN", "OPENAI_REALTIME_API_KEY"}
    assert names >= {*CONTRACT, *secret}
    known = {*CONTRACT, *secret, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"}
    assert all(name in known or name.startswith("SLATE_") for name in names)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_without_any_setting_there_are_defaults_but_no_servers() -> None:
    settings = Settings.load()
    assert (settings.db_port, settings.db_name, settings.stream, settings.partitions) == (5432, "spark", "SPARK", 8)
    assert (settings.db_host, settings.nats_url, settings.redis_host) == (None, None, None)
    with pytest.raises(ConfigurationError, match=r"SLATE_DB_HOST.*slate up"):
        settings.dsn()
    with pytest.raises(ConfigurationError, match=r"NATS_URL.*slate up"):
        settings.nats_servers()


def test_the_environment_is_stronger_than_env_and_that_than_what_slate_up_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_local("SLATE_STREAM=FROM_UP\nSLATE_PARTITIONS=2\nSLATE_DB_NAME=from_up\nREDIS_HOST=from-up\n")
    Path(".env").write_text("SLATE_STREAM=FROM_FILE\nSLATE_PARTITIONS=3\nSLATE_DB_NAME=from_file\n")
    monkeypatch.setenv("SLATE_STREAM", "FROM_ENVIRONMENT")
    monkeypatch.setenv("SLATE_PARTITIONS", "4")
    settings = Settings.load(partitions=5)
    assert settings.partitions == 5
    assert settings.stream == "FROM_ENVIRONMENT"
    assert settings.db_name == "from_file"
    assert settings.redis_host == "from-up"


def test_what_slate_up_wrote_can_be_left_out() -> None:
    write_local("SLATE_DB_HOST=from-up\n")
    assert Settings.load().db_host == "from-up"
    assert Settings.load(local=False).db_host is None


@pytest.mark.parametrize("how", ["environment", ".env"])
def test_the_directory_of_slate_up_may_be_elsewhere(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_local("SLATE_DB_HOST=from-up\n", Path("elsewhere"))
    if how == "environment":
        monkeypatch.setenv("SLATE_DIR", "elsewhere")
    else:
        Path(".env").write_text("SLATE_DIR=elsewhere\n")
    assert Settings.load().db_host == "from-up"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SLATE_DB_HOST=from-file\n")
    monkeypatch.setenv("SLATE_DB_HOST", "")
    monkeypatch.setenv("SLATE_PARTITIONS", "")
    settings = Settings.load()
    assert (settings.db_host, settings.partitions) == ("from-file", 8)


def test_variables_of_others_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIR", "STREAM", "PARTITIONS", "DB_HOST", "DB_PORT", "LOG_LEVEL", "METRICS_PORT"):
        monkeypatch.setenv(name, "nonsense")
    Path(".env").write_text("DIR=nonsense\nPORT=1\nUNKNOWN=2\nNEXT_PUBLIC_NATS_URL=ws://x\n")
    assert Settings.load() == Settings.load(dir=Path(".slate"))
    assert Settings.load().db_host is None


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("SLATE_DB_PORT", "five", "valid integer"),
        ("SLATE_DB_PORT", "70000", "65535"),
        ("REDIS_PORT", "0", "1"),
        ("NATS_URL", "http://nats:4222", "nats://"),
        ("NATS_URL", "nats://one:4222, two:4222", "nats://"),
        ("SLATE_STREAM", "SPARK.EVENTS", "pattern"),
        ("SLATE_PARTITIONS", "0", "1"),
        ("SLATE_BATCH_MESSAGES", "-1", "1"),
        ("SLATE_LOG_FORMAT", "xml", "console"),
        ("SLATE_DB_STATEMENT_TIMEOUT", "0", "0"),
    ],
)
def test_an_error_names_the_variable_and_what_it_should_be(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    line = next(line for line in str(caught.value).splitlines() if variable in line)
    assert reason in line


def test_an_error_tells_of_every_wrong_variable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_DB_PORT", "five")
    monkeypatch.setenv("SLATE_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError, match=r"(?s)SLATE_DB_PORT.*SLATE_LOG_LEVEL"):
        Settings.load()


def test_secrets_are_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_DB_HOST", "db.example")
    monkeypatch.setenv("SLATE_DB_PASSWORD", SECRET)
    monkeypatch.setenv("NATS_URL", f"nats://user:{SECRET}@nats.example:4222")
    Path("of-redis").write_text(f"{SECRET}\n")
    monkeypatch.setenv("SLATE_REDIS_PASSWORD_FILE", "of-redis")
    settings = Settings.load()
    for text in (repr(settings), str(settings), f"{settings}", settings.model_dump_json(), str(settings.model_dump())):
        assert SECRET not in text
    assert settings.dsn()["password"] == SECRET
    assert SECRET in settings.nats_servers()[0]
    assert settings.redis_login()["password"] == SECRET


def test_a_wrong_value_of_a_secret_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", f"user:{SECRET}@nats.example")
    monkeypatch.setenv("SLATE_DB_PORT", SECRET)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    error = caught.value
    for text in (str(error), repr(error), "".join(traceback.format_exception(error)), str(pickle.dumps(error))):
        assert SECRET not in text


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().db_port = 1


def test_a_connection_string_takes_what_is_added_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_DB_HOST", "db.example")
    dsn = Settings.load().dsn(application_name="slate-test")
    assert dsn["application_name"] == "slate-test"
    assert "password" not in dsn


def test_several_nats_servers_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://one:4222, tls://two:4222")
    assert Settings.load().nats_servers() == ["nats://one:4222", "tls://two:4222"]


@pytest.mark.parametrize(
    "field", [name for name in Settings.model_fields if "Secret" in repr(Settings.model_fields[name].annotation)]
)
def test_every_secret_may_be_in_a_file(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = variables()[field]
    value = "https://whsec.example/x" if "url" in field and "nats" not in field else "nats://c2VjcmV0LW9mLXRoZS10ZXN0"
    value = value if "url" in field else "c2VjcmV0LW9mLXRoZS10ZXN0"
    Path("secret").write_text(f"{value}\n")
    monkeypatch.setenv(f"{variable}_FILE", "secret")
    assert getattr(Settings.load(), field).get_secret_value() == value


def test_a_file_of_a_stronger_source_hides_the_value_of_a_weaker_one_and_the_other_way_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("secret").write_text("of-the-file")
    Path(".env").write_text("SLATE_DB_HOST=db\nSLATE_DB_PASSWORD=weaker\nSLATE_REDIS_PASSWORD_FILE=missing\n")
    monkeypatch.setenv("SLATE_DB_PASSWORD_FILE", "secret")
    monkeypatch.setenv("SLATE_REDIS_PASSWORD", "stronger")
    settings = Settings.load()
    assert settings.dsn()["password"] == "of-the-file"
    assert settings.redis_login()["password"] == "stronger"


def test_a_secret_that_is_set_twice_or_cannot_be_read_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_DB_PASSWORD_FILE", "missing")
    with pytest.raises(ConfigurationError, match=r"SLATE_DB_PASSWORD_FILE cannot be read.*missing"):
        Settings.load()
    monkeypatch.setenv("SLATE_DB_PASSWORD", SECRET)
    with pytest.raises(ConfigurationError, match="SLATE_DB_PASSWORD and SLATE_DB_PASSWORD_FILE are both set") as caught:
        Settings.load()
    assert SECRET not in str(caught.value)


def test_a_wrong_secret_in_a_file_is_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text(f"user:{SECRET}@nats.example")
    monkeypatch.setenv("NATS_URL_FILE", "secret")
    with pytest.raises(ConfigurationError, match="NATS_URL") as caught:
        Settings.load()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variables", "mode", "roots"),
    [
        ({}, "prefer", None),
        ({"SLATE_CA_FILE": "ca.pem"}, "verify-full", "ca.pem"),
        ({"SLATE_CA_FILE": "ca.pem", "SLATE_DB_SSLMODE": "require"}, "require", "ca.pem"),
        ({"SLATE_DB_SSLMODE": "verify-full"}, "verify-full", "system"),
        ({"SLATE_DB_SSLMODE": "disable"}, "disable", None),
    ],
)
def test_tls_to_postgresql_verifies_as_soon_as_there_is_an_authority(
    variables: dict[str, str], mode: str, roots: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("ca.pem").write_text("")
    monkeypatch.setenv("SLATE_DB_HOST", "db.example")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    dsn = Settings.load().dsn()
    assert (dsn["sslmode"], dsn.get("sslrootcert")) == (mode, roots)


def test_an_authority_that_is_missing_or_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_CA_FILE", "missing.pem")
    with pytest.raises(ConfigurationError, match=r"SLATE_CA_FILE.*missing\.pem is no file"):
        Settings.load()
    Path("missing.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"SLATE_CA_FILE=missing\.pem holds no certificates"):
        Settings.load().tls()


def test_traces_go_nowhere_unencrypted_but_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    Settings.load()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*https"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "read"),
    [("0-3", [-1, 0, 1, 2, 3]), ("4-7", [4, 5, 6, 7]), ("6,2,4-5", [2, 4, 5, 6]), ("0", [-1, 0])],
)
def test_a_worker_reads_the_partitions_it_is_told_and_the_first_the_rest(
    text: str, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLATE_WORKER_PARTITIONS", text)
    assert partitions_to_read(Settings.load()) == read


def test_the_parts_of_two_workers_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = partitions_to_read(Settings.load())
    monkeypatch.setenv("SLATE_WORKER_PARTITIONS", "0-2")
    one = partitions_to_read(Settings.load())
    monkeypatch.setenv("SLATE_WORKER_PARTITIONS", "3-7")
    assert sorted(one + partitions_to_read(Settings.load())) == whole


@pytest.mark.parametrize("text", ["8", "3-9", "5-4", "0-99999999999"])
def test_partitions_that_the_stream_has_not_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLATE_WORKER_PARTITIONS", text)
    with pytest.raises(ConfigurationError, match=f"SLATE_WORKER_PARTITIONS={text} must name some of 0 to 7"):
        partitions_to_read(Settings.load())
