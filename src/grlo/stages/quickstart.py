"""`grlo quickstart`: the embedded miniature before RL, after it, and after a control.

Finished parts are not repeated: evaluations are read back and training resumes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import Console

import grlo.nano
from grlo.errors import CheckpointError, GrloError
from grlo.evaluation.evaluator import BenchmarkResult, domain_scores, gain
from grlo.evaluation.stats import Estimate, average
from grlo.progress import progress_bar
from grlo.recipe import load_recipe
from grlo.reporting.figures import COLORS, bar_chart, line_chart
from grlo.reporting.html import heading, html_table, page, paragraph, quoted
from grlo.reporting.tables import duration, make_table, percent
from grlo.rewards.reward_model import RewardModelSettings
from grlo.rundir import RunDir, write_atomic
from grlo.settings import Recipe
from grlo.stages.evaluate import run_benchmarks

RECIPE = Path(grlo.nano.__path__[0]) / "recipe.toml"
ARMS = {
    "base": "base",
    "open_ended_rl": "open-ended RL",
    "shuffled_reward": "shuffled reward",
}
"""Arms by their key in `summary.json`, as people read them."""
DOMAINS = {
    "chat": "chat",
    "instruction_following": "instructions",
    "math": "mathematics",
    "code": "code",
}
BENCHMARKS = {domain: f"nano_{domain}" for domain in DOMAINS}
TRAINED = ("open_ended_rl", "shuffled_reward")
_POLL_SECONDS = 0.2
_LOG_LINES = 15


@dataclass(frozen=True)
class Arm:
    """What became of one arm."""

    results: Mapping[str, BenchmarkResult]
    """By domain."""
    domains: Mapping[str, Estimate]
    average: Estimate
    differences: Mapping[str, Estimate]
    """Against the base model, paired by problem; of every domain."""
    num_prompts: int = 0
    """Prompts that training drew; one may come again."""
    num_tokens: int = 0
    """Tokens that training generated."""
    seconds: float = 0.0
    """Wall-clock seconds of training."""
    rewards: tuple[tuple[float, float], ...] = ()
    """Step and mean reward before shuffling."""


def quickstart(*, run_dir: Path, seed: int = 0) -> dict[str, object]:
    """Evaluates the base model, trains two arms, evaluates both, and reports.

    Args:
        run_dir: New folder, or that of an earlier call with the same seed.
        seed: Of training and evaluation.

    Returns:
        What `summary.json` holds.

    Raises:
        CheckpointError: `run_dir` holds a quickstart with another seed.
        GrloError: An arm could not be trained; the message ends with its last words.
    """
    start = time.perf_counter()
    recipe = load_recipe([RECIPE], overrides=[f"seed={seed}"])
    _require_seed(run_dir, seed)
    console = Console()
    console.print(
        "A base language model of 0.65 million parameters learns from a reward model, on chat "
        "prompts only. Does that make it better at mathematics and code, of which neither the "
        "prompts nor the reward model have seen any? The control gets the same rewards, dealt out "
        "at random.\n"
    )
    # For so small a model a second thread costs more than it gives, and results do not depend on
    # how many cores there are.
    torch.set_num_threads(1)

    def measure(arm: str, model: str) -> list[BenchmarkResult]:
        return run_benchmarks(
            model,
            benchmarks=list(BENCHMARKS.values()),
            out=run_dir / "evaluations" / arm,
            seed=seed,
            device=recipe.training.device,
        )

    with _stage(console, "1/3", "evaluating the base model"):
        results = {"base": measure("base", recipe.policy.model)}
    steps = recipe.training.steps
    with _stage(console, "2/3", f"training both arms for {steps} steps, one CPU core each"):
        _train_arms(run_dir, recipe)
    with _stage(console, "3/3", "evaluating both trained models"):
        for arm in TRAINED:
            results[arm] = measure(arm, str(run_dir / arm))

    arms = {arm: _arm(run_dir / arm, results[arm], results["base"], recipe) for arm in ARMS}
    # What an earlier, interrupted call has finished was not waited for now, but it took its time.
    work = sum(result.seconds for arm in arms.values() for result in arm.results.values())
    work += max(arm.seconds for arm in arms.values())
    seconds = max(time.perf_counter() - start, work)
    summary: dict[str, object] = {
        "arms": {name: _summary(arm) for name, arm in arms.items()},
        "seconds": round(seconds, 1),
    }
    write_atomic(run_dir / "summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    write_atomic(run_dir / "report.html", report(arms, recipe=recipe, seconds=seconds))
    _show(console, arms, seconds=seconds, run_dir=run_dir)
    return summary


@contextmanager
def _stage(console: Console, number: str, what: str) -> Iterator[None]:
    start = time.perf_counter()
    console.print(f"[bold]{number}[/bold] {what} ...", highlight=False)
    yield
    console.print(f"    {duration(time.perf_counter() - start)}", highlight=False)


def _require_seed(run_dir: Path, seed: int) -> None:
    for arm in TRAINED:
        run = RunDir(run_dir / arm)
        if run.recipe_file.is_file() and run.record()["recipe"]["seed"] != seed:
            raise CheckpointError(
                f"{run_dir} holds a quickstart with seed {run.record()['recipe']['seed']}, not "
                f"{seed}. Choose another --run."
            )


# Training -----------------------------------------------------------------------------------------


def _train_arms(run_dir: Path, recipe: Recipe) -> None:
    """Trains the arms side by side, one process and one thread each."""
    run_dir.mkdir(parents=True, exist_ok=True)
    reward_model = cast(RewardModelSettings, recipe.reward).model
    shuffled = ("reward.name=shuffled", f"reward.model={reward_model}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for arm in TRAINED:
            settings = [f"seed={recipe.seed}", "training.num_threads=1"]
            settings += shuffled if arm == "shuffled_reward" else ()
            command = [sys.executable, "-m", "grlo", "train", str(RECIPE)]
            command += ["--run", str(run_dir / arm)]
            command += [word for setting in settings for word in ("--set", setting)]
            with _log_file(run_dir, arm).open("wb") as log:
                processes[arm] = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        _wait(run_dir, processes, total=recipe.training.steps)
    except KeyboardInterrupt:
        # The terminal has told the arms as well; each saves the step it is in and ends.
        for process in processes.values():
            process.wait()
        print("stopped; the same command goes on from here")
        raise
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def _wait(run_dir: Path, processes: Mapping[str, subprocess.Popen[bytes]], *, total: int) -> None:
    with progress_bar("training, steps of both arms") as progress:
        while True:
            codes = [process.poll() for process in processes.values()]
            rows = [row for arm in processes for row in RunDir(run_dir / arm).metrics()]
            progress(
                done=len(rows),
                total=total * len(processes),
                tokens=round(sum(row["tokens/generated"] for row in rows)),
            )
            for arm, code in zip(processes, codes, strict=True):
                if code:
                    raise GrloError(_last_words(run_dir, arm, code))
            if None not in codes:
                return
            time.sleep(_POLL_SECONDS)


def _log_file(run_dir: Path, arm: str) -> Path:
    return run_dir / f"{arm}.log"


def _last_words(run_dir: Path, arm: str, code: int) -> str:
    log = _log_file(run_dir, arm)
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join(
        [f"training of arm {arm} ended with exit code {code}; the end of {log}:", *lines]
    )


# Results ------------------------------------------------------------------------------------------


def _arm(
    run_dir: Path, results: list[BenchmarkResult], base: list[BenchmarkResult], recipe: Recipe
) -> Arm:
    domains = domain_scores(results)
    missing = [result for result in results if result.domain not in domains]
    if missing:
        raise GrloError(
            f"{missing[0].name}: no answer could be graded, the first because "
            f"{missing[0].scores[0].note}"
        )
    run = RunDir(run_dir)
    rows = run.metrics()
    per_step = recipe.sampling.prompts_per_step
    return Arm(
        results={result.domain: result for result in results},
        domains=domains,
        average=average(list(domains.values())),
        differences={
            after.domain: gain(before, after, seed=recipe.seed)
            for before, after in zip(base, results, strict=True)
        },
        num_prompts=per_step * len(rows),
        num_tokens=round(sum(row["tokens/generated"] for row in rows)),
        seconds=sum(entry.seconds for entry in run.ledger()),
        rewards=tuple((row["step"], row["reward/mean"]) for row in rows),
    )


def _pooled(arm: Arm, quantity: str) -> float:
    """A quantity of the results over all answers of the arm."""
    results = list(arm.results.values())
    total = sum(getattr(result, quantity) * len(result.rollouts) for result in results)
    return total / sum(len(result.rollouts) for result in results)


def _summary(arm: Arm) -> dict[str, object]:
    """Percentages, and what else the table shows."""
    scores = {**arm.domains, "average": arm.average}
    return {
        **{name: round(100 * score.value, 2) for name, score in scores.items()},
        "interval_95": {name: _interval(score) for name, score in scores.items()},
        "gain_over_base_95": {name: _interval(gain) for name, gain in arm.differences.items()},
        "attempt": {
            domain: round(100 * result.parts["attempt"], 2)
            for domain, result in arm.results.items()
            if "attempt" in result.parts
        },
        "unscored": sum(result.num_unscored for result in arm.results.values()),
        "stops": round(100 * _pooled(arm, "stop_share"), 2),
        "mean_tokens": round(_pooled(arm, "mean_tokens"), 2),
        "training_prompts": arm.num_prompts,
        "training_tokens": arm.num_tokens,
        "training_seconds": round(arm.seconds, 1),
    }


def _interval(estimate: Estimate) -> list[float]:
    return [round(100 * estimate.low, 2), round(100 * estimate.high, 2)]


def table_rows(arms: Mapping[str, Arm]) -> list[list[str]]:
    """The table of the arms, a row per measure."""

    def row(label: str, cells: list[str]) -> list[str]:
        return [label, *cells]

    def score(estimate: Estimate) -> str:
        return percent(estimate.value, interval=(estimate.low, estimate.high))

    every = list(arms.values())
    return [
        *(row(f"{DOMAINS[key]}, %", [score(a.domains[key]) for a in every]) for key in DOMAINS),
        row("average, %", [score(a.average) for a in every]),
        row("answers that end, %", [percent(_pooled(a, "stop_share")) for a in every]),
        row("tokens per answer", [f"{_pooled(a, 'mean_tokens'):.1f}" for a in every]),
        row("training prompts", [f"{a.num_prompts:,}" for a in every]),
        row("training tokens", [f"{a.num_tokens:,}" for a in every]),
        row("training seconds", [f"{a.seconds:.0f}" for a in every]),
    ]


def _findings(arms: Mapping[str, Arm]) -> list[str]:
    """One line per trained arm: what it gained over the base model, paired by problem."""
    lines = []
    for name in TRAINED:
        gains = [
            f"{DOMAINS[domain]} {100 * gain.value:+.1f} "
            f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
            for domain, gain in arms[name].differences.items()
        ]
        lines.append(f"{ARMS[name]} against base, in points: {'; '.join(gains)}")
    return lines


def _examples(arms: Mapping[str, Arm]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The first problem of each benchmark, and the first answer of each arm: not chosen."""
    for domain in DOMAINS:
        prompt = arms["base"].results[domain].rollouts[0].prompt
        answers = []
        for name, arm in arms.items():
            result = arm.results[domain]
            rollout, score = result.rollouts[0], result.scores[0]
            verdict = "right" if score.value else f"wrong ({score.note})"
            if rollout.completion.finish_reason == "length":
                verdict += ", cut off"
            answers.append((f"{ARMS[name]}: {verdict}", rollout.text.strip()))
        yield prompt.messages[-1].content, answers


def _show(console: Console, arms: Mapping[str, Arm], *, seconds: float, run_dir: Path) -> None:
    def say(text: str = "") -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say("\nThe first question of each benchmark, and the first answer of each model:")
    for question, answers in _examples(arms):
        say(f"\n? {question}")
        for label, text in answers:
            say(f"  {label}\n    {' / '.join(text.splitlines()) or '(nothing)'}")
    console.print()
    console.print(
        make_table(
            ["", *ARMS.values()],
            table_rows(arms),
            title="Held-out questions, with 95 % intervals",
        )
    )
    for line in _findings(arms):
        console.print(line, markup=False, highlight=False)
    say(f"\nTook {duration(seconds)}. Numbers: {run_dir / 'summary.json'}")
    say(f"Talk to it: grlo chat {run_dir / 'open_ended_rl'} --max-tokens 60 --temperature 1")
    say(f"Report: {run_dir / 'report.html'}")


def report(arms: Mapping[str, Arm], *, recipe: Recipe, seconds: float) -> str:
    """The page with table, charts and answers; all that models wrote is escaped."""
    bars = {
        ARMS[name]: [
            (100 * score.value, max(0.0, 100 * score.low), min(100.0, 100 * score.high))
            for score in (*(arm.domains[domain] for domain in DOMAINS), arm.average)
        ]
        for name, arm in arms.items()
    }
    curves = {ARMS[name]: arms[name].rewards for name in TRAINED}
    sections = [
        paragraph(
            "A base language model was trained by PPO against a reward model, on chat prompts; "
            "neither prompts nor reward model contain mathematics or code. The control was trained "
            "in the same way with the rewards of each step dealt out at random. Questions, graders "
            f"and sampling (temperature 1) are the same for all arms. Seed {recipe.seed}; "
            f"{duration(seconds)}."
        ),
        heading("Results"),
        html_table(["", *ARMS.values()], table_rows(arms)),
        paragraph(
            "In brackets are 95 % intervals, with errors clustered by problem. Differences "
            "below are paired by problem, with intervals by bootstrap."
        ),
        *map(paragraph, _findings(arms)),
        bar_chart([*DOMAINS.values(), "average"], bars, title="Accuracy on held-out questions, %"),
        line_chart(
            curves,
            title="Mean reward of the answers of a training step",
            x_label="step",
            colors=COLORS[1:],
        ),
        heading("Answers"),
        paragraph("The first question of each benchmark, and the first answer of each model."),
    ]
    for question, answers in _examples(arms):
        sections.append(quoted("question", question))
        sections += [quoted(label, text) for label, text in answers]
    return page("grlo quickstart", sections)
