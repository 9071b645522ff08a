"""The answers that a report shows side by side, picked before anybody looks at them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grlo.evaluation.results import BenchmarkResult, read_results
from grlo.interfaces import GradedSample
from grlo.studies.findings import Transcript, TranscriptGroup
from grlo.studies.layout import Job, StudyDir
from grlo.studies.loading import Study
from grlo.types import Completion, Rollout

MAX_CHARACTERS = 6000
"""Of a question or an answer that is shown."""


@dataclass(frozen=True)
class Picked:
    """One answer of one arm."""

    arm: str
    benchmark: str
    domain: str
    sample: GradedSample

    @property
    def key(self) -> str:
        """Hash of the question and the answer."""
        asked = [message.content for message in self.sample.prompt.messages]
        text = "\x1f".join([*asked, self.sample.text])
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]

    @property
    def rollout(self) -> Rollout:
        """As a reward reads it: its text."""
        completion = Completion(tokens=(), logprobs=(), finish_reason="stop")
        return Rollout(self.sample.prompt, 0, (), completion, self.sample.text)


def pick(study: Study, folder: StudyDir) -> list[Picked]:
    """The first answer of each finished arm, with the first seed, to evenly spaced problems;
    private benchmarks are left out."""
    return [
        Picked(name, result.name, result.domain, sample)
        for name, arm in study.settings.arms.items()
        for job in [Job(name, study.settings.seeds[0])]
        if arm.role != "stage" and folder.require_same(study, job)
        for result in read_results(folder.job(job).evaluation)
        for sample in spaced(result, study.settings.transcripts.per_benchmark)
    ]


def grouped(
    picked: Sequence[Picked], *, rewards: Mapping[str, float | None]
) -> list[TranscriptGroup]:
    """The answers of all arms to each problem.

    Args:
        picked: In the order of arms.
        rewards: Key of an answer -> its reward.
    """
    groups: dict[tuple[str, int], list[Picked]] = {}
    for own in picked:
        groups.setdefault((own.benchmark, own.sample.problem), []).append(own)
    return [
        TranscriptGroup(
            benchmark=benchmark,
            domain=answers[0].domain,
            problem=problem,
            question=_cut("\n\n".join(m.content for m in answers[0].sample.prompt.messages)),
            reference=_cut(answers[0].sample.prompt.reference or ""),
            answers=tuple(_transcript(own, rewards.get(own.key)) for own in answers),
        )
        for (benchmark, problem), answers in groups.items()
    ]


def spaced(result: BenchmarkResult, count: int) -> list[GradedSample]:
    """The first answers to `count` problems, evenly spaced over all."""
    if result.is_private or not count:
        return []
    first: dict[int, GradedSample] = {}
    for sample in result.samples:
        first.setdefault(sample.problem, sample)
    problems = sorted(first)
    step = max(1.0, len(problems) / count)
    return [first[problems[int(i * step)]] for i in range(min(count, len(problems)))]


def _transcript(own: Picked, reward: float | None) -> Transcript:
    sample = own.sample
    return Transcript(
        arm=own.arm,
        text=_cut(sample.text),
        score=sample.score.value,
        reward=reward,
        tokens=sample.num_tokens,
        finish_reason=sample.finish_reason,
        note=_cut(sample.score.note),
    )


def _cut(text: str) -> str:
    more = len(text) - MAX_CHARACTERS
    return text if more <= 0 else f"{text[:MAX_CHARACTERS]} ... {more:,} more characters"
