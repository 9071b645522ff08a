import json
import time
from collections import Counter
from pathlib import Path

import pytest

from grlo.prompts.composition import CATEGORIES, TASKS, classify
from grlo.prompts.sources import read_prompts
from grlo.types import Message

LABELS = Path(__file__).with_name("labels.jsonl")
"""Labels of 260 real prompts, by file and row, without their texts, given by reading: 200 before
the rules existed, 60 after they were finished. The rules were made on other rows."""


def found(*turns: str):
    roles = ("user", "assistant") * len(turns)
    return classify([Message(role, turn) for role, turn in zip(roles, turns, strict=False)])


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("What makes the sky red in the evening?", "explain"),
        ("Explain how tides depend on the moon.", "explain"),
        ("Provide a detailed analysis of the salt trade, including its routes.", "explain"),
        ("Can you give a comprehensive overview of medieval bookbinding?", "explain"),
        ("Who wrote the first atlas of the north?", "explain"),
        ("How do I repot an orchid?", "plan"),
        ("Create a step-by-step guide for restoring an old bicycle.", "plan"),
        ("Develop a lesson plan about volcanoes for ten-year-olds.", "plan"),
        ("What is the best way to learn the harp?", "plan"),
        ("Write a short story about a heron that is afraid of water.", "write"),
        ("compose a limerick on late trains", "write"),
        ("Please draft an email to my landlord about the broken heating.", "write"),
        ("Give me 7 titles for a podcast on moss", "write"),
        ('(In the kitchen...) Ada: "Who ate the pie?" Ben: "The cat."', "write"),
        ("Rewrite this more politely: give me the report now.", "rewrite"),
        ("Translate to Dutch: the bridge is closed.", "rewrite"),
        ("Summarize the following text in two lines: once upon a time ...", "rewrite"),
        ("correct my grammar: she go home yesterday", "rewrite"),
        ("Write a Python function that merges two sorted lists.", "code"),
        ("Fix the error in this script:\n```\nprint(x\n```", "code"),
        ("How can I format dates in C#? Write the code.", "code"),
        ("Calculate the volume of a cone of height 4 cm and radius 3 cm.", "math"),
        ("Prove that the sum of two odd numbers is even.", "math"),
        ("Solve the equation x^2 - 5x + 6 = 0.", "math"),
        ("Let's talk. Role play as my grumpy neighbour.", "chat"),
        ("Hello, how are you?", "chat"),
        ("asdf", "other"),
        ("", "other"),
    ],
)
def test_a_plain_request_has_its_task(text, task):
    assert found(text).task == task


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Why do cats purr?", "general_dialogue"),
        ("How do I descale a kettle?", "general_dialogue"),
        ("Write a poem about rust.", "creative_and_problem_solving"),
        ("Design a training plan for a first marathon.", "creative_and_problem_solving"),
        ("Paraphrase this: the shop shuts at six.", "instruction_following"),
        (
            "Write a text of 80 words in the first person. Do not use adjectives. Each sentence "
            "must start with a verb.",
            "instruction_following",
        ),
        ("qwrtz", "other"),
    ],
)
def test_a_plain_request_has_its_category(text, category):
    assert found(text).category == category


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Write about foxes in 200 words.", True),
        ("List 5 rivers.", True),
        ("Compare both in a table.", True),
        ("Do not mention the war.", True),
        ("Discuss tea, including its history and its trade.", False),
        ("In 1848 the harbour froze.", False),
        ("Give me the recipe of my grandmother.", False),
    ],
)
def test_demands_on_form_are_told_from_topics(text, holds):
    assert found(text).constraints is holds


def test_code_is_seen_by_its_lines_whatever_the_words():
    text = "what is this\nint main() {\n  int a = 1;\n  return a;\n}"
    assert found(text).code
    assert not found("what is this: a brown fox; a lazy dog").code


def test_the_last_turn_decides_and_all_turns_are_counted():
    composition = found("Write a poem about ice.", "Ice is nice.", "Now translate it to Polish")
    assert composition.task == "rewrite"
    assert composition.num_turns == 2
    assert composition.num_words == 10


def test_the_rules_that_spoke_are_named_and_silence_is_a_guess_without_confidence():
    assert "write: verb and text" in found("Write a poem about ice.").cues
    guess = found("rubidium soft silver white metal isotopes")
    assert (guess.task, guess.confidence, guess.cues) == ("explain", 0.0, ())


def test_confidence_grows_with_the_margin():
    clear = found("Write a story about two mice.")
    torn = found("Write a story about how to calculate the total of two numbers in python")
    assert 0 <= torn.confidence < clear.confidence <= 1


@pytest.mark.parametrize(
    "text",
    ["\0" * 50, "\ud800", "a" * 10_000_000, "( " * 1_000_000, "{\n" * 1_000_000, "1, " * 999],
)
def test_hostile_texts_take_little_time(text):
    start = time.process_time()
    composition = found(text)
    assert composition.task in TASKS
    assert composition.category in CATEGORIES
    # Quadratic time would be minutes.
    assert time.process_time() - start < 5


def test_a_conversation_without_a_user_asks_for_nothing():
    assert classify([Message("system", "Be kind.")]).task == "other"


def kappa(one: list, other: list) -> tuple[float, float]:
    """Accuracy and Cohen's kappa."""
    n = len(one)
    agreed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    counts = Counter(one), Counter(other)
    chance = sum(counts[0][key] * counts[1][key] for key in counts[0]) / n**2
    return agreed, (agreed - chance) / (1 - chance)


def test_rules_agree_with_a_reader_on_260_prompts_as_far_as_is_claimed(data_dir):
    labels = [json.loads(line) for line in LABELS.read_text().splitlines()]
    assert len(labels) == 260
    files = {label["file"]: None for label in labels}
    for name in files:
        (path,) = [p for p in data_dir.iterdir() if p.name.startswith(f"{name}.")]
        files[name] = read_prompts(str(path), default_style="model")
    compositions = []
    for label in labels:
        prompt = files[label["file"]][label["row"]]
        assert prompt.id == label["id"]
        compositions.append(classify(prompt.messages))

    def agreement(field: str, *, sure: bool = False) -> tuple[float, float]:
        pairs = [
            (label[field], getattr(composition, field))
            for label, composition in zip(labels, compositions, strict=True)
            if label["sure"] or not sure
        ]
        return kappa([a for a, _ in pairs], [b for _, b in pairs])

    # As stated in docs/results.md, less two points.
    claims = {
        "task": (0.76, 0.70),
        "category": (0.78, 0.66),
        "code": (0.90, 0.67),
        "mathematics": (0.92, 0.52),
        "reasoning": (0.90, 0.60),
        "constraints": (0.91, 0.73),
    }
    for field, (accuracy, chance_corrected) in claims.items():
        found = agreement(field)
        assert found[0] > accuracy, field
        assert found[1] > chance_corrected, field
    accuracy, chance_corrected = agreement("task", sure=True)
    assert accuracy > 0.85
    assert chance_corrected > 0.81
    # Confidence means something: sure answers are right, guesses are guesses.
    right = {True: [0, 0], False: [0, 0]}
    for label, composition in zip(labels, compositions, strict=True):
        own = right[composition.confidence >= 0.6]
        own[0] += label["task"] == composition.task
        own[1] += 1
    assert right[True][0] / right[True][1] > 0.85 > right[False][0] / right[False][1]
