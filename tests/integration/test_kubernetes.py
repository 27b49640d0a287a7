"""The manifests. No cluster is started."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from connectors.health import LIVE, READY
from connectors.settings import Settings
from tests.support.deployment import (
    KUBERNETES,
    ROLES,
    SECRET,
    WORKERS,
    assert_exists,
    known,
    manifests,
    own_program,
    pods,
    written_without_secrets,
)
from tests.support.programs import need_program
from tests.support.run import run


def test_kubernetes_takes_partition_sets_that_are_all_partitions(tmp_path: Path) -> None:
    directory = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, directory)
    with (directory / "kustomization.yaml").open("a") as file:
        file.write("components: [partition-sets]\n")
    built = run([need_program("kubectl", "kubectl"), "kustomize", directory])
    assert built.returncode == 0, built.stderr
    (tmp_path / "all.yaml").write_text(built.stdout)
    done = run([own_program("kubernetes-validate"), "--strict", tmp_path / "all.yaml"])
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = [one for one in yaml.safe_load_all(built.stdout) if one["kind"] == "StatefulSet"]
    assert "volumeClaimTemplates" not in one["spec"]
    shell = one["spec"]["template"]["spec"]["containers"][0]["command"]
    for number in range(one["spec"]["replicas"]):
        tried = [
            *shell[:2],
            shell[2].replace("exec python -m bytewax.run flows.ingest", "printenv SLATE_WORKER_PARTITIONS"),
        ]
        done = run(tried, environment={"HOSTNAME": f"slate-ingest-{number}", "PATH": os.environ["PATH"]})
        first, last = map(int, done.stdout.strip().split("-"))
        assert first == number * 4
    assert last + 1 == Settings.model_fields["partitions"].default


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
        environment = {one["name"]: one["value"] for one in container["env"]}
        written_without_secrets(environment)
        assert environment["SLATE_DB_USER"] == ROLES[name.removeprefix("slate-")]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts["secrets"] == "/etc/slate/secrets"
        (secret,) = [one["secret"] for one in spec["volumes"] if one["name"] == "secrets"]
        assert secret["secretName"] == (
            "slate-migrate" if ROLES[name.removeprefix("slate-")] == "slate_owner" else name
        )
    authorities = [
        one.split("=", 1)[1] for one in customization["configMapGenerator"][0]["literals"] if "CA_FILE" in one
    ]
    assert authorities == ["/etc/slate/tls/ca.pem"]


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
    for name in (*WORKERS, "slate-api"):
        (container,) = pods()[name]["containers"]
        (port,) = container["ports"]
        for probe, path in (("startupProbe", LIVE), ("livenessProbe", LIVE), ("readinessProbe", READY)):
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    (job,) = by_kind["CronJob"]
    assert job["spec"]["timeZone"] == "Etc/UTC"


def test_no_pod_may_talk_except_where_it_has_to() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy"}
    assert policies["slate-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for expression in spec["podSelector"].get("matchExpressions", ()):
            assert set(expression["values"]) <= set(pods()), name
    assert "slate-maintain" not in policies["slate-nats"]["podSelector"]["matchExpressions"][0]["values"]
