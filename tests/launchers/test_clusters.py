"""The templates of docs/clusters.md: they parse, agree with themselves, and name real commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from grlo.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
SCRIPTS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
MANIFEST = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])


def grlo_commands() -> list[list[str]]:
    """Words behind `grlo` of every command on the page that has a run directory."""
    joined = [script.replace("\\\n", " ") for script in SCRIPTS] + [MANIFEST["spec"]["entrypoint"]]
    lines = [line for text in joined for line in text.splitlines() if "--run" in line]
    return [shlex.split(line[line.index("grlo ") :])[1:] for line in lines]


@pytest.mark.parametrize("script", SCRIPTS, ids=["torchrun", "ray"])
def test_scripts_are_valid_bash(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2" in script


@pytest.mark.parametrize("words", grlo_commands(), ids=lambda words: " ".join(words[:2]))
def test_commands_and_their_options_exist(words):
    command = typer.main.get_command(app)
    while words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]  # pyright: ignore[reportAttributeAccessIssue]
        words = words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_ray_job_has_the_gpus_that_its_command_asks_for():
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayJob")
    spec = MANIFEST["spec"]
    words = shlex.split(spec["entrypoint"])
    asked = {name: int(words[words.index(name) + 1]) for name in ("--nodes", "--gpus")}
    reward_gpus = int(words[words.index("--reward-gpus") + 1])
    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    gpus = {}
    for name, group in groups.items():
        (container,) = group["template"]["spec"]["containers"]
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
        gpus[name] = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert groups["training"]["replicas"] == asked["--nodes"]
    assert gpus["training"] == asked["--gpus"]
    assert groups["reward"]["replicas"] * gpus["reward"] == reward_gpus


def test_every_pod_of_the_ray_job_sees_the_shared_disk_and_has_the_same_image():
    cluster = MANIFEST["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for pod in pods:
        inner = pod["template"]["spec"]
        (container,) = inner["containers"]
        images.add(container["image"])
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted["shared"] == "/shared"
        assert mounted.keys() <= {volume["name"] for volume in inner["volumes"]}
    assert len(images) == 1
