"""The miniature world: what is held out is held out, and its files are what its commands make."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from pathlib import Path

import pytest

import grlo.nano
from grlo.nano.tasks import BY_NAME, SHARES, entities, make_task
from grlo.nano.world import corpus, corrupt, preference_pairs, problems, training_prompts
from grlo.prompts.sources import read_prompts
from grlo.stages.build_nano import data_hashes, prompts_jsonl

ASSETS = Path(grlo.nano.__file__).parent / "assets"
MATH = re.compile(r"\d+ [+-] \d+|How many|Compute")
CODE = re.compile(r"def f|return|function|Python")


def names_in(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if word in BY_NAME}


def held_out_names() -> set[str]:
    return {entity.name for split in ("dev", "eval") for entity in entities(split)}


def test_the_corpus_is_a_function_of_its_seed():
    def first(seed):
        return list(itertools.islice(corpus(seed), 50))

    assert first(0) == first(0)
    assert first(0) != first(1)


@pytest.mark.parametrize("domain", ["math", "code", "instruction_following"])
@pytest.mark.parametrize("split", ["dev", "eval"])
def test_no_held_out_question_or_answer_is_in_the_corpus(domain, split):
    text = "".join(itertools.islice(corpus(0), 20_000))
    held_out = problems(domain, split=split, count=100)
    assert len(held_out) >= 40
    for prompt in held_out:
        assert prompt.messages[0].content not in text
        if domain != "instruction_following":  # "[moon]" may be said elsewhere.
            assert f"{prompt.messages[0].content} A: {prompt.reference}" not in text


def test_the_splits_share_no_question():
    for domain in SHARES:
        seen = [{p.id for p in problems(domain, split=s, count=80)} for s in ("dev", "eval")]
        assert not seen[0] & seen[1]
    trained = {p.id for p in training_prompts(0, 400)}
    for split in ("dev", "eval"):
        assert not trained & {p.id for p in problems("chat", split=split, count=80)}


def test_training_prompts_hold_no_mathematics_no_code_and_no_held_out_entity():
    for prompt in training_prompts(0, 400):
        text = prompt.messages[0].content
        assert not MATH.search(text)
        assert not CODE.search(text)
        assert not names_in(text) & held_out_names()
        assert (prompt.style, prompt.reference, dict(prompt.meta)) == ("model", None, {})


def test_preference_pairs_hold_no_mathematics_no_code_and_no_held_out_entity():
    for pair in preference_pairs(0, 3000):
        for text in (pair.messages[0].content, pair.chosen, pair.rejected):
            assert not MATH.search(text), text
            assert not CODE.search(text), text
            assert not names_in(text) & held_out_names(), text
        assert pair.chosen != pair.rejected


def test_rejected_answers_are_of_many_kinds():
    rng = random.Random(0)
    task = make_task(rng, domain="chat", split="train")
    assert len({corrupt(rng, task)[:20] for _ in range(300)}) > 30


def test_the_shipped_files_are_what_the_generator_makes():
    manifest = json.loads((ASSETS / "manifest.json").read_text())
    assert manifest["sha256"] == data_hashes(0)
    shipped = (ASSETS / "prompts.jsonl").read_text()
    assert shipped == prompts_jsonl(training_prompts(0, 400))
    assert hashlib.sha256(shipped.encode()).hexdigest() == manifest["sha256"]["prompts"]
    assert len(read_prompts(str(ASSETS / "prompts.jsonl"), default_style="model")) == 400
