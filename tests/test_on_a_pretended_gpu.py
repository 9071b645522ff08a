"""What only a GPU runs, on one that the CPU plays (`pretended_gpu`), in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import grlo.nano
from tiny_policies import needs_compiler

pytestmark = [
    pytest.mark.long,
    needs_compiler,
    pytest.mark.skipif(torch.version.cuda is not None, reason="torch knows real GPUs"),
]

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ASSETS = Path(grlo.nano.__file__).parent / "assets"

SMALL = {
    "training.steps": "2",
    "optimizer.warmup_steps": "1",
    "sampling.prompts_per_step": "8",
    "sampling.samples_per_prompt": "4",
}
HALF = {"policy.compute_dtype": '"bfloat16"'}
VARIANTS: dict[str, dict[str, str]] = {
    "float32": {},
    "half, recomputing": HALF | {"policy.gradient_checkpointing": "true"},
    "half, recomputing some": HALF | {"policy.gradient_checkpointing": '"selective"'},
    "half, offloading": HALF
    | {
        "training.offload": '["critic", "optimizer", "reward_model"]',
        "training.micro_batch_tokens": "0",
    },
    "half, a graph of each step": HALF | {"engine.cuda_graphs": "true"},
    "half, drawing ahead": HALF
    | {
        "training.overlap": "true",
        "algorithm.importance_cap": "2",
        "engine.device": '"cuda:0"',
    },
    "half, one trunk": HALF | {"critic.model": "none", "critic.share_trunk": "true"},
    "half, adapters": HALF | {"policy.lora": "{rank = 4}", "critic.lora": "{rank = 4}"},
    "half, drawing on the CPU": HALF | {"engine.device": '"cpu"'},
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program on a pretended GPU; fails the test where the program fails."""
    return execute(str(TESTS / "pretended_gpu.py"), *map(str, arguments))


def execute(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]
    return found


def train(folder: Path, settings: dict[str, str]) -> list[str]:
    options = [f"{key}={value}" for key, value in (SMALL | settings).items()]
    command = ["-m", "grlo", "train", "recipes/nano.toml", "--run", str(folder)]
    return command + [word for option in options for word in ("--set", option)]


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The first step of the plain recipe."""
    folder = tmp_path_factory.mktemp("cpu") / "run"
    execute(*train(folder, {}))
    return metrics(folder)[0]


def test_a_gpu_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import pytest, torch

here, there = torch.arange(3.0), torch.arange(3.0, device="cuda")
assert there.device == torch.device("cuda", 0)
assert (there + 1).tolist() == [1, 2, 3]
assert there[here.long()].is_cuda
assert (there + torch.tensor(2.0)).is_cuda  # A number may come from the CPU.
places = here.long()
for mix in (lambda: here + there, lambda: here[places.cuda()], lambda: there.gather(0, places)):
    with pytest.raises(RuntimeError, match="two devices"):
        mix()
with pytest.raises(TypeError):
    there.numpy()
with pytest.raises(RuntimeError, match="while a graph is recorded"):
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        there.sum().item()
with pytest.raises(AssertionError):  # In float32, and with int64 lengths.
    torch.ops.aten._flash_attention_forward(
        *[torch.ones(3, 1, 8, device="cuda")] * 3, *[torch.tensor([0, 3], device="cuda")] * 2,
        3, 3, 0.0, True, False, scale=1.0,
    )
graph, doubled = torch.cuda.CUDAGraph(), torch.zeros(3, device="cuda")
with torch.cuda.graph(graph):
    doubled.copy_(2 * there)
assert doubled.tolist() == [0, 0, 0], "what is recorded is not done"
there.fill_(5)
graph.replay()
assert doubled.tolist() == [10, 10, 10]
""",
        encoding="utf-8",
    )
    run(script)


def test_tests_for_gpus_pass() -> None:
    files = ["engines/test_decoding_on_gpus.py", "modeling/test_shared_prefix_attention.py"]
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    names = "a_gpu or recorded"
    found = run("-m", "pytest", *options, "-k", names, *(f"tests/{file}" for file in files))
    assert "21 passed" in found.stdout
    assert "skipped" not in found.stdout


@pytest.mark.parametrize("name", VARIANTS)
def test_a_gpu_trains_as_a_cpu_does(name: str, tmp_path: Path, on_cpu: dict[str, float]) -> None:
    folder = tmp_path / "run"
    found = run(*train(folder, VARIANTS[name] | {"training.device": '"cuda"'}))
    assert "no flash attention" not in found.stderr
    assert "without CUDA graphs" not in found.stderr
    first, second = metrics(folder)
    # The reward model computes in bfloat16 there.
    assert first["reward/mean"] == pytest.approx(on_cpu["reward/mean"], rel=0.1)
    assert first["policy/entropy"] == pytest.approx(on_cpu["policy/entropy"], rel=0.1)
    assert second["engine/logprob_gap"] < (1e-5 if name == "float32" else 0.02)


@pytest.mark.parametrize("section", ["ceilings", "generation", "scoring", "learning", "published"])
def test_sections_of_the_benchmark_run(section: str, tmp_path: Path) -> None:
    options = ["--tiny", "--device", "cuda", "--part", section, "--folder", str(tmp_path)]
    run("bench/gpu.py", *options)
    lines = (tmp_path / f"{section}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 3
    assert not [row for row in rows if {"error", "out_of_memory", "skipped"} & row.keys()]


def test_a_gpu_evaluates(tmp_path: Path) -> None:
    options = ["--suite", "nano", "--limit", "4", "--device", "cuda", "--out", str(tmp_path)]
    found = run("-m", "grlo", "evaluate", ASSETS / "base", *options)
    assert "average of domains" in found.stdout
    assert "no flash attention" not in found.stderr
