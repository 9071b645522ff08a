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
from grlo.errors import DataError
from grlo.nano.grading import grade_chat
from grlo.nano.tasks import BY_NAME, SHARES, entities, make_task
from grlo.nano.world import (
    corpus,
    corrupt,
    demonstrations,
    preference_pairs,
    problems,
    training_prompts,
)
from grlo.prompts.demonstrations import read_demonstrations
from grlo.prompts.sources import read_prompts
from grlo.stages.build_nano import World, data_hashes, prompts_jsonl

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
    assert manifest["sha256"] == data_hashes(World())
    shipped = (ASSETS / "prompts.jsonl").read_text()
    assert shipped == prompts_jsonl(training_prompts(0, 400))
    assert hashlib.sha256(shipped.encode()).hexdigest() == manifest["sha256"]["prompts"]
    assert len(read_prompts(str(ASSETS / "prompts.jsonl"), default_style="model")) == 400


SAID_OF = {
    "math": re.compile(r"What is \d+ [+-]|Compute \d+|How many \w+ now"),
    "code": re.compile(r"(?:function f|code for f|def f)\b"),
}


def domains_in(document: str) -> set[str]:
    """Domains whose questions a document holds, told by their phrasing."""
    questions = re.findall(
        r"(?:Exercise|Question|Q): (.*?)(?: A:|\n|$)|user\n(.*?)<\|im_end\|>", document
    )
    found = set()
    for question in (one or other for one, other in questions):
        named = [domain for domain, shape in SAID_OF.items() if shape.search(question)]
        found.add(named[0] if named else "words")
    return found


def test_documents_of_the_separate_world_hold_one_domain_and_those_of_the_mixed_one_several():
    separate = [domains_in(d) for d in itertools.islice(corpus(0, mixed=False), 3000)]
    mixed = [domains_in(d) for d in itertools.islice(corpus(0), 3000)]
    assert all(len(found) == 1 for found in separate)
    assert sum(len(found) > 1 for found in mixed) > 600
    for domain, share in (("math", SHARES["math"]), ("code", SHARES["code"])):
        assert sum(domain in found for found in separate) / 3000 == pytest.approx(share, abs=0.03)


def test_pairs_of_mathematics_prefer_right_answers_to_wrong_ones():
    pairs = preference_pairs(0, 600, domains=("chat", "math"))
    math = [pair for pair in pairs if MATH.search(pair.messages[0].content)]
    assert len(math) == 300
    wrong_results = 0
    for pair in math:
        question = pair.messages[0].content
        one, other = map(int, re.findall(r"\d+", question))
        result = one - other if re.search(r" - |loses", question) else one + other
        assert pair.chosen.endswith(f"The answer is {result}.")
        stated = re.findall(r"answer is (-?\d+)", pair.rejected)
        wrong_results += bool(stated) and stated[0] != str(result)
    assert wrong_results > 60, "the subtlest faults are wrong results in right form"


def test_demonstrations_are_right_answers_to_the_training_prompts():
    shipped = read_demonstrations(str(ASSETS / "chat_demonstrations.jsonl"))
    assert [d.messages for d in shipped] == [p.messages for p in training_prompts(0, 400)]
    assert [d.response for d in shipped] == [d.response for d in demonstrations(0, 400)]
    graded = {p.messages: p for p in problems("chat", split="train", count=2000)}
    scores = [grade_chat(graded[d.messages], d.response).value for d in shipped]
    assert set(scores) == {1.0}


def test_more_prompts_than_the_world_has_are_refused():
    with pytest.raises(DataError, match=r"has 540 chat prompts; 541 were asked for"):
        training_prompts(0, 541)
