"""Findings of a study that never was, as large as a real one: arms, domains, seeds, transcripts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from grlo.evaluation.decomposition import Decomposition
from grlo.evaluation.elicitation import Elicitation
from grlo.evaluation.over_optimisation import Onset
from grlo.evaluation.stats import Estimate
from grlo.studies.findings import (
    AVERAGE,
    ArmCost,
    ArmFindings,
    BenchmarkFacts,
    CostRatio,
    CurvePoint,
    Form,
    Match,
    PublishedFindings,
    StudyFindings,
    Transcript,
    TranscriptGroup,
)
from grlo.studies.settings import Role

EVIL = (
    "</script></pre><script>alert(1)</script><img src=http://x onerror=alert(2)>"
    "\u202e\x1b[31m\ud800\u2028&"
)
"""What no text may bring about: markup, requests, other directions, a terminal's colours."""
KEPT = {AVERAGE, "share", "base", "treatment", "control", "baseline", "reference"} | {
    "prompts",
    "device_hours",
    "flops",
    "money",
}
"""Texts that mean something to the report itself."""
DOMAINS = ("chat", "instruction_following", "mathematics", "code")
BASE_SCORES = {"chat": 0.21, "instruction_following": 0.34, "mathematics": 0.27, "code": 0.18}
# Key -> label, role, what it trains, gain where it is trained, gain elsewhere.
ARMS: Mapping[str, tuple[str, Role, tuple[str, ...], float, float]] = {
    "base": ("base model", "base", (), 0.0, 0.0),
    "ppo": ("open-ended RL, PPO", "treatment", ("chat",), 0.38, 0.14),
    "grpo": ("open-ended RL, GRPO", "treatment", ("chat",), 0.33, 0.11),
    "shuffled": ("shuffled reward", "control", ("chat",), -0.02, -0.01),
    "random": ("random reward", "control", ("chat",), 0.0, 0.005),
    "own_samples": ("SFT on own samples", "control", ("chat",), 0.01, 0.0),
    "rlvr": ("RLVR on mathematics", "baseline", ("mathematics",), 0.41, 0.02),
    "two_stage": ("open-ended RL, then RLVR", "baseline", ("chat", "mathematics"), 0.36, 0.09),
}
VOCABULARY = """
    the of a and to in is that it as with for on be at by this from or which are count sum then
    first next add multiply divide equals therefore answer step because result value number list
    string return while loop value poem river garden question reply short long
"""


def estimate(value: float, half: float = 0.02) -> Estimate:
    """A number with an interval of `half` at either side."""
    return Estimate(value, half / 1.96, value - half, value + half)


def make_study(
    *,
    arms: Sequence[str] = tuple(ARMS),
    domains: Sequence[str] = DOMAINS,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    per_benchmark: int = 40,
    with_curves: bool = True,
    **changes: Any,
) -> StudyFindings:
    """A study in which everything is there; `changes` are fields of the result."""
    rng = random.Random(7)
    made = tuple(make_arm(name, domains, tuple(seeds), rng, with_curves) for name in arms)
    found = {
        "title": "The miniature: does open-ended RL transfer at equal cost?",
        "question": "A base language model is trained on chat prompts against a reward model of "
        "chat. Does that make it better at mathematics, code and instructions, of which neither "
        "has seen any? And does a control without the signal rise as well?",
        "answer": (
            "Yes: open-ended RL, PPO, trained on chat only, changed what it was not trained on by "
            "instruction following +14.2 [+12.1, +16.3]; mathematics +13.5 [+11.2, +15.8]; code "
            "+14.9 [+12.8, +17.0] points over the base (95 % intervals).",
            "Where it was trained: chat +38.1 [+36.0, +40.2]. It took 4,096 prompts (1,024 "
            "different ones), 12 min 40 s of 1 x cpu and 3.1e+13 FLOPs with each seed.",
            "The control shuffled reward does not rise: average -1.1 [-2.9, +0.7] points.",
            "Against RLVR on mathematics at equal cost: higher in code and instruction following, "
            "lower in mathematics.",
        ),
        "notes": (
            "Scores are means over answers, problems and seeds, in percent. Intervals are of 95 %: "
            "clustered by problem and by seed, with the t distribution: they speak of other "
            "problems and other training seeds alike. Gains are paired by problem and seed. "
            "Domains count equally in the average, benchmarks equally in their domain.",
            "open-ended RL, GRPO: 3 answers could not be scored.",
        ),
        "seeds": tuple(seeds),
        "base": "base" if "base" in arms else "",
        "arms": made,
        "benchmarks": tuple(
            BenchmarkFacts(
                name=f"nano_{domain}",
                domain=domain,
                unit="share",
                num_problems=200,
                num_samples=4,
                source="made by grlo.nano with seed 11",
                protocol="zero-shot, temperature 0.7, at most 96 tokens, exact match of the answer",
                is_private=False,
            )
            for domain in domains
            if made
        ),
        "domains": tuple(domains),
        "matching": "Trained arms may spend the FLOPs that open-ended RL, PPO has spent with the "
        "same seed.",
        "currency": "USD",
        "ratios": RATIOS,
        "published": PUBLISHED,
        "failures": (),
        "data": ({**RECORD, "manifest": MANIFEST},),
        "versions": {"python": "3.11.2", "torch": "2.11.0", "transformers": "5.5.3"},
        "commit": "727915c0c0ffee",
        "command": "grlo study nano.toml --out nano-study",
        "transcripts": tuple(
            make_group(domain, number, list(arms), rng)
            for domain in domains
            for number in range(per_benchmark)
        ),
    }
    return StudyFindings(**{**found, **changes})


def make_arm(
    name: str,
    domains: Sequence[str],
    seeds: tuple[int, ...],
    rng: random.Random,
    with_curves: bool = True,
) -> ArmFindings:
    """An arm with everything that its role has."""
    label, role, trains, own_gain, transfer = ARMS[name]
    is_base = role == "base"
    gains = {d: own_gain if d in trains else transfer * rng.uniform(0.8, 1.2) for d in domains}
    gains = {AVERAGE: sum(gains.values()) / len(gains), **gains}
    scores = {d: BASE_SCORES.get(d, 0.25) + gains[d] for d in domains}
    scores = {AVERAGE: sum(scores.values()) / len(scores), **scores}
    return ArmFindings(
        name=name,
        label=label,
        role=role,
        description="PPO with GAE and a critic, as published; chat prompts, reward model of chat."
        if name == "ppo"
        else "",
        model="nano:base",
        trains=trains,
        seeds=seeds,
        unfinished=(),
        benchmarks={f"nano_{d}": estimate(scores[d], 0.025) for d in domains},
        domains={d: estimate(value) for d, value in scores.items()},
        benchmark_gains={} if is_base else {f"nano_{d}": estimate(gains[d], 0.03) for d in domains},
        domain_gains={} if is_base else {d: estimate(g, 0.021) for d, g in gains.items()},
        by_seed={d: tuple(v + rng.gauss(0, 0.01) for _ in seeds) for d, v in scores.items()},
        forms={
            d: Form(0.6 + gains[d], 0.4 - gains[d], 0.12 if d != "chat" else None, 61.2, 0)
            for d in scores
        },
        ended={d: estimate(min(1.0, scores[d] * 1.2)) for d in domains},
        lenient={f"nano_{d}": scores[d] + 0.05 for d in domains if d in ("mathematics", "code")},
        attempts={d: 0.7 for d in domains if d == "code"},
        decomposition={}
        if is_base
        else {
            d: Decomposition(0.3 * g + 0.01, 0.2 * g - 0.02, 0.5 * g + 0.01)
            for d, g in gains.items()
        },
        elicitation={}
        if is_base
        else {f"nano_{d}": make_elicitation(scores[d], d) for d in domains if d != "chat"},
        cost=None if is_base else make_cost(name, rng),
        match=None if is_base or name == "ppo" else Match("flops", 3.1e13, 3.13e13, 0.011),
        rewards={}
        if is_base or not with_curves
        else {
            s: tuple((float(n), own_gain * n / 300 + rng.gauss(0, 0.05)) for n in range(1, 301))
            for s in seeds
        },
        curves=()
        if is_base or not with_curves
        else tuple(
            CurvePoint(
                seed=seed,
                step=step,
                device_hours=step * 0.0007 * (1 + 0.05 * seed),
                reward=own_gain * step / 300 + rng.gauss(0, 0.02) if step else None,
                domains={
                    d: v - gains[d] * (1 - step / 300) ** 2 + rng.gauss(0, 0.01)
                    for d, v in scores.items()
                },
            )
            for seed in seeds
            for step in range(0, 301, 30)
        ),
        correlation=None if is_base or not with_curves else 0.93 if transfer > 0.05 else -0.1,
        onsets={}
        if is_base or not with_curves
        else {s: make_onset() if name == "grpo" and s == 2 else None for s in seeds},
        looks=(
            "seed 2: look: score and length correlate 0.61 in the last 10 steps",
            "seed 4: look: the median answer went from 31 to 58 tokens",
        )
        if name == "grpo"
        else (),
    )


def make_elicitation(score: float, domain: str) -> Elicitation:
    base = {
        k: 1 - (1 - BASE_SCORES.get(domain, 0.25)) ** (1 + k / 4) for k in (1, 2, 4, 8, 16, 32, 64)
    }
    return Elicitation(
        base_pass_at=base,
        trained_pass_at_1=score,
        reached_at=4 if score > 0.3 else None,
        num_draws=64,
        num_problems=200,
        num_new=3,
        num_elicited=41,
        num_kept=30,
        num_lost=7,
    )


def make_onset() -> Onset:
    return Onset(
        best_step=210,
        best_score=0.412,
        since=240,
        num_parted=3,
        last_step=300,
        last_score=0.371,
        reward_at_best=0.22,
        last_reward=0.33,
    )


def make_cost(name: str, rng: random.Random) -> ArmCost:
    hours = {"generate": 0.11, "score": 0.02, "annotate": 0.015, "update": 0.06, "sync": 0.002}
    if name == "own_samples":
        hours = {"generate": 0.05, "update": 0.14}
    factor = rng.uniform(0.9, 1.1)
    return ArmCost(
        device_hours=factor * sum(hours.values()),
        flops=3.1e13 * factor,
        generated_tokens=1.3e6,
        trained_tokens=1.2e6,
        prompts=4096.0,
        distinct_prompts=1024.0,
        other_hours={
            "load": 0.001,
            "checkpoint": 0.004,
            "evaluate": 0.03,
            "idle": 0.002,
            "failed": 0.0,
            "repeated": 0.006,
            "benchmarks": 0.05,
        },
        phases={phase: factor * own for phase, own in hours.items()},
        components={"policy forward": 1.1e13, "policy backward": 1.6e13, "reward model": 0.4e13},
        money=0.0123,
        energy_joules=None,
        utilisation=0.31,
        peak_memory_bytes=3 * 2**29,
        devices=("1 x cpu",),
    )


def make_group(domain: str, number: int, arms: list[str], rng: random.Random) -> TranscriptGroup:
    words = VOCABULARY.split()

    def text(count: int) -> str:
        return " ".join(rng.choice(words) for _ in range(count))

    answers = []
    for name in arms:
        tokens = rng.randint(20, 200)
        answers.append(
            Transcript(
                arm=name,
                text=text(tokens // 2).capitalize() + f". The answer is {rng.randint(1, 99)}.",
                score=float(rng.random() < (0.3 if name == "base" else 0.55)),
                reward=rng.gauss(0.0 if name == "base" else 1.0, 1.0),
                tokens=tokens,
                finish_reason=rng.choice(["stop", "stop", "length"]),
                note="",
            )
        )
    return TranscriptGroup(
        benchmark=f"nano_{domain}",
        domain=domain,
        problem=5 * number,
        question=f"Problem {number} of {domain}: " + text(30) + "?",
        reference=str(rng.randint(1, 99)) if domain != "chat" else "",
        answers=tuple(answers),
    )


RATIOS = (
    CostRatio(
        of="open-ended RL, PPO",
        to="RLVR on mathematics",
        ratios={"prompts": 8.76, "device_hours": 1.02, "flops": 1.0},
        warnings=(),
    ),
    CostRatio(
        of="open-ended RL, PPO",
        to="General-Reasoner 4B",
        ratios={"prompts": 46.2, "device_hours": 21.0},
        warnings=(
            "models differ: nano and Qwen3-4B-Base",
            "hardware differs: 1 x cpu and 32 x H100",
            "sampling differs: 1 sample of at most 96 tokens and 8 samples of at most 4096 tokens",
        ),
    ),
)
PUBLISHED = (
    PublishedFindings(
        name="General-Reasoner 4B",
        source="arXiv:2505.14652, table 2",
        model="Qwen3-4B-Base",
        hardware="32 x H100",
        sampling="8 samples of at most 4096 tokens",
        note="Hours are those of the longest run.",
        costs={"prompts": 232000.0, "device_hours": 1920.0},
        scores={"mathematics": 62.4, "MMLU-Pro": 62.8},
    ),
    PublishedFindings(
        name="GRLO",
        source="arXiv:2605.15464, table 1",
        model="Qwen3-4B-Base",
        hardware="8 x H100",
        sampling="1 sample of at most 3072 tokens",
        note="",
        costs={"prompts": 10000.0, "device_hours": 25.0, "money": 60.0},
        scores={"mathematics": 61.0},
    ),
)
RECORD: Mapping[str, Any] = {
    "file": "prompts/chat/prompts.jsonl",
    "sha256": "ab" * 32,
    "manifest_sha256": "cd" * 32,
    "made_by": "grlo prompts build",
    "rows": 1024,
    "matches": True,
    "arms": ["open-ended RL, PPO", "open-ended RL, GRPO"],
}
MANIFEST: Mapping[str, Any] = {
    "made_by": "grlo prompts build",
    "version": "0.1.0",
    "recipe": {"seed": 0, "filters": {"safety": True}},
    "sources": [
        {
            "name": "first",
            "source": "first.jsonl",
            "sha256": "ef" * 32,
            "rows_sha256": "",
            "weight": 1.0,
            "rows": 3000,
            "kept": 1024,
            "dropped": {"length": 900, "overlap": 12},
        }
    ],
    "cleaned": 3,
    "steps": [
        {"step": "length", "dropped": 900, "left": 2100, "examples": []},
        {"step": "overlap", "dropped": 12, "left": 2088, "examples": []},
    ],
    "topics": {"number": 12, "method": "shared words"},
    "selection": {"open_qa": {"wanted": 300, "available": 280, "taken": 280}},
    "overlap": {
        "method": "lexical",
        "dropped": 12,
        "to_review": 4,
        "not_audited": ["gpqa_diamond: no data"],
        "benchmarks": [{"name": "math500", "num_problems": 500}],
    },
    "description": {
        "categories": {"open_qa": 500, "creative_writing": 524},
        "tasks": {"question": 600, "rewrite": 424},
        "lengths": {"1-10": 200, "11-100": 824},
    },
    "result": {"file": "prompts.jsonl", "sha256": "ab" * 32, "rows": 1024},
}


def poisoned(value: Any, *, with_keys: bool = True) -> Any:
    """Every text with something behind it that should never work."""
    if isinstance(value, str):
        return value if value in KEPT else value + EVIL
    if isinstance(value, Mapping):
        return {
            poisoned(key) if with_keys else key: poisoned(item, with_keys=with_keys)
            for key, item in value.items()
        }
    if isinstance(value, (tuple, list)):
        return type(value)(poisoned(item, with_keys=with_keys) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value)}
        changed = {k: poisoned(v, with_keys=k != "data") for k, v in own.items()}
        return replace(value, **changed)
    return value
