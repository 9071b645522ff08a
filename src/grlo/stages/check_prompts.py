"""Prompts of a recipe: what can be read of them, and how a model reads the first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from grlo.prompts.sources import (
    count_duplicates,
    prompt_lengths,
    read_prompts,
    split_overlong,
    suffix_problems,
)
from grlo.rollout import ChatRenderer
from grlo.settings import Recipe
from grlo.stages.check_findings import Findings, heading
from grlo.types import Message, Prompt

MAX_LINES_SHOWN = 24
MAX_TOKENS_SHOWN = 120


def check_prompts(
    recipe: Recipe, renderer: ChatRenderer | None, findings: Findings
) -> list[Prompt]:
    """All prompts that can be read, over-long ones left out."""
    settings = recipe.prompts
    heading("Prompts")
    prompts = read_sources(recipe, settings.sources, findings, key="prompts")
    if prompts and not (recipe.gold and recipe.gold.sources):  # A suffix may be for held-out ones.
        findings.problems += suffix_problems(prompts, settings.suffixes)
    if not prompts:
        print("none could be read")
        return []
    print(f"{len(prompts)} prompts, {count_duplicates(prompts)} of them repeated")
    for name in ("style", "domain"):
        counts = Counter(getattr(prompt, name) for prompt in prompts)
        print(f"{name}: {', '.join(f'{key} {count}' for key, count in counts.most_common(20))}")
    if renderer is None:
        findings.unchecked.append("lengths of the prompts: there is no renderer")
        return prompts
    with findings.collect():
        lengths = prompt_lengths(prompts, renderer)
        ordered = sorted(lengths)
        quantiles = [ordered[int(share * (len(ordered) - 1))] for share in (0, 0.5, 0.9, 0.99, 1)]
        print("tokens: min {}, median {}, 90 % {}, 99 % {}, max {}".format(*quantiles))
        kept, dropped = split_overlong(
            prompts,
            lengths,
            max_prompt_tokens=settings.max_prompt_tokens,
            overlong=settings.overlong,
        )
        print(f"above {settings.max_prompt_tokens} tokens: {len(dropped)} left out")
        return kept
    return prompts


def read_sources(
    recipe: Recipe, sources: Sequence[str], findings: Findings, *, key: str
) -> list[Prompt]:
    """All prompts of the sources that can be read."""
    settings = recipe.prompts
    prompts: list[Prompt] = []
    for source in sources:
        if findings.is_offline and (source.startswith("hub:") or not Path(source).exists()):
            findings.absent(f"{key}: {source} is not on this machine")
            continue
        with findings.collect():
            prompts += read_prompts(
                source, default_style=settings.default_style, suffixes=settings.suffixes
            )
    return prompts


def show_prompt(renderer: ChatRenderer, messages: Sequence[Message]) -> None:
    """A prompt in tokens, and those that end an answer."""
    heading("First prompt as the policy reads it")
    show_tokens(renderer, renderer.encode(messages))
    stops = renderer.stop_ids
    print("stops at: " + ", ".join(f"{_token_text(renderer, token)} ({token})" for token in stops))


def show_tokens(renderer: ChatRenderer, tokens: Sequence[int]) -> None:
    """Text and ids, one `piece/id` per token; `*` marks stop tokens."""
    half = MAX_TOKENS_SHOWN // 2
    parts = [
        f"{_token_text(renderer, token)}/{token}{'*' * (token in renderer.stop_ids)}"
        for token in tokens
    ]
    if len(parts) > MAX_TOKENS_SHOWN:
        cut = [f"... {len(parts) - 2 * half} more ..."]
        parts = parts[:half] + cut + parts[-half:]
    lines = str(renderer.tokenizer.decode(list(tokens), skip_special_tokens=False)).split("\n")
    if len(lines) > MAX_LINES_SHOWN:
        half = MAX_LINES_SHOWN // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} more lines ...", *lines[-half:]]
    text = "\n".join(lines)
    print(f"{text}\n{len(tokens)} tokens (* ends an answer): {' '.join(parts)}")


def _token_text(renderer: ChatRenderer, token: int) -> str:
    text = renderer.tokenizer.decode([token], skip_special_tokens=False)
    assert isinstance(text, str)
    # Visible white space, and no quotes around it.
    return json.dumps(text, ensure_ascii=False)[1:-1].replace(" ", "␣")
