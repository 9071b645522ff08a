"""Choices, numbers with units, short answers: what is read, what is right, what is not guessed."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from grlo.interfaces import BuildContext
from grlo.prompts.problems import parse_problem
from grlo.types import Message, Prompt
from grlo.verifiers.choice import ChoiceSettings, ChoiceVerifier, chosen_option

OPTIONS = {"A": "3", "B": "42", "C": "maintain the population", "D": "none of the above"}


def problem(reference: str | None, **meta: object) -> Prompt:
    return Prompt(
        id="p", messages=(Message("user", "?"),), style="rule", reference=reference, meta=meta
    )


@pytest.fixture(scope="module")
def verifier() -> ChoiceVerifier:
    return ChoiceSettings().build(context=BuildContext(device="cpu", seed=0))


# Multiple choice ----------------------------------------------------------------------------------

READ = [
    (r"\boxed{B}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\text{(B)}}", "B"),
    (r"\boxed{(B)}", "B"),
    (r"\boxed{B.}", "B"),
    (r"\boxed{B. 42}", "B"),
    (r"\boxed{\textbf{(B) } 42}", "B"),
    (r"\boxed{\mathrm{C}}", "C"),
    (r"\boxed{C: maintain the population}", "C"),
    (r"\boxed{C) maintain the population}", "C"),
    (r"\boxed{42}", "B"),
    (r"\boxed{\text{Maintain the population.}}", "C"),
    (r"\boxed{b}", "B"),
    (r"\boxed{Option D}", "D"),
    (r"\boxed{\text{Option D}}", "D"),
    (r"\boxed{E}", None),
    (r"\boxed{7}", None),
    (r"\boxed{A, B}", None),
    (r"\boxed{A \text{ and } B}", None),
    (r"\boxed{A or B}", None),
    (r"\boxed{B. 3}", None),
    (r"First \boxed{A}, no: \boxed{D}", "D"),
    (r"I pick \boxed{A}. The answer is B.", "A"),
    ("The answer is B.", "B"),
    ("The answer is (B).", "B"),
    ("the answer is (B)", "B"),
    ("Answer: B", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("Answer: **(C)**", "C"),
    ("The correct answer is: C", "C"),
    ("The correct option is D.", "D"),
    ("The correct choice is (D)", "D"),
    ("Option C is correct.", "C"),
    ("The answer is $B$.", "B"),
    (r"The answer is $\text{(B)}$.", "B"),
    ("The answer is B because it fits.", "B"),
    ("The answer is B, since 6*7=42.", "B"),
    ("The answer is B. 42", "B"),
    ("The answer is B) 42", "B"),
    ("The answer is C. maintain the population", "C"),
    ("The answer is C maintain the population", "C"),
    ("The answer is 42.", "B"),
    ("The answer is maintain the population.", "C"),
    ("Final answer: none of the above", "D"),
    ("Answer: A\nWait. Answer: D", "D"),
    ("The answer is (B). I hope this answer is helpful.", "B"),
    ("The answer is A or B.", None),
    ("The answer is (A) and (C).", None),
    ("Answer: A/B", None),
    ("Answer: A, B", None),
    ("The answer is either A or D", None),
    ("A is what I considered, then B, and the population C.", None),
    ("I do not know.", None),
    ("", None),
    ("A vector in B space.", None),
    ("The answer is A vector.", None),
    ("The answer is I think complicated.", None),
    ("The answer is Certainly nice", None),
    ("B", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("**B**", "B"),
    ("B. 42", "B"),
    ("42", "B"),
    ("B) 42", "B"),
    ("<think>The answer is A</think>The answer is C", "C"),
    ("<think>The answer is A", None),
    ("The answer is B.\nQuestion: next\nThe answer is C.", "B"),
    ("The answer is not A.", None),
    ("The answer is not A but B.", None),
    ("The answer is B, not A.", "B"),
    ("Answer:\nB", "B"),
    ("Answer:\n\nB. 42", "B"),
    ("The answer is: \n\n$\\boxed{C}$", "C"),
    ("#### B", "B"),
    ("So the answer is **B. 42**.", "B"),
    ("The best answer is D: none of the above", "D"),
    ("### Final Answer\nB", "B"),
    ("**Final Answer**\n\n(B) 42", "B"),
    ("Thus, B is the correct answer.", "B"),
    ("A is the correct answer. No, (D) is the right choice.", "D"),
    ("Statement B is the correct answer to another question.", None),
    ('The answer is "B".', "B"),
    ("The answer is `B`.", "B"),
    ("The answer is A (not B).", "A"),
]


@pytest.mark.parametrize(("text", "letter"), READ)
def test_a_final_statement_and_nothing_else_decides(text: str, letter: str | None) -> None:
    assert chosen_option(text, OPTIONS)[0] == letter


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        (r"\boxed{A and D}", ["x", "y", "z", "A and D"], "D"),
        ("The answer is A and D.", ["x", "y", "z", "A and D"], "D"),
        (r"\boxed{Bb}", ["BB", "Bb", "bb"], "B"),
        (r"\boxed{\text{~A}}", ["A", "~A"], "B"),
        ("The answer is (B) -1.", ["1", "-1", "0"], "B"),
        (r"\boxed{-1}", ["1", "-1", "0"], "B"),
        (r"\boxed{\u2212 1}", ["1", "-1"], None),
        (r"\boxed{0.50}", [r"\frac{1}{4}", r"\frac{1}{2}"], "B"),
        (r"\boxed{687}", ["687", "687", "12"], None),
        (r"\boxed{A. 687}", ["687", "687", "12"], "A"),
        ("The answer is A. No, it falls.", ["It rises.", "It stays. Yes.", "No, it falls."], None),
        ("The answer is no, it falls. It must.", ["It rises.", "No, it falls."], "B"),
        ("The answer is 42.5", ["42", "3"], None),
    ],
)
def test_the_text_of_an_option_stands_for_its_letter_unless_two_fit(
    text: str, options: list[str], letter: str | None
) -> None:
    assert chosen_option(text, dict(zip("ABCD", options, strict=False)))[0] == letter


def test_what_cannot_be_read_is_wrong_and_counted(verifier: ChoiceVerifier) -> None:
    score = verifier(problem("B", choices=list(OPTIONS.values())), "B could be, or C.")
    assert (score.value, score.parts, score.extracted) == (0.0, {"parsed": 0.0}, None)


def test_notes_never_show_the_options(verifier: ChoiceVerifier) -> None:
    prompt = problem("B", choices=["secret one", "secret two"])
    for text in (r"\boxed{A}", r"\boxed{secret one}", r"\boxed{secret}", "The answer is A or B."):
        score = verifier(prompt, text)
        assert "secret" not in score.note
        assert "secret" not in (score.extracted or "")


@pytest.mark.parametrize("reference", [None, "", "E"])
def test_without_a_true_letter_an_answer_is_unscored(
    verifier: ChoiceVerifier, reference: str | None
) -> None:
    score = verifier(problem(reference, choices=["x", "y"]), r"\boxed{A}")
    assert score.value is None
    assert score.note


def test_options_may_have_letters_of_their_own(verifier: ChoiceVerifier) -> None:
    prompt = problem("Q", choices={"P": "x", "Q": "y"})
    assert verifier(prompt, "Answer: Q").value == 1.0
    assert verifier(prompt, "Answer: A").value == 0.0


PHRASINGS = (
    r"Let us see what A and C say. Thus $\boxed{%s}$.",
    "Reasoning about A and D first.\nThe answer is (%s).",
    "**Answer:** %s",
)


def rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", ["mcq_mmlu_redux", "mcq_mmlu_stem"])
@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_real_choices_are_right_with_their_letter_and_wrong_with_another(
    verifier: ChoiceVerifier, data_dir: Path, name: str, every: int
) -> None:
    draw = random.Random(0)
    wrong: list[tuple[str, str, str]] = []
    for number, row in enumerate(rows(data_dir / f"{name}.jsonl.gz")):
        if number % every:
            continue
        prompt = parse_problem(row, source="row:1")
        letters = "ABCDEFGHIJ"[: len(row["choices"])]
        other = draw.choice([letter for letter in letters if letter != prompt.reference])
        for phrasing in PHRASINGS:
            for letter in (str(prompt.reference), other):
                score = verifier(prompt, phrasing % letter)
                if score.value != float(letter == prompt.reference) or not score.parts["parsed"]:
                    wrong.append((row["id"], phrasing, letter))
    assert wrong == []


# Numbers ------------------------------------------------------------------------------------------

NUMBERS = [
    ("50.7", r"$\mathrm{atm}$", r"\boxed{50.7}", 1),
    ("50.7", r"$\mathrm{atm}$", r"\boxed{51 \text{ atm}}", 1),
    ("50.7", r"$\mathrm{atm}$", r"\boxed{54}", 0),
    ("50.7", r"$\mathrm{atm}$", r"\boxed{5137 \mathrm{~kPa}}", 1),
    ("50.7", r"$\mathrm{atm}$", r"\boxed{50.7 \mathrm{~kPa}}", 0),
    ("50.7", r"$\mathrm{atm}$", r"\boxed{-50.7}", 0),
    ("50.7", r"$\mathrm{atm}$", r"P = \boxed{P = 50.7\,\mathrm{atm}}", 1),
    ("4.738", r"$10^{14} \mathrm{~Hz}$", r"\boxed{4.738}", 1),
    ("4.738", r"$10^{14} \mathrm{~Hz}$", r"\boxed{4.738\times 10^{14}}", 1),
    ("4.738", r"$10^{14} \mathrm{~Hz}$", r"\boxed{4.738 \times 10^{14} \text{ Hz}}", 1),
    ("4.738", r"$10^{14} \mathrm{~Hz}$", r"\boxed{473.8 \text{ THz}}", 1),
    ("4.738", r"$10^{14} \mathrm{~Hz}$", r"\boxed{4.738 \times 10^{13}}", 0),
    ("2600", r"$\mathrm{J}$", r"\boxed{2.6 \text{ kJ}}", 1),
    ("2600", r"$\mathrm{J}$", "The answer is 2.6 kJ.", 1),
    ("2600", r"$\mathrm{J}$", r"\boxed{2.6 \text{ J}}", 0),
    ("0.118", r"$\mathrm{nm}$", r"\boxed{118 \text{ pm}}", 1),
    ("0.118", r"$\mathrm{nm}$", r"\boxed{1.18\times10^{-10}\ \mathrm{m}}", 1),
    ("89,034.79", "$", r"\boxed{\$89034.79}", 1),
    ("\u22122", "", r"\boxed{-2}", 1),
    ("+65.49", r"$\mathrm{kJ} \mathrm{mol}^{-1}$", r"\boxed{65.5 \text{ kJ/mol}}", 1),
    ("+65.49", r"$\mathrm{kJ} \mathrm{mol}^{-1}$", r"\boxed{65490 \text{ J mol}^{-1}}", 1),
    ("+65.49", r"$\mathrm{kJ} \mathrm{mol}^{-1}$", r"\boxed{65.5 \text{ kJ}}", 0),
    ("15.1", "%", r"\boxed{15.1\%}", 1),
    ("15.1", "%", r"\boxed{0.151}", 1),
    ("15.1", "%", r"\boxed{0.151\%}", 0),
    ("54.7", r"$^{\circ}$", r"\boxed{54.7^\circ}", 1),
    ("54.7", r"$^{\circ}$", r"\boxed{0.955 \text{ rad}}", 1),
    ("30", r"$\mathrm{m}/\mathrm{s}$", r"\boxed{108 \text{ km/h}}", 1),
    ("30", r"$\mathrm{m}/\mathrm{s}$", r"\boxed{30 \text{ m/s}}", 1),
    ("30", r"$\mathrm{m}/\mathrm{s}$", r"\boxed{30 \text{ m/s}^2}", 0),
    ("6.07", "min", r"\boxed{364 \text{ s}}", 1),
    ("37.9", r"$\mathrm{~L}$", r"\boxed{37.9 \text{ dm}^3}", 1),
    ("0.0408", "", r"\boxed{\frac{2}{49}}", 1),
    ("27", r"$^{\circ} \mathrm{C}$", r"\boxed{27^\circ\text{C}}", 1),
    ("1", "", r"\boxed{\text{one}}", 0),
    ("3.54", r"$\mu \mathrm{C}$", r"\boxed{3.54 \times 10^{-6} \text{ C}}", 1),
    ("3.54", r"$\mu \mathrm{C}$", r"\boxed{3.54\ \mu\text{C}}", 1),
    ("0", "", r"\boxed{0.0}", 1),
    ("0", "", r"\boxed{0.01}", 0),
    ("13.2", r"$\mathrm{~N} \cdot \mathrm{m}^{-1}$", r"\boxed{13.2 \text{ N/m}}", 1),
    ("10", "J", r"\boxed{10 \text{ N m}}", 1),
    ("10", "J", r"\boxed{10 \text{ W}}", 0),
    # What follows the number belongs to it unless it is a unit.
    ("4", "", r"\boxed{4\pi}", 0),
    ("12.57", "", r"\boxed{4\pi}", 1),
    ("4", "", r"\boxed{4x}", 0),
    ("2", "", r"\boxed{2\sqrt{3}}", 0),
    ("3.46", "", r"\boxed{2\sqrt{3}}", 1),
    ("5", "", r"\boxed{5/\pi}", 0),
    ("0.3466", "", r"\boxed{\frac{\ln 2}{2}}", 1),
    ("3", "", r"\boxed{3!}", 0),
    ("3", "", r"\boxed{3, 4}", 0),
    ("3", "", r"\boxed{3 \text{ or } 4}", 0),
    ("3", "", "The answer is 3 to 4.", 0),
    ("3", "J", r"\boxed{3 k_B T}", 0),
    ("3", "J", r"\boxed{3 \cdot 4}", 0),
    ("3", "m", r"\boxed{3 \text{ foobars}}", 1),
    ("3", "foobars", "The answer is 3 foobars.", 1),
    ("100000", "J", r"\boxed{10^5}", 1),
    ("1.5", "kJ", "The answer is approximately 1.5 kJ.", 1),
    ("1.5", "kJ", "The answer is 1500.", 0),
    ("90", "degrees", r"\boxed{\frac{\pi}{2} \text{ rad}}", 1),
    ("0.1", "nm", r"\boxed{1 \text{ Å}}", 1),
    ("300", "K", r"\boxed{300^\circ\text{C}}", 0),
]


@pytest.mark.parametrize(("gold", "unit", "text", "right"), NUMBERS)
def test_numbers_have_a_tolerance_and_units_of_a_kind_are_converted(
    verifier: ChoiceVerifier, gold: str, unit: str, text: str, right: int
) -> None:
    assert verifier(problem(gold, kind="numeric", unit=unit), text).value == right


def test_the_tolerance_of_the_row_goes_before_that_of_the_settings() -> None:
    verifier = ChoiceVerifier(ChoiceSettings(relative_tolerance=0.05))
    assert verifier(problem("100", kind="numeric"), "Answer: 104").value == 1.0
    assert verifier(problem("100", kind="numeric", tolerance=0.01), "Answer: 104").value == 0.0
    assert verifier(problem("100", kind="numeric", tolerance=0.1), "Answer: 109").value == 1.0


def test_a_reference_that_is_no_number_leaves_the_answer_unscored(verifier: ChoiceVerifier) -> None:
    assert verifier(problem("about ten", kind="numeric"), "Answer: 10").value is None


def test_every_answer_of_scibench_is_right_as_it_stands_and_with_its_unit(
    verifier: ChoiceVerifier, data_dir: Path
) -> None:
    wrong = []
    for row in rows(data_dir / "science_scibench.jsonl"):
        prompt = parse_problem(row, source="row:1")
        unit = re.sub(r"(?<!\\)\$", "", row["unit"])
        for text in (
            f"\\boxed{{{row['answer']}}}",
            f"The answer is {row['answer']}.",
            f"Hence \\[ x = \\boxed{{{row['answer']} {unit}}} \\]",
        ):
            if verifier(prompt, text).value != 1.0:
                wrong.append((row["id"], text))
    assert wrong == []


# Words --------------------------------------------------------------------------------------------

WORDS = [
    ("Paris", "The answer is Paris.", 1),
    ("Paris", r"\boxed{\text{paris}}", 1),
    ("The Beatles", "Answer: Beatles", 1),
    ("Paris", "Answer: London", 0),
    ("Paris", "Paris", 1),
    ("12", "Answer: 12.0", 1),
    ("12", "Answer: 13", 0),
    ("New York", "Answer: new  york!", 1),
    ("A", r"\boxed{A}", 1),
    ("A", r"\boxed{a}", 1),
    ("A", r"\boxed{B}", 0),
    ("no", "Answer: not", 0),
    ("Paris", "I visited Paris and London.", 0),
    ("-3", "Answer: 3", 0),
]


@pytest.mark.parametrize(("gold", "text", "right"), WORDS)
def test_short_answers_are_compared_as_words_or_exact_numbers(
    verifier: ChoiceVerifier, gold: str, text: str, right: int
) -> None:
    assert verifier(problem(gold), text).value == right


# Whatever a model writes --------------------------------------------------------------------------


def test_no_text_makes_the_verifier_fail(verifier: ChoiceVerifier) -> None:
    draw = random.Random(0)
    pieces = [
        "\\boxed{", "}", "{", "answer is", "Answer: ", "A", "(B)", "$", "\\text{", "\n", "\x00",
        "\ud800", "####", "1e9999999", "\\frac", "<think>", "</think>", " or ", "**", "%", "^", "5",
    ]  # fmt: skip
    prompts = (
        problem("B", choices=list(OPTIONS.values())),
        problem("3", kind="numeric", unit="m"),
        problem("Paris"),
    )
    for _ in range(400):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 30)))
        for prompt in prompts:
            assert verifier(prompt, text).value in (0.0, 1.0)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["/ aa", "^1 ", "^{1} ", r"\text{a} ", "~ aa", "aa ", "(a) "])
def test_units_that_are_none_are_read_once(verifier: ChoiceVerifier, piece: str) -> None:
    for number in (30, 400):
        answer = f"\\boxed{{3 {piece * number}!}}"
        assert verifier(problem("3", kind="numeric", unit="m"), answer).value == 0.0


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["\\boxed{", "answer is ", "A or ", "$", "1,", "{", "\\text{", "("]
)
def test_a_long_text_takes_no_longer_than_its_length_explains(
    verifier: ChoiceVerifier, piece: str
) -> None:
    text = piece * (1_000_000 // len(piece))
    assert verifier(problem("B", choices=list(OPTIONS.values())), text).value == 0.0
    assert verifier(problem("3", kind="numeric"), text).value == 0.0
    assert verifier(problem("Paris"), text).value == 0.0
