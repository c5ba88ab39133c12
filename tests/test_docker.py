"""What docker/ holds is what it says: pinned, behind tokens, on loopback, without secrets, and small where it says so.

No container engine, Kubernetes or Slurm is needed; the slow ones run the files' own commands as processes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from sweeper.journal.journal import Journal
from tests.drills import compose, job, nodes, postgres, processes

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")
SBATCH = DOCKER / "slurm" / "sweep.sbatch"
RAYJOB = DOCKER / "kubernetes" / "rayjob.yaml"
SECRETS = {"RAY_AUTH_TOKEN": "a" * 64, "POSTGRES_PASSWORD": "b" * 48}
OURS = ("mlflow", "head", "worker", "gpu-worker")
UPLOAD_BYTES = 2.5e6  # of which half a megabyte draws the report's figures in a browser


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return compose.services(SECRETS)


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return next(document for document in yaml.safe_load_all(RAYJOB.read_text("utf-8")) if document["kind"] == "RayJob")


def constrained(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert found, package
    return found[1]


def test_no_service_of_compose_starts_without_its_secrets(services: dict[str, Any]) -> None:
    for name in SECRETS:
        with pytest.raises(ValueError, match=f"{name}: make one with openssl rand"):
            compose.services({key: value for key, value in SECRETS.items() if key != name})
    variables = [item for service in services.values() for item in service.get("environment", {}).items()]
    held = {name: value for name, value in variables if re.search("PASSWORD|TOKEN|SECRET|KEY", name)}
    assert set(held) == {"RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "PGPASSWORD"}
    assert set(held.values()) == set(SECRETS.values()), "a secret of the file's own, or a default one"
    for name in ("head", "worker", "gpu-worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"]
    words = [word for service in services.values() for word in service.get("command", [])]
    assert not [word for word in words for secret in SECRETS.values() if secret in word], "others read command lines"


def test_compose_publishes_on_loopback_alone_and_says_whether_it_is_well(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"mlflow", "head"}, "workers that publish cannot be scaled"
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for ports in published.values() for port in ports)
    assert all("network_mode" not in service and "privileged" not in service for service in services.values())
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "container_name" not in service, "a name cannot be given twice"
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert all(one == {"condition": "service_healthy"} for each in waits.values() for one in each.values())
    assert [*waits["mlflow"], *waits["head"], *waits["worker"]] == ["postgres", "mlflow", "head"]


def test_compose_pins_its_images_and_shares_named_volumes(services: dict[str, Any]) -> None:
    for service in services.values():
        name, _, tag = service["image"].partition(":")
        assert name
        assert tag not in ("", "latest")
    declared = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))["volumes"]
    used = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"]}
    assert used == set(declared), "a path of the host, or a volume that nobody uses"
    assert set(services["worker"]["volumes"]) == set(services["head"]["volumes"]), "a node that cannot see a checkpoint"
    assert "--num-cpus=0" in services["head"]["command"], "trials beside the drivers"
    for name in OURS:
        assert services[name]["build"]["target"] == services[name]["image"].partition(":")[2]
        assert (ROOT / "docker" / services[name]["build"]["context"]).resolve() == ROOT
        assert services[name]["cap_drop"] == ["ALL"]
    for volume in ("runs", "cache", "artifacts"):
        assert re.search(rf"install .*--owner=sweeper .*/{volume}\b", DOCKERFILE)


def test_the_dockerfile_is_pinned_constrained_small_and_not_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = [name for _, name in stages]
    assert len(stages) == DOCKERFILE.count("\nFROM "), "a stage without a name"
    assert {"cpu", "cuda"} <= set(names)
    outside = [base for base, _ in stages if base not in names]
    assert outside
    assert all(re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+[\w.-]*", base) for base in outside), outside
    installs = re.findall(r"^RUN pip install (.+?)(?: \\)?$", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert ["download.pytorch.org/whl/cpu" in line for line in installs] == [True, False]
    assert "PIP_NO_CACHE_DIR=1" in DOCKERFILE
    assert not re.search(r"^(ARG|ENV)\b.*(TOKEN|PASSWORD|SECRET)|^ADD |apt-get", DOCKERFILE, re.MULTILINE)
    for target in ("cpu", "cuda"):  # both go back to the stage that drops root, and neither takes it up again
        assert {name: base for base, name in stages}[target] == "sweeper"
        own = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "USER" not in own
        assert f"COPY --from={target}-packages /opt/venv /opt/venv" in own
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]


def test_the_dockerfiles_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: the extra dev brings it")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_build_is_sent_what_it_copies_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert lines[1] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {path.split("/")[0] for words in copied for path in words.split()} == sent
    assert all((ROOT / path).exists() for path in sent)


def test_what_a_submitted_job_uploads_is_small_and_enough(tmp_path: Path) -> None:
    package = job.upload(tmp_path)
    names = ZipFile(package).namelist()
    assert package.stat().st_size < UPLOAD_BYTES
    for needed in ("sweeper/run.py", "trainables/mlm.py", "search_spaces/mix_ratios.yaml"):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "runs", ".venv", ".git/", "docker/", ".hyp"))]
    assert "README.md" in names, "pip reads it"


def test_the_rayjob_is_one_that_kuberay_takes(rayjob: dict[str, Any]) -> None:
    assert len(RAYJOB.read_text("utf-8").splitlines()) < 80
    assert rayjob["apiVersion"] == "ray.io/v1"
    assert rayjob["metadata"]["name"]
    spec = rayjob["spec"]
    known = {"entrypoint", "backoffLimit", "submitterConfig", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    assert set(spec) == known | {"rayClusterSpec"}
    assert spec["shutdownAfterJobFinishes"] is True
    command = spec["entrypoint"].split()
    assert command[:3] == ["python", "-m", "sweeper.run"]
    assert (ROOT / command[3].removeprefix("/app/")).is_file()
    assert command[command.index("--storage") + 1] == "/runs"
    assert "--resume" in command, "a retry would begin again"
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == constrained("ray")
    assert cluster["authOptions"] == {"mode": "token", "secretName": "sweeper-token"}
    assert "--from-literal=auth_token=" in RAYJOB.read_text("utf-8"), "the key that KubeRay reads"
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in workers:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all(isinstance(one, str) for group in (head, *workers) for one in group["rayStartParams"].values())


def test_the_pods_of_the_rayjob_share_the_runs_and_are_not_root(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    claims = {
        document["metadata"]["name"]: document["spec"]
        for document in yaml.safe_load_all(RAYJOB.read_text("utf-8"))
        if document["kind"] == "PersistentVolumeClaim"
    }
    images = set()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000, "the image's own"
        (container,) = pod["containers"]
        images.add(container["image"])
        assert {"requests", "limits"} == set(container["resources"])
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        claim = claims[mounts["/runs"]["persistentVolumeClaim"]["claimName"]]
        assert claim["accessModes"] == ["ReadWriteMany"]
        assert {"/runs", "/cache"} == set(mounts)
        assert all("TOKEN" not in variable["name"] for variable in container["env"]), "that is KubeRay's to set"
    (image,) = images
    assert re.fullmatch(r"REGISTRY/sweeper:\d+\.\d+\.\d+-cpu", image)


def test_the_slurm_script_is_short_and_sound() -> None:
    text = SBATCH.read_text("utf-8")
    assert len(text.splitlines()) < 80
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SBATCH)], check=True)
    last = max(number for number, line in enumerate(text.splitlines()) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in text.splitlines()[: last + 1]), "Slurm reads no option after a command"
    assert "RAY_AUTH_MODE=token" in text
    assert not re.search(r"(ray|srun|sweeper\.run)\b.*RAY_AUTH_TOKEN", text), "others read command lines"


@pytest.mark.slow
@pytest.mark.skipif(not postgres.available(), reason=postgres.ABSENT)
@pytest.mark.timeout(900)
def test_the_commands_of_compose_run_and_their_health_checks_tell() -> None:
    figures = compose.run(argparse.Namespace())
    assert figures["held"], figures


@pytest.mark.slow
@pytest.mark.skipif(not postgres.available(), reason=postgres.ABSENT)
@pytest.mark.timeout(900)
def test_a_sweep_on_postgresql_has_every_metric_once() -> None:
    figures = postgres.run(argparse.Namespace(trials=24, through=None))
    assert figures["held"], figures


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = "#!/usr/bin/env bash\nprintf 'here\\nthere\\n'\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_slurm_script_runs_a_sweep_on_two_nodes() -> None:
    """Slurm's own commands are stand-ins that run here what they are to run elsewhere."""
    job = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="sl-", dir="/tmp") as name:
        folder = Path(name)
        for program, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            path = folder / "bin" / program
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (folder / "toy.yaml").write_text(yaml.safe_dump(compose.SPEC), "utf-8")
        slurm = {"JOB_ID": job, "JOB_NUM_NODES": "2", "JOB_NODELIST": "x", "CPUS_PER_TASK": "1", "SUBMIT_DIR": name}
        environment = {
            **nodes.environment(),
            **{f"SLURM_{key}": value for key, value in slurm.items()},
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SLURM_DRILL": name,
        }
        try:
            done = subprocess.run(
                ["bash", str(SBATCH), "toy.yaml"], env=environment, capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, done.stderr[-3000:]
        finally:
            left = processes.clear(f"SLURM_DRILL={name}", 30)
        assert not left
        assert not Path(f"/tmp/ray-{job}").exists()
        records = Journal(next(folder.glob("runs/*/journal.jsonl")), read_only=True).trials.values()
        assert [record.state for record in records] == ["completed"] * compose.TRIALS
