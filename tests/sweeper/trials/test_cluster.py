"""How many trials fit, and the line that people read where none does."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sweeper.spec.sections import Resources
from sweeper.system import nodes as nodes_module
from sweeper.trials import cluster

ROOT = Path(__file__).parents[3]


def needs(**resources: Any) -> Resources:
    return Resources(**resources)


@pytest.mark.parametrize(
    ("resources", "nodes", "trials"),
    [
        ({}, [{"CPU": 2}], 2),
        ({"cpus_per_worker": 2}, [{"CPU": 3}, {"CPU": 3}], 2),
        ({"workers": 3}, [{"CPU": 2}, {"CPU": 2}], 1),
        ({"workers": 1, "gpus_per_worker": 1}, [{"CPU": 16, "GPU": 8}, {"CPU": 4}], 8),
        ({"gpus_per_worker": 0.1}, [{"CPU": 16, "GPU": 1}], 10),
        ({"gpus_per_worker": 2, "cpus_per_worker": 4}, [{"CPU": 8, "GPU": 8}], 2),
        ({"accelerator": "A100"}, [{"CPU": 8}, {"CPU": 4, "accelerator_type:A100": 1}], 4),
    ],
)
def test_room_counts_whole_workers_on_whole_nodes(
    resources: dict[str, Any], nodes: list[dict[str, float]], trials: int
):
    assert nodes_module.max_concurrent(needs(**resources), nodes) == trials


@pytest.mark.parametrize(
    ("resources", "nodes", "told"),
    [
        ({"workers": 3}, [{"CPU": 2}], "a trial needs 3 CPU, there are 2 CPU: set resources.workers to 2"),
        ({"workers": 2, "cpus_per_worker": 2}, [{"CPU": 2}], "there are 2 CPU: set resources.workers to 1 or 0"),
        ({"cpus_per_worker": 4}, [{"CPU": 2}, {"CPU": 3}], "set resources.cpus_per_worker to 3 or less"),
        (
            {"gpus_per_worker": 1},
            [{"CPU": 2, "GPU": 0}],
            "1 CPU and 1 GPU, there are 2 CPU and 0 GPU: set resources.gpus_per_worker to 0",
        ),
        ({"gpus_per_worker": 1}, [{"CPU": 0, "GPU": 1}, {"CPU": 2}], "no node has both"),
        (
            {"accelerator": "H100"},
            [{"CPU": 2, "accelerator_type:A100": 1}],
            "1 CPU on nodes of type H100, there are 0 CPU: set resources.accelerator to A100",
        ),
        ({"accelerator": "H100"}, [{"CPU": 2}], "leave resources.accelerator out"),
    ],
)
def test_no_room_is_one_line_that_says_what_would_fit(resources: dict[str, Any], nodes: list[Any], told: str):
    with pytest.raises(ValueError, match=r"^resources: ") as refused:
        nodes_module.max_concurrent(needs(**resources), nodes)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nodes_that_are_to_come_are_asked_for_and_waited_for(monkeypatch: pytest.MonkeyPatch):
    import ray
    from ray.autoscaler import sdk

    alive: list[dict[str, float]] = [{"CPU": 1.0}]
    asked: list[list[dict[str, float]]] = []
    told: list[str] = []

    def nodes() -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in alive]

    def request(bundles: list[dict[str, float]]) -> None:
        asked.append(bundles)
        alive.extend({"CPU": 2.0} for _ in bundles)  # a cluster that grows at once

    monkeypatch.setattr(ray, "nodes", nodes)
    monkeypatch.setattr(sdk, "request_resources", request)
    monkeypatch.setattr(cluster, "AWAIT_S", 0.01)
    with pytest.raises(nodes_module.NoRoom):
        cluster.awaited(needs(workers=2), 1, 0.0, told.append)
    assert not asked
    assert cluster.awaited(needs(workers=2), 2, 1.0, told.append) >= 2
    assert asked == [[{"CPU": 1}] * 4, []]  # asked for, and no longer once they are there
    assert told == ["waiting up to 1 min for nodes: a trial needs 2 CPU, there are 1 CPU"]


def test_a_file_that_is_not_there_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.shared(str(tmp_path / "none"))  # one machine sees what it writes
    assert cluster._sees(str(tmp_path))
    assert not cluster._sees(str(tmp_path / "none"))
    assert not cluster._sees("what://x/y")


def test_this_machine_has_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster.os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(nodes_module, "_quota", lambda: 64)
    assert nodes_module.this_machine()["CPU"] == 3
    monkeypatch.setattr(nodes_module, "_quota", lambda: 2)
    assert nodes_module.this_machine()["CPU"] == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert nodes_module.this_machine()["GPU"] == 0


def test_the_files_of_a_killed_driver_go_and_those_of_a_living_one_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster.os, "access", lambda *_: False)
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("sw-killed", "sw-living", "sw-young", "sw-other"):
        (tmp_path / name).mkdir()
    for name in ("sw-killed", "sw-living", "sw-young"):
        (tmp_path / name / "owner.lock").touch()
    for name in ("sw-killed", "sw-living"):
        os.utime(tmp_path / name / "owner.lock", (0, 0))
    monkeypatch.setenv("SWEEPER_RAY", "")
    orphan, other = (
        subprocess.Popen(["sleep", "60"], env={**os.environ, "SWEEPER_RAY": str(tmp_path / name)})
        for name in ("sw-killed", "sw-living")
    )
    with FileLock(tmp_path / "sw-living" / "owner.lock"):
        os.utime(tmp_path / "sw-living" / "owner.lock", (0, 0))
        with cluster._folder() as folder:
            left = {path.name for path in tmp_path.iterdir()}
            assert left == {"sw-living", "sw-young", "sw-other", Path(folder).parent.name}
            own = subprocess.Popen(["sleep", "60"])  # as an agent whose raylet did not end it
    assert orphan.wait(10) == own.wait(10) == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    other.wait()
    assert {path.name for path in tmp_path.iterdir()} == {"sw-living", "sw-young", "sw-other"}


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (None, "Ray did not start on this machine: The node timed out. Overloaded; close what keeps it busy"),
        ("10.0.0.1:6379", "cannot join the cluster at RAY_ADDRESS=10.0.0.1:6379: The node timed out."),
        ("ray://me:sesame@a:1", "cannot join the cluster at RAY_ADDRESS=ray://***@a:1: The node timed out."),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str | None, told: str):
    import ray

    def init(**_: Any) -> None:
        raise Exception("The node timed out.\n  Overloaded")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "reach", lambda address: None)
    with pytest.raises(nodes_module.NotStarted) as failed, cluster.session():
        pass
    assert str(failed.value).startswith(told)
    assert "\n" not in str(failed.value)


def test_a_cluster_that_is_down_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cluster.reach(f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    begin = time.monotonic()
    with pytest.raises(nodes_module.NotStarted, match="Connection refused"), cluster.session():
        pass
    assert time.monotonic() - begin < 20
    for other in ("auto", f"ray://127.0.0.1:{port}"):
        cluster.reach(other)


def test_a_local_ray_has_a_token_of_ours_whatever_the_environment_says():
    """Ray's own switch, set beforehand, is nobody's word for it that this process was isolated."""
    before = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known to many"}
    look = (
        "import os; from sweeper.trials import cluster; cluster.isolate(); one = os.environ['RAY_AUTH_TOKEN']; "
        "cluster.isolate(); assert os.environ['RAY_AUTH_TOKEN'] == one; "
        "print(os.environ['RAY_AUTH_MODE'], os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'], one)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | before
    told = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    mode, alone, token = told.stdout.split()
    assert (mode, alone, len(token)) == ("token", "0", 64)


def test_another_release_of_ray_is_refused_in_one_line():
    """Ray's inside, which changes without a word, is used as it is in the release that pyproject pins."""
    from sweeper.system import ray_inside

    ray_inside.checked(f"{ray_inside.SERIES}.7")
    with pytest.raises(
        nodes_module.NotStarted, match=r"^Ray 2\.61\.0 is installed, .* pip install 'ray\[.*\]==2\.60\.\*'$"
    ):
        ray_inside.checked("2.61.0")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (pin,) = (one for one in project["dependencies"] if one.startswith("ray["))
    major, minor = map(int, ray_inside.SERIES.split("."))
    assert pin == f"ray[default,tune,train]>={major}.{minor},<{major}.{minor + 1}", "look through ray_inside first"


def test_rays_inside_is_used_in_one_module():
    inside = re.compile(r"^\s*(?:from|import) ray[\w.]*\._|^\s*from ray[\w.]* import .*\b_\w", re.MULTILINE)
    there = [path.name for path in (ROOT / "sweeper").rglob("*.py") if inside.search(path.read_text("utf-8"))]
    assert there == ["ray_inside.py"]


def test_a_cluster_is_joined_where_one_is_configured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not nodes_module.configured()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert nodes_module.configured()
