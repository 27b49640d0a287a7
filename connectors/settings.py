"""The only reader of the environment.

Values come, strongest first, from the environment, from `.env`, and from `.slate/env`, which `slate up` writes
so that every command finds the servers that it started. The names are those of the wire contract; this
project's own start with `SLATE_`.
"""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from connectors.environment import SIGNING_KEY, check_encrypted, is_signing_key, secret, sources
from connectors.errors import ConfigurationError

LOCAL_ENV = "env"
"""Name of the file below `SLATE_DIR` in which `slate up` leaves the addresses of its servers."""


def _env(name: str) -> Any:
    return AliasChoices(name)


def _variable(field: FieldInfo) -> str:
    assert isinstance(field.validation_alias, AliasChoices)  # noqa: S101 - `_env` makes no other
    return str(field.validation_alias.choices[0])


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


class Settings(BaseSettings):
    """All settings, each with its default, unit and environment variable."""

    # Never by field name: DB_HOST, LOG_LEVEL and the like in the environment are other programs'.
    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

    db_host: str | None = Field(
        None,
        validation_alias=_env("SLATE_DB_HOST"),
        description="PostgreSQL primary; `a,b`: the one of these that is",
    )
    db_replica_host: str | None = Field(
        None, validation_alias=_env("SLATE_DB_REPLICA_HOST"), description="PostgreSQL replica for reads"
    )
    db_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        5432, validation_alias=_env("SLATE_DB_PORT"), description="port of both"
    )
    db_name: str = Field("spark", validation_alias=_env("SLATE_DB_NAME"), description="database")
    db_replica_name: str | None = Field(
        None,
        validation_alias=_env("SLATE_DB_REPLICA_NAME"),
        description="its name on the replica, where a pooler has another (`spark_ro`)",
    )
    db_user: str = Field("slate", validation_alias=_env("SLATE_DB_USER"), description="role")
    db_password: SecretStr | None = Field(None, validation_alias=_env("SLATE_DB_PASSWORD"), description="its password")
    db_sslmode: Literal["disable", "prefer", "require", "verify-full"] | None = Field(
        None,
        validation_alias=_env("SLATE_DB_SSLMODE"),
        description="TLS to PostgreSQL, as libpq has it; `verify-full` where SLATE_CA_FILE is set, else `prefer`",
    )
    ca_file: Path | None = Field(
        None,
        validation_alias=_env("SLATE_CA_FILE"),
        description="authorities that sign certificates of PostgreSQL, NATS and Redis, PEM; the system's unless set",
    )
    nats_url: SecretStr | None = Field(
        None,
        validation_alias=_env("NATS_URL"),
        description="`nats://` or `tls://`, credentials in it, several separated by commas",
    )
    nats_inbox: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        "_INBOX",
        validation_alias=_env("SLATE_NATS_INBOX"),
        description="first token of the subjects that answers come on, as the permissions of its user have it",
    )
    nats_callout_url: SecretStr | None = Field(
        None,
        validation_alias=_env("SLATE_NATS_CALLOUT_URL"),
        description="NATS as its user `callout`: the HTTP service then lets browsers in there; off unless set",
    )
    nats_callout_seed: SecretStr | None = Field(
        None,
        validation_alias=_env("SLATE_NATS_CALLOUT_SEED"),
        description="account seed with which it signs what they may, as `python -m realtime.nkey` makes it",
    )
    redis_host: str | None = Field(None, validation_alias=_env("REDIS_HOST"), description="Redis or Valkey")
    redis_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        6379, validation_alias=_env("REDIS_PORT"), description="its port"
    )
    redis_user: str | None = Field(None, validation_alias=_env("SLATE_REDIS_USER"), description="its ACL user")
    redis_password: SecretStr | None = Field(
        None, validation_alias=_env("SLATE_REDIS_PASSWORD"), description="that user's password"
    )
    redis_tls: bool = Field(False, validation_alias=_env("SLATE_REDIS_TLS"), description="whether it speaks TLS")

    unity_mcp_url: str | None = Field(
        None,
        validation_alias=_env("UNITY_MCP_URL"),
        description="Unity MCP server; https, or http to this machine",
    )
    unity_mcp_token: SecretStr | None = Field(
        None, validation_alias=_env("UNITY_MCP_TOKEN"), description="sent to it as a Bearer token and as X-API-Key"
    )
    unity_instance: Annotated[str, Field(pattern=r"^[^@]{1,200}@[0-9A-Za-z]{1,64}$")] | None = Field(
        None,
        validation_alias=_env("SLATE_UNITY_INSTANCE"),
        description="project, `Name@hash`, of sessions that name none; needed where several editors are open",
    )
    build_timeout_s: Annotated[float, Field(gt=0)] = Field(
        1800.0,
        validation_alias=_env("SLATE_BUILD_TIMEOUT"),
        description="when a build of a game counts as timed out, seconds",
    )
    openai_key: SecretStr | None = Field(
        None, validation_alias=_env("OPENAI_REALTIME_API_KEY"), description="key of the OpenAI Realtime API"
    )
    openai_url: str | None = Field(
        None,
        validation_alias=_env("SLATE_OPENAI_URL"),
        description="another address of that API, `wss://host/v1`; `ws://` to this machine only",
    )
    mode: Literal["creative", "deterministic", "hybrid"] = Field(
        "hybrid", validation_alias=_env("SPARK_SONNET_MODE"), description="mode of sessions that name none"
    )
    jwt_secret: SecretStr | None = Field(
        None, validation_alias=_env("SLATE_JWT_SECRET"), description="key of users' tokens (HS256), 32 bytes or more"
    )
    jwt_jwks_url: str | None = Field(
        None,
        validation_alias=_env("SLATE_JWT_JWKS_URL"),
        description="or where the public keys of their issuer are; https, or http to this machine",
    )
    jwt_issuer: str = Field(
        "spark", validation_alias=_env("SLATE_JWT_ISSUER"), description="what `iss` of users' tokens must be"
    )
    jwt_audience: str = Field(
        "spark", validation_alias=_env("SLATE_JWT_AUDIENCE"), description="what `aud` of users' tokens must be"
    )
    quota_tokens: Annotated[int, Field(ge=0)] = Field(
        100_000,
        validation_alias=_env("SLATE_QUOTA_TOKENS"),
        description="tokens that a user may use in a month (UTC); 0 is any number",
    )
    quota_inputs: Annotated[int, Field(ge=0)] = Field(
        100, validation_alias=_env("SLATE_QUOTA_INPUTS"), description="inputs of a user in 24 hours; 0 is any number"
    )
    quota_sessions: Annotated[int, Field(ge=0)] = Field(
        1, validation_alias=_env("SLATE_QUOTA_SESSIONS"), description="sessions of a user at a time; 0 is any number"
    )
    frames_url: str | None = Field(
        None,
        validation_alias=_env("SLATE_FRAMES_URL"),
        description="where previews are kept: `file:///directory`, or `https://host/prefix` that takes PUT; "
        "`frames` below SLATE_DIR unless it is set",
    )
    frames_token: SecretStr | None = Field(
        None, validation_alias=_env("SLATE_FRAMES_TOKEN"), description="Bearer token for that address"
    )
    spill_dir: Path | None = Field(
        None,
        validation_alias=_env("SLATE_SPILL_DIR"),
        description="where sessions keep events until NATS has them; `spill` below SLATE_DIR unless it is set",
    )
    spill_max_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        1 << 30, validation_alias=_env("SLATE_SPILL_MAX_BYTES"), description="how much of that there may be, bytes"
    )

    api_host: str = Field(
        "127.0.0.1", validation_alias=_env("SLATE_API_HOST"), description="address that the HTTP service listens on"
    )
    api_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8088, validation_alias=_env("SLATE_API_PORT"), description="its port"
    )
    api_origins: str | None = Field(
        None,
        validation_alias=_env("SLATE_API_ORIGINS"),
        description="origins whose pages may use it (`https://app.example`), separated by commas; its own page may",
    )
    api_limit: Annotated[int, Field(ge=0)] = Field(
        600, validation_alias=_env("SLATE_API_LIMIT"), description="requests of a user in a minute; 0 is any number"
    )
    replica_max_lag_s: Annotated[float, Field(gt=0)] = Field(
        10.0,
        validation_alias=_env("SLATE_REPLICA_MAX_LAG"),
        description="how far the replica may be behind before reads go to the primary, seconds",
    )

    dir: Path = Field(
        Path(".slate"),
        validation_alias=_env("SLATE_DIR"),
        description="where `slate up` keeps its servers' data and logs",
    )
    stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        "SPARK", validation_alias=_env("SLATE_STREAM"), description="JetStream stream"
    )
    partitions: Annotated[int, Field(ge=1, le=256)] = Field(
        8,
        validation_alias=_env("SLATE_PARTITIONS"),
        description="partitions of the stream; 1 needs no subject transform (NATS before 2.12)",
    )
    worker_partitions: Annotated[str, Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$")] | None = Field(
        None,
        validation_alias=_env("SLATE_WORKER_PARTITIONS"),
        description="those that an ingest worker reads, as `0-3,7`, where several share them out; all unless set",
    )
    stream_max_bytes: Annotated[int, Field(ge=-1)] = Field(
        -1,
        validation_alias=_env("SLATE_STREAM_MAX_BYTES"),
        description="size limit of a stream that `slate migrate` creates, bytes; -1 is none",
    )
    stream_max_age_s: Annotated[float, Field(ge=0)] = Field(
        7 * 86400.0,
        validation_alias=_env("SLATE_STREAM_MAX_AGE"),
        description="how long such a stream keeps messages, seconds; 0 is for ever",
    )
    stream_replicas: Annotated[int, Field(ge=1, le=5)] = Field(
        1,
        validation_alias=_env("SLATE_STREAM_REPLICAS"),
        description="copies of such a stream in a NATS cluster",
    )
    batch_messages: Annotated[int, Field(ge=1, le=50_000)] = Field(
        5000,
        validation_alias=_env("SLATE_BATCH_MESSAGES"),
        description="messages at which a transaction is full; batches grow to it with load only",
    )
    queue_messages: Annotated[int, Field(ge=1)] = Field(
        20_000,
        validation_alias=_env("SLATE_QUEUE_MESSAGES"),
        description="messages read ahead, shared out between the partitions (each at least 64)",
    )
    queue_bytes: Annotated[int, Field(ge=1 << 20)] = Field(
        32 << 20,
        validation_alias=_env("SLATE_QUEUE_BYTES"),
        description="bytes read ahead, shared out between the partitions (each at least 2 MiB)",
    )
    rollup_flush_s: Annotated[float, Field(gt=0, le=60)] = Field(
        2.0,
        validation_alias=_env("SLATE_ROLLUP_FLUSH"),
        description="how often totals and windows are written, seconds",
    )
    window_grace_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0,
        validation_alias=_env("SLATE_WINDOW_GRACE"),
        description="how long after its end a window stays open for what comes late, seconds of event time",
    )
    audit_every_s: Annotated[float, Field(ge=0)] = Field(
        300.0,
        validation_alias=_env("SLATE_AUDIT_EVERY"),
        description="how often a rollups worker holds its totals against the tables, seconds; 0 is never",
    )
    analytics_url: SecretStr | None = Field(
        None,
        validation_alias=_env("SLATE_ANALYTICS_URL"),
        description="where closed windows are POSTed as JSON; https, or http to this machine",
    )
    analytics_secret: SecretStr | None = Field(
        None,
        validation_alias=_env("SLATE_ANALYTICS_SECRET"),
        description="signs them (Standard Webhooks: base64, `whsec_` in front or not)",
    )
    alert_rules: Path | None = Field(
        None,
        validation_alias=_env("SLATE_ALERT_RULES"),
        description="file of alert rules, looked at again whenever it changes; `deploy/alerts.toml` unless it is set",
    )
    retain_events_months: Annotated[int, Field(ge=0)] = Field(
        0,
        validation_alias=_env("SLATE_RETAIN_EVENTS_MONTHS"),
        description="months before this one of which `slate maintain` keeps `spark_events`; 0 is for ever",
    )
    retain_detached: bool = Field(
        False,
        validation_alias=_env("SLATE_RETAIN_DETACHED"),
        description="whether older months are kept as tables of their own in the schema `slate`, instead of dropped",
    )
    retain_windows_days: Annotated[int, Field(ge=0)] = Field(
        30,
        validation_alias=_env("SLATE_RETAIN_WINDOWS_DAYS"),
        description="days for which `slate maintain` keeps `slate.windows`; 0 is for ever",
    )
    retain_alerts_days: Annotated[int, Field(ge=0)] = Field(
        90,
        validation_alias=_env("SLATE_RETAIN_ALERTS_DAYS"),
        description="days for which `slate maintain` keeps `slate.alerts`; 0 is for ever",
    )
    retain_dead_letters_days: Annotated[int, Field(ge=0)] = Field(
        0,
        validation_alias=_env("SLATE_RETAIN_DEAD_LETTERS_DAYS"),
        description="days for which `slate maintain` keeps dead letters; 0 is for ever",
    )
    retain_content_days: Annotated[int, Field(ge=0)] = Field(
        0,
        validation_alias=_env("SLATE_RETAIN_CONTENT_DAYS"),
        description="days for which `slate maintain` keeps telemetry, previews with their pictures, scripts and "
        "builds; 0 is for ever",
    )
    db_statement_timeout_s: Annotated[float, Field(gt=0)] = Field(
        30.0, validation_alias=_env("SLATE_DB_STATEMENT_TIMEOUT"), description="longest statement, seconds"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        9090,
        validation_alias=_env("SLATE_METRICS_PORT"),
        description="Prometheus metrics; a free port where it is taken, 0 for none",
    )
    metrics_host: str = Field(
        "127.0.0.1", validation_alias=_env("SLATE_METRICS_HOST"), description="address that metrics listen on"
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias=_env("OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="where traces are sent by OTLP over HTTP (`http://host:4318`); https, or http to this machine",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        validation_alias=_env("OTEL_EXPORTER_OTLP_HEADERS"),
        description="headers sent along, as `name=value,name=value`",
    )
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        validation_alias=_env("SLATE_TRACE_RATIO"),
        description="which part of users' inputs is traced, where traces are sent at all",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        validation_alias=_env("SLATE_LOG_FORMAT"),
        description="`auto`: readable on a terminal, else JSON",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=_env("SLATE_LOG_LEVEL"), description="least severity that is logged"
    )

    @field_validator("nats_url", "nats_callout_url")
    @classmethod
    def _nats_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        for one in url.get_secret_value().split(",") if url else ():
            if not one.strip().startswith(("nats://", "tls://")):
                raise ValueError("must start with nats:// or tls://")
        return url

    @field_validator("analytics_url")
    @classmethod
    def _analytics_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            check_encrypted(url.get_secret_value(), "https", "windows hold the figures of users")
        return url

    @field_validator("unity_mcp_url")
    @classmethod
    def _unity_scheme(cls, url: str | None) -> str | None:
        if url is not None:
            check_encrypted(url, "https", "calls hold the user's code and our token")
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp_scheme(cls, url: str | None) -> str | None:
        if url is not None:
            check_encrypted(url, "https", "traces tell who did what")
        return url

    @field_validator("ca_file")
    @classmethod
    def _ca_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is no file")
        return path

    @field_validator("api_origins")
    @classmethod
    def _origins(cls, origins: str | None) -> str | None:
        for one in filter(None, (origin.strip() for origin in (origins or "").split(","))):
            parts = urlsplit(one)
            if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != one:
                raise ValueError(f"{one!r} is no origin: https://host, without a path")
        return origins

    @field_validator("openai_url")
    @classmethod
    def _openai_scheme(cls, url: str | None) -> str | None:
        if url is not None:
            check_encrypted(url, "wss", "it gets our key")
        return url

    @field_validator("analytics_secret")
    @classmethod
    def _analytics_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not is_signing_key(secret.get_secret_value()):
            raise ValueError(SIGNING_KEY)
        return secret

    @classmethod
    def load(cls, *, local: bool = True, **overrides: Any) -> Self:
        """Read the environment; `overrides` are by field name and strongest.

        A secret may be in a file that its variable with `_FILE` names, as systemd and Kubernetes hand them over.
        `local=False` leaves `.slate/env` out, to see which servers the user has named.

        Raises:
            ConfigurationError: a value is malformed, or a file of a secret cannot be read; the message names each
                variable.
        """
        by_variable = {_variable(cls.model_fields[name]): value for name, value in overrides.items()}
        try:
            first = cls._read((".env",), by_variable)
            return cls._read((first.dir / LOCAL_ENV, ".env"), by_variable) if local else first
        except ValidationError as error:
            lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
            raise ConfigurationError(
                "these settings are not usable:\n  "
                + "\n  ".join(lines)
                + "\nCorrect them in the environment or in .env."
            ) from None

    @classmethod
    def _read(cls, files: tuple[str | Path, ...], by_variable: dict[str, Any]) -> Self:
        found = sources(files)
        secrets = {
            name: value
            for name in map(_variable, filter(_is_secret, cls.model_fields.values()))
            if name not in by_variable and (value := secret(name, found)) is not None
        }
        return cls(_env_file=files, **secrets | by_variable)  # type: ignore[call-arg]

    def dsn(self, **more: str | int) -> dict[str, str | int]:
        """Arguments for `psycopg.connect`, password included: never log them.

        Raises:
            ConfigurationError: `SLATE_DB_HOST` is not set and `slate up` has not run here.
        """
        if self.db_host is None:
            raise ConfigurationError(
                "no PostgreSQL: set SLATE_DB_HOST (and SLATE_DB_USER, SLATE_DB_PASSWORD, SLATE_DB_NAME), "
                "or start one with `slate up`"
            )
        arguments: dict[str, str | int] = {
            "host": self.db_host,
            "port": self.db_port,
            "dbname": self.db_name,
            "user": self.db_user,
            "connect_timeout": 5,
            "sslmode": self.db_sslmode or ("prefer" if self.ca_file is None else "verify-full"),
        }
        if "," in self.db_host:
            arguments["target_session_attrs"] = "primary"
        if self.ca_file is not None:
            arguments["sslrootcert"] = str(self.ca_file)
        elif self.db_sslmode == "verify-full":
            arguments["sslrootcert"] = "system"
        if self.db_password is not None:
            arguments["password"] = self.db_password.get_secret_value()
        return arguments | more

    @property
    def partitions_read(self) -> list[int]:
        """Those of the stream that an ingest worker reads, in order.

        Raises:
            ConfigurationError: SLATE_WORKER_PARTITIONS names one that the stream has not.
        """
        if self.worker_partitions is None:
            return list(range(self.partitions))
        found: set[int] = set()
        for part in self.worker_partitions.split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), min(int(last or first), 256) + 1))
        if not found or max(found) >= self.partitions:
            raise ConfigurationError(
                f"SLATE_WORKER_PARTITIONS={self.worker_partitions} must name some of 0 to {self.partitions - 1}, "
                "as SLATE_PARTITIONS says"
            )
        return sorted(found)

    def redis_login(self) -> dict[str, Any]:
        """Address, user and authorities as arguments of the Redis library, password included: never log them."""
        login: dict[str, Any] = {"host": self.redis_host, "port": self.redis_port, "username": self.redis_user}
        if self.redis_password is not None:
            login["password"] = self.redis_password.get_secret_value()
        if self.redis_tls and self.ca_file is not None:
            login["ssl_ca_certs"] = str(self.ca_file)
        return login

    def tls(self) -> ssl.SSLContext:
        """For servers whose certificates are verified: by the authorities of SLATE_CA_FILE, else those of the system.

        Raises:
            ConfigurationError: that file holds no certificate.
        """
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"SLATE_CA_FILE={self.ca_file} holds no certificates in PEM: {error}") from None

    @property
    def spill_directory(self) -> Path:
        """Where events wait for NATS."""
        return self.spill_dir or self.dir / "spill"

    @property
    def frame_store_url(self) -> str:
        """Where pictures of previews are kept."""
        return self.frames_url or (self.dir.absolute() / "frames").as_uri()

    @property
    def alert_rules_file(self) -> Path:
        """The file of alert rules: that of this project unless another is set."""
        return self.alert_rules or Path(__file__).parents[1] / "deploy" / "alerts.toml"

    def secret(self, name: str) -> SecretStr | None:
        """What a rules file names: the value of a variable, or of the file that the variable with _FILE names.

        Raises:
            ConfigurationError: that file cannot be read.
        """
        value = secret(name, sources((self.dir / LOCAL_ENV, ".env")))
        return None if value is None else SecretStr(value)

    def nats_servers(self) -> list[str]:
        """Server addresses with credentials: never log them.

        Raises:
            ConfigurationError: `NATS_URL` is not set and `slate up` has not run here.
        """
        if self.nats_url is None:
            raise ConfigurationError("no NATS: set NATS_URL (nats://host:4222), or start one with `slate up`")
        return [one.strip() for one in self.nats_url.get_secret_value().split(",")]
