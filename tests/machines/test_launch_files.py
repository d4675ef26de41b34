"""The files of launch/, docker/ and scripts/ec2/ against the schemas and linters of what reads them."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import marshmallow
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SHELL = ["launch/slurm.sbatch", "docker/start", "scripts/ec2/setup.sh"]
BIN = Path(sys.executable).parent


def called(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("script", SHELL)
def test_shell_scripts_have_no_findings(script: str) -> None:
    shell = (ROOT / script).read_text().split(maxsplit=1)[0].rpartition("/")[2]
    assert called(shell, "-n", script).returncode == 0
    done = called(BIN / "shellcheck", script)
    assert done.returncode == 0, done.stdout
    assert os.access(ROOT / script, os.X_OK)


def test_the_linter_finds_something_in_a_bad_script(tmp_path: Path) -> None:
    bad = (ROOT / SHELL[0]).read_text().replace('scontrol requeue "$SLURM_JOB_ID"', "scontrol requeue $SLURM_JOB_ID")
    (tmp_path / "bad").write_text(bad)
    assert called(BIN / "shellcheck", tmp_path / "bad").returncode == 1


def test_the_dockerfile_has_no_findings(tmp_path: Path) -> None:
    done = called(BIN / "hadolint", "docker/Dockerfile")
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text((ROOT / "docker/Dockerfile").read_text() + "RUN cd /tmp && sudo true\n")
    assert called(BIN / "hadolint", tmp_path / "Dockerfile").returncode == 1


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    def check(path: str | Path) -> int:
        return called(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path).returncode

    assert check("docker/compose.yaml") == 0
    text = (ROOT / "docker/compose.yaml").read_text()
    (tmp_path / "compose.yaml").write_text(text.replace("networks: [ranks]", "network: [ranks]"))
    assert check(tmp_path / "compose.yaml") == 1


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of an MPIJob, as the operator would make them."""
    templates = [replicas["template"] for replicas in job["spec"]["mpiReplicaSpecs"].values()]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template} for template in templates]


def closed(schema: Any) -> Any:
    """A schema that refuses what it does not name; Kubernetes drops that without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        **{key: closed(value) for key, value in schema.items()},
        **({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}),
    }


def check_mpijob(job: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "mpijob.schema.json").read_text())
    jsonschema.validate(job, closed(schema))
    for pod in pods(job):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_mpijob_is_one() -> None:
    job = yaml.safe_load((ROOT / "launch/mpijob.yaml").read_text())
    check_mpijob(job)
    spec = job["spec"]["mpiReplicaSpecs"]
    arguments = spec["Launcher"]["template"]["spec"]["containers"][0]["args"]
    ranks = int(arguments[arguments.index("-n") + 1])
    assert ranks == spec["Worker"]["replicas"] + 1 == job["spec"]["slotsPerWorker"] * 11
    mutations: list[Callable[[Any], Any]] = [
        lambda job: job["spec"].update(slots=1),
        lambda job: job["spec"].update(mpiImplementation="LAM"),
        lambda job: job["spec"]["runPolicy"].update(backOffLimit=1),
        lambda job: job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"].update(container=[]),
        lambda job: job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0].update(args="x"),
    ]
    for mutate in mutations:
        wrong = copy.deepcopy(job)
        mutate(wrong)
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check_mpijob(wrong)


def test_the_configuration_of_parallelcluster_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    schema = pytest.importorskip(
        "pcluster.schemas.cluster_schema", reason="pip install --no-deps aws-parallelcluster, as .ci/run does"
    )
    path = ROOT / "launch/parallelcluster.yaml"
    cluster = schema.ClusterSchema(cluster_name="fedmpi").load(yaml.safe_load(path.read_text()))
    (resource,) = cluster.scheduling.queues[0].compute_resources
    assert (resource.max_count, resource.min_count) == (51, 0), "as many as slurm.sbatch asks for, and none when idle"
    assert cluster.head_node.ssh.allowed_ips == "192.0.2.1/32"
    wrong = yaml.safe_load(path.read_text().replace("CapacityType:", "Capacity:"))
    with pytest.raises(marshmallow.ValidationError, match="Unknown field"):
        schema.ClusterSchema(cluster_name="fedmpi").load(wrong)


def test_no_two_files_disagree_on_the_users_and_ports() -> None:
    dockerfile, sshd = (ROOT / "docker/Dockerfile").read_text(), (ROOT / "docker/sshd_config").read_text()
    job = yaml.safe_load((ROOT / "launch/mpijob.yaml").read_text())
    assert "Port 2222" in sshd
    assert "EXPOSE 2222" in dockerfile
    assert '"-p 2222 ' in dockerfile
    assert "USER 1000\n" in dockerfile
    assert all(pod["spec"]["securityContext"]["runAsUser"] == 1000 for pod in pods(job))
    assert job["spec"]["sshAuthMountPath"] == "/home/fedmpi/.ssh"
