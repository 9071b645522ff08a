"""Runs benchmarks: problems in, graded samples and their summary out, resumable at every sample.

An evaluation is a reward that nobody trains on: prompts, sampling and scores are those of training.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from grlo import __version__, registry
from grlo.evaluation.journal import Journal, Place, place_of
from grlo.evaluation.respondents import Answer, Respondent, Spent
from grlo.evaluation.results import (
    BenchmarkResult,
    Identity,
    problem_means,
    summarize,
    write_result,
)
from grlo.evaluation.stats import Estimate, paired_difference
from grlo.grading import grade_all
from grlo.interfaces import Benchmark, GradedSample, Progress, Reward, Verifier, silent
from grlo.ledger import PhaseCost, total_usage
from grlo.seeding import derive_seed
from grlo.types import Completion, Message, Prompt, Rollout, Score

# Verdicts that a kill may cost. A grader with many workers idles a little between chunks.
_GRADED_TOGETHER = 256
_NO_JUDGE = "no judge was given: see `grlo evaluate --judge`"


def evaluate(
    respondent: Respondent,
    benchmark: Benchmark,
    *,
    seed: int,
    directory: Path,
    model: Mapping[str, Any],
    overwrite: bool = False,
    cost: PhaseCost | None = None,
    progress: Progress = silent,
) -> BenchmarkResult:
    """Draws and grades the answers of a model to a benchmark, or reads back what is finished.

    Answers and verdicts are kept as they come; a call that was cut short is continued by the next.
    Samples without an answer or a score, for want of a remote model, a sandbox or a judge, are
    tried again by the next call.

    Args:
        respondent: The model.
        benchmark: What is asked.
        seed: Equal seeds draw with equal random numbers, so that models can be paired.
        directory: For `<benchmark>.jsonl` and `summary.json`.
        model: What identifies the model, such as its path and the hash of its weights.
        overwrite: Discards what the directory holds of another model or protocol; without it that
            is an error.
        cost: Takes tokens, operations and requests, also of a call that fails.
        progress: Called as answers are drawn, then as they are graded.

    Raises:
        DataError: The directory holds this benchmark of another model or protocol.
        EndpointError: A remote model or judge can answer no request.
    """
    identity = identify(benchmark, respondent.template(benchmark.shots), seed=seed)
    journal = Journal(
        directory, identity, model=model, is_private=benchmark.is_private, overwrite=overwrite
    )
    if journal.finished is not None and not journal.finished.num_unscored:
        return journal.finished
    cost = cost or PhaseCost()
    try:
        samples = _draw(respondent, benchmark, journal, seed=seed, progress=progress)
    finally:
        _add(cost, respondent.spent())
    scores = _grade(benchmark, samples, journal, cost=cost, progress=progress)
    graded = [
        replace(sample, score=scores[place_of(sample)]) for sample in sorted(samples, key=place_of)
    ]
    result = summarize(benchmark, identity, graded)
    write_result(result, directory, model=model)
    journal.remove()
    return result


def identify(benchmark: Benchmark, template: str, *, seed: int) -> Identity:
    """What determines the result of a benchmark beside the model."""
    problems = hashlib.sha256()
    for prompt in benchmark.prompts:
        turns = [asdict(message) for message in prompt.messages]
        row = [turns, prompt.style, prompt.reference, dict(prompt.meta), *benchmark.shots]
        problems.update(json.dumps(row, sort_keys=True, default=repr).encode())
    grader = registry.identity(benchmark.verifier)
    return Identity(
        benchmark=benchmark.name,
        variant=benchmark.variant,
        version=benchmark.version,
        data_sha256=benchmark.data_sha256,
        problems_sha256=problems.hexdigest(),
        template=template,
        sampling=benchmark.sampling,
        seed=seed,
        grader={"grlo": __version__, **grader} if grader else {},
    )


def gain(before: BenchmarkResult, after: BenchmarkResult, *, seed: int) -> Estimate:
    """How much one model scores above another, paired over the problems that both have scores of.

    Raises:
        ValueError: The results are of unlike protocols, or share no problem.
    """
    if replace(before.identity, seed=0) != replace(after.identity, seed=0):
        raise ValueError(f"results of {before.name} and {after.name} cannot be compared")
    first, second = problem_means(before), problem_means(after)
    common = first.keys() & second.keys()
    return paired_difference(
        {str(problem): first[problem] for problem in common},
        {str(problem): second[problem] for problem in common},
        seed=seed,
    )


# Answers ------------------------------------------------------------------------------------------


def _draw(
    respondent: Respondent,
    benchmark: Benchmark,
    journal: Journal,
    *,
    seed: int,
    progress: Progress,
) -> list[GradedSample]:
    """Samples without scores, all turns of all problems, in no particular order."""
    num_draws = benchmark.sampling.num_samples
    occurrence = _occurrences(benchmark.prompts)
    waiting = {
        (problem, draw, 0): prompt
        for problem, prompt in enumerate(benchmark.prompts)
        for draw in range(num_draws)
    }
    total = num_draws * sum(1 + len(_follow_ups(prompt)) for prompt in benchmark.prompts)
    samples: list[GradedSample] = []
    while waiting:
        places = list(waiting)
        size = respondent.block_size or len(places)
        blocks = [
            {
                place: (waiting[place], _seed(seed, waiting[place], place, occurrence))
                for place in places[start : start + size]
                if place not in journal.answers
            }
            for start in range(0, len(places), size)
        ]
        done = len(samples) + len(places) - sum(map(len, blocks))
        _answer_blocks(
            respondent,
            benchmark,
            journal,
            [block for block in blocks if block],
            progress=_Offset(progress, done=done, total=total),
        )
        answered = {place: _sample(waiting[place], place, journal) for place in places}
        samples += answered.values()
        waiting = {
            (problem, draw, turn + 1): following
            for (problem, draw, turn), sample in answered.items()
            if (following := _following(benchmark.prompts[problem], sample)) is not None
        }
    return samples


_Block = Mapping[Place, tuple[Prompt, int]]
"""What is missing of a block: prompts with their seeds."""


def _answer_blocks(
    respondent: Respondent,
    benchmark: Benchmark,
    journal: Journal,
    blocks: Sequence[_Block],
    *,
    progress: Progress,
) -> None:
    """Answers what is missing. A block of fixed size is recorded as a whole, since its answers
    depend, in their last bits, on what was computed beside them."""

    def answer(block: _Block, *, progress: Progress) -> dict[Place, Answer]:
        places = list(block)

        def record(index: int, answer: Answer) -> None:
            if not respondent.block_size:
                journal.add_answers({places[index]: answer})

        answers = respondent.answer(
            [prompt for prompt, _ in block.values()],
            benchmark.sampling,
            seeds=[seed for _, seed in block.values()],
            draws=[draw for _, draw, _ in places],
            shots=benchmark.shots,
            progress=progress,
            on_answer=record,
        )
        return dict(zip(places, answers, strict=True))

    done, total = 0, sum(map(len, blocks))
    if respondent.num_parallel == 1:
        for block in blocks:
            answers = answer(block, progress=_Offset(progress, done=done, total=total))
            if respondent.block_size:
                journal.add_answers(answers)
            done += len(block)
        return
    tokens = 0
    with ThreadPoolExecutor(respondent.num_parallel) as pool:
        futures = [pool.submit(answer, block, progress=silent) for block in blocks]
        try:
            for future in as_completed(futures):
                answers = future.result()
                journal.add_answers(answers)
                done += len(answers)
                tokens += sum(answer.num_tokens for answer in answers.values())
                progress(done=done, total=total, tokens=tokens)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _follow_ups(prompt: Prompt) -> list[str]:
    return cast("list[str]", list(cast(Any, prompt.meta.get("follow_ups") or ())))


def _following(problem: Prompt, sample: GradedSample) -> Prompt | None:
    """What is asked after an answer, if the problem goes on and there is an answer."""
    follow_ups = _follow_ups(problem)
    if sample.turn >= len(follow_ups) or sample.finish_reason == "failed":
        return None
    answer = Message("assistant", sample.text)
    question = Message("user", follow_ups[sample.turn])
    return replace(problem, messages=(*sample.prompt.messages, answer, question))


def _sample(prompt: Prompt, place: Place, journal: Journal) -> GradedSample:
    problem, draw, turn = place
    answer = journal.answers[place]
    return GradedSample(
        prompt=prompt,
        problem=problem,
        draw=draw,
        turn=turn,
        text=answer.text,
        finish_reason=answer.finish_reason,
        num_tokens=answer.num_tokens,
        score=Score(None, note=answer.note),
    )


def _occurrences(prompts: Sequence[Prompt]) -> list[int]:
    """How often each prompt has stood before: equal prompts are not answered equally."""
    seen: Counter[str] = Counter()
    places = []
    for prompt in prompts:
        places.append(seen[prompt.id])
        seen[prompt.id] += 1
    return places


def _seed(seed: int, prompt: Prompt, place: Place, occurrence: Sequence[int]) -> int:
    """Depends on the problem, not on those beside it, so that a part of a benchmark is answered as
    it is in the whole."""
    problem, draw, turn = place
    return derive_seed(seed, "evaluation", prompt.id, occurrence[problem], draw, turn)


# Scores -------------------------------------------------------------------------------------------


def _grade(
    benchmark: Benchmark,
    samples: Sequence[GradedSample],
    journal: Journal,
    *,
    cost: PhaseCost,
    progress: Progress,
) -> dict[Place, Score]:
    """Scores of all samples; those that a call before has found are taken over."""
    scores = dict(journal.scores)
    for sample in samples:
        if sample.finish_reason == "failed":
            scores[place_of(sample)] = sample.score
    missing = [sample for sample in samples if place_of(sample) not in scores]
    for start in range(0, len(missing), _GRADED_TOGETHER):
        part = missing[start : start + _GRADED_TOGETHER]
        done = len(samples) - len(missing) + start
        found = _verdicts(
            benchmark.verifier,
            part,
            cost=cost,
            progress=_Offset(progress, done=done, total=len(samples)),
        )
        verdicts = {place_of(sample): score for sample, score in zip(part, found, strict=True)}
        journal.add_scores(verdicts)
        scores |= verdicts
    return scores


def _verdicts(
    grader: Verifier | Reward | None,
    samples: Sequence[GradedSample],
    *,
    cost: PhaseCost,
    progress: Progress,
) -> list[Score]:
    if grader is None:
        return [Score(None, note=_NO_JUDGE) for _ in samples]
    if not hasattr(grader, "score"):
        answers = [(sample.prompt, sample.text) for sample in samples]
        return [*map(_finite, grade_all(cast(Verifier, grader), answers, progress=progress))]
    reward = cast(Reward, grader)
    rollouts = [
        Rollout(
            prompt=sample.prompt,
            group=sample.problem,
            prompt_tokens=(),
            completion=Completion((), (), "length" if sample.finish_reason == "length" else "stop"),
            text=sample.text,
        )
        for sample in samples
    ]
    try:
        return [*map(_finite, reward.score(rollouts, progress=progress))]
    finally:  # What a failure has asked for was paid as well.
        _add(cost, Spent(usage=reward.usage()))


def _finite(score: Score) -> Score:
    """A score that is no number is none."""
    parts = {name: value for name, value in score.parts.items() if math.isfinite(value)}
    if score.value is not None and not math.isfinite(score.value):
        return replace(score, value=None, parts=parts, note=f"scored {score.value}; {score.note}")
    return replace(score, parts=parts)


def _add(cost: PhaseCost, spent: Spent) -> None:
    cost.tokens += spent.tokens
    cost.add(spent.work)
    cost.usage = total_usage([cost.usage, spent.usage])


@dataclass(frozen=True)
class _Offset:
    """The progress of a part, as that of the whole."""

    progress: Progress
    done: int
    total: int

    def __call__(self, *, done: int, total: int, tokens: int) -> None:
        self.progress(done=self.done + done, total=self.total, tokens=tokens)
