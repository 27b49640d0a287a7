"""Redis as `deploy/redis/` has it: TLS only, one user with a password, and no other."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.embedded import HOST, Server
from tests.support.certificates import Authority
from tests.support.programs import need_program

_FILES = Path(__file__).parents[2] / "deploy" / "redis"


class SecureRedis(Server):
    """Debian's Redis: that of the wheel has no TLS. Tests may stop and kill it, as others."""

    name = "Redis"

    def __init__(self, directory: Path, authority: Authority, *, password: str, port: int = 0) -> None:
        super().__init__(directory, port=port)
        self._program = need_program("redis-server", "redis-server")
        self._authority = authority
        self._password = password
        self.admin_password = secrets.token_hex(16)

    @property
    def program(self) -> Path:
        """`redis-server`."""
        return self._program

    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "REDIS_HOST": "localhost",
            "REDIS_PORT": str(self.port),
            "SLATE_REDIS_USER": "slate",
            "SLATE_REDIS_PASSWORD": self._password,
            "SLATE_REDIS_TLS": "true",
            "SLATE_CA_FILE": str(self._authority.file),
        }

    def fields(self) -> dict[str, Any]:
        """The same as fields of `Settings`."""
        login = {"redis_user": "slate", "redis_password": SecretStr(self._password), "redis_tls": True}
        return {"redis_host": "localhost", "redis_port": self.port, "ca_file": self._authority.file, **login}

    def _prepare(self) -> None:
        certificate = self._authority.issue("redis")
        text = (_FILES / "redis.conf").read_text()
        for pattern, value in (
            (r"/etc/slate/tls/redis\.pem", str(certificate.pem)),
            (r"/etc/slate/tls/redis\.key", str(certificate.key)),
            (r"/etc/slate/tls/ca\.pem", str(self._authority.file)),
            (r"/etc/slate/redis/users\.acl", str(self.directory / "users.acl")),
            (r"/var/lib/redis", str(self.directory)),
            (r"tls-port 6379", f"tls-port {self.port}"),
        ):
            text, found = re.subn(pattern, value, text)
            assert found, f"redis.conf has no {pattern}"
        self._write("redis.conf", text)
        users = (_FILES / "users.acl").read_text()
        for place, password in (
            ("#SHA256_OF_PASSWORD", self._password),
            ("#SHA256_OF_ADMIN_PASSWORD", self.admin_password),
        ):
            assert users.count(place) == 1
            users = users.replace(place, f"#{hashlib.sha256(password.encode()).hexdigest()}")
        self._write("users.acl", users)

    def _command(self) -> list[str | Path]:
        return [self.program, self.directory / "redis.conf"]

    def _answers(self) -> bool:
        try:
            with redis.Redis(
                HOST,
                self.port,
                username="slate",
                password=self._password,
                ssl=True,
                ssl_ca_certs=str(self._authority.file),
                retry=Retry(NoBackoff(), retries=0),
                socket_timeout=5,
            ) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
