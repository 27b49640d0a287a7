"""Each house rule of Semgrep (tests/supply/rules.yml) fires on what it is against, and on nothing beside it."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "tests" / "supply" / "rules.yml"
SEMGREP = Path(sys.prefix) / "tools" / "bin" / "semgrep"

BAD = {
    "sql-built-in-python": [
        'connection.execute(f"SELECT * FROM {table}")',
        'cursor.execute("SELECT * FROM " + table, parameters)',
        'cursor.execute("SELECT * FROM %s" % table)',
        'cursor.executemany("INSERT INTO {} VALUES (%s)".format(table), rows)',
        'connection.execute(read("a.sql").replace("TABLE", table))',
        'query = sql.SQL(f"SELECT * FROM {table}")',
        'statement = f"DROP TABLE {table}"\nconnection.execute(statement)',
    ],
    "secret-in-argv": [
        'subprocess.run(["psql", f"postgres://u:{settings.db_password.get_secret_value()}@host"])',
        'word = secret.get_secret_value()\ncommand = ["redis-cli", "-a", word]\nsubprocess.Popen(command, env={})',
        'spawn(["nats", "--password", secret.get_secret_value()], log=log)',
        'os.execv("/bin/x", ["x", secret.get_secret_value()])',
        'asyncio.create_subprocess_exec("x", secret.get_secret_value())',
    ],
    "secret-told": [
        'print(f"the password is {secret.get_secret_value()}")',
        '_log.info("connecting", url=url.get_secret_value())',
        'word = url.get_secret_value()\nlogger.warning("cannot connect to %s", word.split(",")[0])',
        'raise ConfigurationError(f"{secret.get_secret_value()} is too short")',
        "self.console.print(secret.get_secret_value())",
    ],
    "certificate-not-verified": [
        "httpx.AsyncClient(timeout=5, verify=False)",
        "Redis(host=host, ssl=True, ssl_cert_reqs=None)",
        "context.check_hostname = False",
        "context.verify_mode = ssl.CERT_NONE",
    ],
    "shell": ['subprocess.run("rm -rf " + path, shell=True)', "os.system(command)"],
    "data-as-code": ["pickle.loads(data)", "yaml.load(text)", "eval(text)"],
    "environment-read-elsewhere": ['os.environ["SLATE_DB_HOST"]', 'os.getenv("SLATE_DB_HOST")'],
    "wait-for": ["async def f() -> None:\n    await asyncio.wait_for(event.wait(), 5)"],
}
GOOD = [
    'connection.execute(read(f"doctor/{name}.sql"), parameters)',
    'connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))',
    "connection.execute(statement.format(table), parameters)",
    'subprocess.run(["psql"], env={"PGPASSWORD": secret.get_secret_value()})',
    'spawn(["nats"], environment={"NATS_PASSWORD": secret.get_secret_value()})',
    '_log.info("connecting", length=len(secret.get_secret_value()))',
    "name = hashlib.sha256(secret.get_secret_value().encode()).hexdigest()\nprint(name)",
    'raise ConfigurationError(f"{secret} is too short")',
    "httpx.AsyncClient(verify=context)",
    "yaml.safe_load(text)",
    "async def f() -> None:\n    async with asyncio.timeout(5):\n        await event.wait()",
]


def scan(directory: Path, *snippets: tuple[str, str]) -> dict[str, set[str]]:
    """The rules that fire on each of these files."""
    for name, text in snippets:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    if not SEMGREP.exists():
        pytest.skip("semgrep is missing: `make check` installs it into an environment of its own")
    command: list[str | Path] = [
        SEMGREP,
        "scan",
        "--config",
        RULES,
        "--metrics=off",
        "--disable-version-check",
        "--no-git-ignore",
    ]
    done = subprocess.run([*command, "--json", "."], cwd=directory, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert not told["errors"]
    found: dict[str, set[str]] = defaultdict(set)
    for one in told["results"]:
        found[one["path"]].add(one["check_id"].rpartition(".")[2])
    return found


def test_each_rule_fires_on_what_it_is_against_and_spares_the_rest(tmp_path: Path) -> None:
    bad = {f"{rule}_{number}.py": (rule, text) for rule, texts in BAD.items() for number, text in enumerate(texts)}
    good = {f"good_{number}.py": text for number, text in enumerate(GOOD)}
    allowed = dict.fromkeys(("connectors/environment.py", "deploy/airflow/dag.py"), "os.environ")
    files = {name: text for name, (_, text) in bad.items()} | good | allowed | {"deploy/other.py": "os.environ"}
    found = scan(tmp_path, *files.items())
    missed = {name: text for name, (rule, text) in bad.items() if rule not in found[name]}
    assert not missed
    assert "environment-read-elsewhere" in found["deploy/other.py"]
    assert not {name: found[name] for name in (*good, *allowed) if found[name]}


def test_each_rule_has_something_to_fire_on() -> None:
    assert {rule["id"] for rule in yaml.safe_load(RULES.read_text())["rules"]} == set(BAD)


def test_an_exception_names_its_rule_and_its_reason() -> None:
    lines = [
        line.partition("# nosemgrep")[2]
        for directory in ("connectors", "flows", "realtime", "deploy")
        for path in (REPOSITORY / directory).rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if "nosemgrep" in line
    ]
    for line in lines:
        rule, dash, reason = line.removeprefix(": ").partition(" - ")
        assert rule in BAD
        assert dash
        assert reason
