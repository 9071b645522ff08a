"""The order in which a run sees its prompts."""

from __future__ import annotations

from collections import Counter

import pytest

from grlo.prompts.sampler import PromptSampler
from grlo.types import Message, Prompt

SIZES = [(10, 3), (10, 10), (7, 20), (1, 4), (5, 1)]


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(n), messages=(Message("user", str(n)),)) for n in range(count)]


def stream(sampler: PromptSampler, steps: range) -> list[str]:
    return [prompt.id for step in steps for prompt in sampler.batch(step)]


@pytest.mark.parametrize(("count", "per_step"), SIZES)
def test_every_prompt_occurs_once_per_epoch(count: int, per_step: int) -> None:
    sampler = PromptSampler(make_prompts(count), prompts_per_step=per_step, seed=3)
    ids = stream(sampler, range(1, 3 * count + 1))
    assert len(ids) == 3 * count * per_step
    for start in range(0, len(ids), count):
        assert Counter(ids[start : start + count]) == Counter(map(str, range(count)))


@pytest.mark.parametrize(("count", "per_step"), SIZES)
def test_a_step_does_not_depend_on_the_steps_before_it(count: int, per_step: int) -> None:
    prompts = make_prompts(count)
    whole = stream(PromptSampler(prompts, prompts_per_step=per_step, seed=3), range(1, 20))
    resumed = stream(PromptSampler(prompts, prompts_per_step=per_step, seed=3), range(8, 20))
    assert whole[7 * per_step :] == resumed


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    prompts = make_prompts(50)
    orders = [
        tuple(stream(PromptSampler(prompts, prompts_per_step=50, seed=seed), range(step, step + 1)))
        for seed in (0, 1)
        for step in (1, 2)
    ]
    assert len(set(orders)) == 4
    assert tuple(prompt.id for prompt in prompts) not in orders


def test_steps_count_from_one() -> None:
    with pytest.raises(ValueError, match="count from 1"):
        PromptSampler(make_prompts(2), prompts_per_step=1, seed=0).batch(0)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptSampler([], prompts_per_step=1, seed=0)
