"""The miniature's graders: right answers, near misses and hostile text."""

from __future__ import annotations

import itertools
import random

import pytest

from grlo.nano.grading import grade_chat, grade_code, grade_instruction, grade_math
from grlo.nano.tasks import make_task
from grlo.nano.world import corrupt, problems
from grlo.types import Prompt

GRADERS = {
    "chat": grade_chat,
    "instruction_following": grade_instruction,
    "math": grade_math,
    "code": grade_code,
}


def prompt(reference: str = "", **meta) -> Prompt:
    return Prompt(id="", messages=(), reference=reference, meta=meta)


@pytest.mark.parametrize("domain", GRADERS)
@pytest.mark.parametrize("split", ["train", "dev", "eval"])
def test_every_reference_answer_is_right_and_an_attempt(domain, split):
    for problem in problems(domain, split=split, count=100):
        score = GRADERS[domain](problem, problem.reference)
        assert (score.value, score.parts["attempt"]) == (1.0, 1.0), (problem, score)


@pytest.mark.parametrize("domain", GRADERS)
def test_answers_to_other_questions_and_no_answer_are_wrong(domain):
    made = problems(domain, split="eval", count=40)
    for problem, other in itertools.pairwise(made):
        if other.reference != problem.reference:
            assert GRADERS[domain](problem, other.reference).value == 0
        for text in ("", "Many things are like this.", problem.messages[0].content):
            assert GRADERS[domain](problem, text).value == 0


def test_broken_chat_answers_are_almost_never_right():
    rng = random.Random(0)
    right = total = 0
    for _ in range(2000):
        task = make_task(rng, domain="chat", split="train")
        answer = corrupt(rng, task)
        if answer != task.answer:
            total += 1
            problem = prompt(task.answer, kind=task.kind, **task.facts)
            right += grade_chat(problem, answer).value
    assert right / total < 0.01


FOX = {"entities": ["fox"], "values": [0, 1, 2], "kind": "describe"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The fox is red. It lives in the forest. It eats berries.", 1),
        ("The fox eats berries. It is red. It lives in the forest.", 1),
        ("The fox is red. It lives in the forest.", 0),
        ("The fox is red. It lives in the barn. It eats berries.", 0),
        ("The fox is red and green. It lives in the forest. It eats berries.", 0),
        ("The owl is red. It lives in the forest. It eats berries.", 0),
        ("The fox is red. The owl lives in the forest. It eats berries.", 0),
        ("The fox is reddish. It lives in the forest. It eats berries.", 0),
        ("The fox is not red. It lives in the forest. It eats berries.", 0),
        ("red forest berries", 0),
        ("The fox is red. It lives in the forest. It eats berries. Question: What", 0),
        ("The fox is red. It lives in the forest. It eats berries. " * 2, 0),
    ],
)
def test_chat_wants_every_fact_nothing_false_and_an_end(text, value):
    reference = "The fox is red. It lives in the forest. It eats berries."
    assert grade_chat(prompt(reference, **FOX), text).value == value


def test_a_name_that_is_also_a_value_may_be_said_where_it_is_one():
    bear = prompt("The bear eats honey.", entities=["bear"], values=[2], kind="fact")
    assert grade_chat(bear, "The bear eats honey.").value == 1
    honey = prompt("Honey tastes sweet.", entities=["honey"], values=[0], kind="fact")
    assert grade_chat(honey, "Honey tastes sweet.").value == 1
    fox = prompt("The fox eats berries.", entities=["fox"], values=[2], kind="fact")
    assert grade_chat(fox, "The fox eats honey and eats berries.").value == 0


def test_facts_of_two_entities_must_not_be_swapped():
    problem = prompt(
        "The fox is red but the owl is brown.",
        entities=["fox", "owl"],
        values=[0],
        kind="compare",
    )
    assert grade_chat(problem, "The fox is red but the owl is brown.").value == 1
    assert grade_chat(problem, "The owl is brown but the fox is red.").value == 1
    assert grade_chat(problem, "The fox is brown but the owl is red.").value == 0


@pytest.mark.parametrize(
    ("text", "value", "attempt"),
    [
        ("4 + 5 = 9. 3 + 2 = 5. The answer is 59.", 1, 1),
        ("4 + 5 = 8. 3 + 2 = 5. The answer is 58.", 0, 1),
        ("The answer is 59.", 1, 1),
        ("The answer is 591.", 0, 1),
        ("59", 0, 0),
        ("The answer is 59. Q: What is 3 + 4?", 0, 1),
        ("The answer is 58. The answer is 59.", 1, 1),
        ("The answer is 59.5.", 0, 1),
        ("The answer is -59.", 0, 1),
        ("The answer is " + "9" * 5000, 0, 1),
    ],
)
def test_mathematics_counts_the_last_stated_answer(text, value, attempt):
    score = grade_math(prompt(result=59), text)
    assert (score.value, score.parts["attempt"]) == (value, attempt)


OPERATIONS = [["adds", 3], ["multiplies", 2]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("def f(x):\n    return (x + 3) * 2", 1),
        ("def f(x):\n    return 2 * x + 6", 1),
        ("def f(x):\n    return x + 3 * 2", 0),
        ("def f(x):\n    return x", 0),
        ("def g(x):\n    return (x + 3) * 2", 0),
        ("def f(x):\n    return __import__('os').getpid()", 0),
        ("def f(x):\n    import os\n    return 0", 0),
        ("@print\ndef f(x):\n    return (x + 3) * 2", 0),
        ("def f(x):\n    return 9**9**9**9", 0),
        ("def f(x):\n    return " + "(" * 300 + "x", 0),
        ("def f(x):\n    return " + "-" * 5000 + "x", 0),
        ("def f(x):\n    return (x + True) * 2", 0),
        ("def f(x):\n    return x*" + "*".join(["999999"] * 30), 0),
        ("\x00", 0),
        ("def f(x):\n    return 3and x", 0),
        ("def f(x):\nreturn x", 0),
    ],
)
def test_code_is_interpreted_never_executed(text, value, recwarn):
    assert grade_code(prompt(operations=OPERATIONS), text).value == value
    assert not recwarn.list


@pytest.mark.parametrize(
    ("meta", "text", "value"),
    [
        ({"kind": "repeat", "word": "moon", "times": 2}, "moon moon", 1),
        ({"kind": "repeat", "word": "moon", "times": 2}, "moon moon moon", 0),
        ({"kind": "brackets", "word": "moon", "other": "sun"}, "[moon]", 1),
        ({"kind": "brackets", "word": "moon", "other": "sun"}, "moon", 0),
        ({"kind": "end", "word": "moon", "other": "sun"}, "Here is sun and then moon", 1),
        ({"kind": "end", "word": "moon", "other": "sun"}, "moon then sun", 0),
        ({"kind": "start", "word": "moon", "other": "sun"}, "moon then sun", 1),
        ({"kind": "start", "word": "moon", "other": "sun"}, "moon " + "sun " * 20, 0),
    ],
)
def test_instructions_are_kept_to_the_letter(meta, text, value):
    assert grade_instruction(prompt(**meta), text).value == value
