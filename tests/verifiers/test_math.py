"""Mathematical answers: true ones in any spelling, near misses, answers that never end."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grlo.grading import grade_all
from grlo.interfaces import BuildContext
from grlo.types import Message, Prompt
from grlo.verifiers.math import MathSettings, MathVerifier


def problem(reference: str | None) -> Prompt:
    return Prompt(id="p", messages=(Message("user", "?"),), style="rule", reference=reference)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathSettings(num_workers=2, seconds=30).build(
        context=BuildContext(device="cpu", seed=0)
    )
    yield verifier
    verifier.close()


def test_a_right_answer_scores_one_and_says_what_was_found(verifier: MathVerifier) -> None:
    score = verifier(problem(r"\frac{1}{2}"), r"Half of it: $\boxed{0.5}$.")
    assert (score.value, score.extracted, score.parts) == (1.0, "0.5", {"parsed": 1.0})


def test_a_zero_says_why(verifier: MathVerifier) -> None:
    assert verifier(problem("5"), r"\boxed{6}").note == "expected 5, found 6"
    silent = verifier(problem("5"), "I do not know.")
    assert (silent.value, silent.note, silent.parts) == (0.0, "no answer found", {"parsed": 0.0})
    assert silent.extracted is None
    unreadable = verifier(problem("5"), r"\boxed{\frac{}{\notacommand}}")
    assert (unreadable.value, unreadable.parts["parsed"]) == (0.0, 0.0)
    assert "cannot be read" in unreadable.note


@pytest.mark.parametrize("reference", [None, "", "  ", "1/0", r"\frac{1}{", r"\notacommand{1} + ^"])
def test_without_a_readable_reference_an_answer_is_unscored(
    verifier: MathVerifier, reference: str | None
) -> None:
    score = verifier(problem(reference), r"\boxed{1}")
    assert score.value is None
    assert "reference" in score.note


# What is the same ---------------------------------------------------------------------------------

# True answer, answer, whether a mathematician calls it right.
TABLE = [
    (r"\frac{1}{2}", "1/2", 1),
    (r"\frac12", "0.5", 1),
    (r"\frac12", r"\dfrac{1}{2}", 1),
    (r"\frac43", r"\frac{4}{3}", 1),
    (r"\frac 59", "5/9", 1),
    (r"\frac{1}{3}", "0.333", 0),
    (r"\frac{1}{3}", "0.3333333", 0),
    (r"\frac{1}{3}", r"0.\overline{3}", 1),
    (r"\pi", "3.1415926", 0),
    ("3.1415926", r"\pi", 0),
    ("3.14159265", r"\pi", 1),
    ("3.14", r"\pi", 0),
    ("1e-10", "2e-10", 0),
    ("1e-10", "1e-10", 1),
    (r"1\times10^{-10}", "1e-10", 1),
    ("4.5e33", r"4.5\times 10^{33}", 1),
    ("4.5e33", r"4.5 \cdot 10^{33}", 1),
    ("4.5e33", "4.6e33", 0),
    (r"\frac{10^{-10}}{3}", r"\frac{10^{-10}}{4}", 0),
    ("10^{-12}x", r"2\cdot10^{-12}x", 0),
    ("73", "073", 1),
    ("27", "27.0", 1),
    ("27", "27.00", 1),
    ("58,500", "58500", 1),
    ("58500", "58,500", 1),
    (r"10,\!080", "10080", 1),
    ("10{,}080", "10080", 1),
    (r"62.5\%", "0.625", 1),
    (r"62.5\%", "62.5", 1),
    ("62.5", r"62.5\%", 1),
    ("62.5", "0.625", 0),
    ("0.625", r"62.5\%", 1),
    (r"62.5\%", "6.25", 0),
    (r"90^\circ", "90", 1),
    (r"90^\circ", r"90^{\circ}", 1),
    ("90", r"90^\circ", 1),
    (r"90^\circ", r"\frac{\pi}{2}", 1),
    (r"\frac{\pi}{2}", r"90^\circ", 1),
    (r"\frac{\pi}{2}", "90", 0),
    (r"90^\circ", r"90 \text{ degrees}", 1),
    (r"864 \mbox{ inches}^2", "864", 1),
    ("864", r"864 \text{ cm}^2", 1),
    (r"864 \mbox{ inches}^2", r"864\text{ cm}^2", 0),
    (r"5.4 \text{ cents}", "5.4", 1),
    (r"5 \text{ m}", r"500\text{ cm}", 1),
    (r"5 \text{ m}", r"5\text{ cm}", 0),
    (r"\$32,\!348", "32348", 1),
    ("18", r"\$18", 1),
    ("18", r"\$18.00", 1),
    ("18", "18 dollars", 1),
    ("5", r"5\text{ apples}", 1),
    ("(3,4]", "(3,4]", 1),
    ("(3,4]", "[3,4)", 0),
    ("(3,4]", r"3 < x \le 4", 1),
    ("(3,4]", "3 < x < 4", 0),
    (r"x \in [-2,7]", "[-2,7]", 1),
    ("[-2,7]", r"-2\leq x\leq 7", 1),
    (r"(2,\infty)", "x>2", 1),
    (r"(2,\infty)", r"x \ge 2", 0),
    (r"(-\infty,0)\cup(1,\infty)", r"x<0 \text{ or } x>1", 1),
    (r"(-\infty,0)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,0)", 1),
    (r"\{x|-2\leq x < 1\}", "[-2,1)", 1),
    ("(1,2)", "(2,1)", 0),
    ("1,2", "2,1", 1),
    ("1,2", "2, 1", 1),
    (r"\{1,2\}", r"\{2,1\}", 1),
    (r"\{1,2\}", "(1,2)", 0),
    ("1,-2", r"x=1 \text{ or } x=-2", 1),
    ("1,-2", "x=1,-2", 1),
    ("1,-2", "1 and -2", 1),
    ("1,2", "1,2,3", 0),
    ("1,2", "1", 0),
    ("(1,2)", r"\left(1, 2\right)", 1),
    ("(1,2),(3,4)", "(3,4),(1,2)", 1),
    ("(1,2),(3,4)", "(4,3),(1,2)", 0),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", 1),
    (r"( 3, \frac{\pi}{2})", "(3, 1.5708)", 0),
    ("x=5", "5", 1),
    ("5", "x=5", 1),
    ("x=5", "y=5", 0),
    ("5", "2x=5", 0),
    ("x=5", "5=x", 1),
    ("y=2x+1", "2x+1", 1),
    ("y=2x+1", "2x-y+1=0", 1),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0", 1),
    ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0", 1),
    ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=4", 0),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", 1),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}", 0),
    (r"1+\sqrt{19},1-\sqrt{19}", r"x=1\pm\sqrt{19}", 1),
    (r"1\frac{4}{5}", r"\frac{9}{5}", 1),
    (r"1\frac{4}{5}", "1 4/5", 1),
    (r"\frac95", r"1\frac45", 1),
    (r"1\frac{4}{5}", r"\frac45", 0),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", 1),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", 0),
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",
        r"\begin{pmatrix}-\frac13\\\frac23\\\frac53\end{pmatrix}",
        1,
    ),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)", 1),
    (r"\text{Evelyn}", "Evelyn", 1),
    (r"\text{Yes}", r"\text{yes}", 1),
    (r"\text{Yes}", "No", 0),
    (r"\text{even}", r"\textbf{even}", 1),
    (r"\text{(C)}", "C", 1),
    (r"\text{(C)}", "(C)", 1),
    ("C", r"\text{(C)}", 1),
    ("C", "(B)", 0),
    ("C", r"\textbf{(C) } 12", 1),
    ("52_8", "52_{8}", 1),
    ("52_8", "52", 1),
    ("52_8", "42", 0),
    ("52_8", "42_{10}", 1),
    ("52_8", "52_9", 0),
    ("4210_{5}", r"4210_{\text{five}}", 1),
    ("2k+2", "2(k+1)", 1),
    ("2k+2", "2n+2", 0),
    ("n(n-1)", "n^2-n", 1),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}", 1),
    ("(a+5)(b+2)", "ab+2a+5b+10", 1),
    ("(a+5)(b+2)", "ab+2a+5b+11", 0),
    ("x^5 - x^4 + x^3 - x^2 + x - 1", "(x-1)(x^4+x^2+1)", 1),
    (r"\sqrt{51}", r"\sqrt{52}", 0),
    (r"11\sqrt2", r"\sqrt{242}", 1),
    (r"11\sqrt2", "15.556", 0),
    (r"11\sqrt2", "15.556349186104045", 0),
    ("6-5i", "6 - 5i", 1),
    ("6-5i", "-5i+6", 1),
    ("6-5i", "6+5i", 0),
    (r"\cot x", r"\frac{\cos x}{\sin x}", 1),
    (r"\sin^2 x", r"1-\cos^2 x", 1),
    ("|x|", "x", 0),
    ("np.arcsin(10/13)", r"\arcsin\frac{10}{13}", 1),
    ("np.arcsin(10/13)", r"\arcsin(10/12)", 0),
    ("-1./3", r"-\frac13", 1),
    ("-3./2", "-1.5", 1),
    (r"\frac{e^{t}} {3}+c e^{-2 t}", r"\frac13 e^t + ce^{-2t}", 1),
    ("f(x)=x+1", "x+1", 1),
    ("f(x)=x+1", "g(x)=x+1", 0),
    ("I(0)", "I(0)", 1),
    ("I(0)", "I(1)", 0),
    ("2^{1009}", r"2\cdot 2^{1008}", 1),
    (r"\frac{100!}{2^{50}}", r"\frac{100!}{2^{49}}", 0),
    (r"\binom{2n}{n}", r"\frac{(2n)!}{n!n!}", 1),
    ("3:4", "6:8", 1),
    ("3:4", "4:3", 0),
    ("0.06", ".06", 1),
    ("0.06", "6e-2", 1),
    ("0.06", "0.060", 1),
    ("2,4,6", "6,4,2", 1),
    (r"\emptyset", r"\varnothing", 1),
    (r"\infty", r"+\infty", 1),
    ("-1", "1", 0),
    ("2", "-2", 0),
    ("b > a > c", "c < a < b", 1),
    ("b > a > c", "a > b > c", 0),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", 1),
    (r"\frac{3\sqrt{3}}{4}", r"\frac{9}{4\sqrt3}", 1),
    ("1", "0.99999999999", 0),
    ("1000000", "1000001", 0),
    ("123456789012345678901", "123456789012345678900", 0),
    ("12", "12 cm", 1),
    ("12", r"12\,\mathrm{cm}", 1),
    ("x=5", "x = 5.0", 1),
    ("5", "five", 0),
    ("10", "1,0", 0),
    ("1", "2=1", 0),
    ("5", "2+3=5", 1),
    (r"\frac{\pi}{4}", "45", 0),
    (r"\frac{\pi}{4}", r"0.25\pi", 1),
    ("m", "m", 1),
    ("e", "e", 1),
    ("e", "2.718281828", 0),
    ("3", "3.0000001", 0),
    ("2:58 am", "2:58 am", 1),
    ("1:58 am", "2:58 am", 0),
    (r"\frac{1}{3}", r"\frac{2}{6}", 1),
    ("R", "r", 0),
    ("2RC+R+C", "2rc+r+c", 0),
    ("AB", "ab", 0),
    ("AB", "BA", 1),
    ("x_1", "x_2", 0),
    ("E_1", "E_2", 0),
    ("-37_8", "-37_9", 0),
    (r"\pi", r"\pi \approx 3.14", 1),
    ("3.14", r"x \approx 3.14", 1),
    ("7", r"5 \approx 7", 0),
    (r"\lg 5", r"\log_{10} 5", 1),
    (r"2007 + \frac\pi 2", r"2007+\frac{\pi}{2}", 1),
    (r"2007 + \frac\pi 2", r"2207+\frac{\pi}{2}", 0),
    ("x^2", "x^3", 0),
    ("no", "No", 1),
    ("10", "10^1", 1),
    ("1e3", "1000", 1),
    (r"\frac{3}{4}", "75%", 1),
    (r"\frac{3}{4}", r"75\%", 1),
    (r"[0,1]\cup[2,3]", r"[2,3]\cup[0,1]", 1),
    (r"[0,1]\cup[2,3]", r"[0,1]\cup(2,3]", 0),
    (r"\text{June 20}", "June 20", 1),
    (r"\text{two}", "2", 0),
    ("-2,0,2", r"0, \pm 2", 1),
    (r"\sqrt{2},-\sqrt{2}", r"\pm\sqrt{2}", 1),
    (r"\frac{-1+\sqrt{5}}{2}", r"\frac{\sqrt5-1}{2}", 1),
    ("a=2, b=3", "b=3, a=2", 1),
    ("a=2, b=3", "a=3, b=2", 0),
    ("(a,b)=(2,3)", "(2,3)", 1),
    (r"\sqrt[3]{8}", "2", 1),
    ("0", "-0", 1),
    (r"2\pi", "6.2831853", 0),
    ("2^{10}", "1024", 1),
    ("6!", "720", 1),
    (r"\binom{5}{2}", "10", 1),
    (r"\lfloor 3.7\rfloor", "3", 1),
    (r"\cos 60^\circ", r"\frac12", 1),
    (r"e^{i\pi}", "-1", 1),
    (r"\tan^{-1} 1", r"\frac{\pi}{4}", 1),
    ("x^2+y^2=1", "y^2=1-x^2", 1),
    ("x^2+y^2=1", "x^2+y^2=2", 0),
    ("y<2x", "2x>y", 1),
    ("y<2x", "y>2x", 0),
    (r"k \geqslant 2", r"k\ge2", 1),
    (r"k \geqslant 2", r"[2,\infty)", 1),
    (r"k \geqslant 2", "k>2", 0),
    ("12:30", "12:30", 1),
    ("5.0", "5", 1),
    ("100,200", "100200", 1),
    ("1.5", "1,5", 0),
    ("2,500", "2500", 1),
    ("2ab", "2", 0),
    ("2", "2ab", 0),
    ("2ab", "2cd", 0),
    ("2ab", "2ba", 1),
    ("12", "12cm", 1),
    ("12", "12 ab", 0),
    ("xy", "x", 0),
    (r"\frac{1}{2}ab", r"\frac{ab}{2}", 1),
    ("5", "5 apples", 1),
    (r"5\text{ m}", r"5\text{ s}", 0),
    ("2AB", "2ab", 0),
    (r"60 \text{ minutes}", r"1 \text{ hour}", 1),
    ("5", r"5 \text{ or maybe 6}", 0),
    ("5", r"5 \text{ (not 6)}", 0),
    ("5", r"5 \text{ or } 6", 0),
    ("5", "5, 6", 0),
    ("5", r"\pm 5", 0),
    ("5", "5 = 6", 0),
    (r"5\text{ m}^2", r"5 \text{ m^2}", 1),
    ("5", r"500\%", 1),
    (r"c^{2}\left(\gamma^{2}-1\right)", r"c^{2}\left(\gamma^{2}-3\right)", 0),
    (r"c^{2}(\gamma^{2}-1)", r"c^2(\gamma-1)(\gamma+1)", 1),
    (r"\gamma_1+1", r"\gamma_2+1", 0),
    (r"\frac{d x}{d t}=k x-a", r"\frac{d x}{d w}=k x-a", 0),
    (r"\frac{d x}{d t}=k x-a", r"\frac{dx}{dt} - kx + a = 0", 1),
    (r"m \frac{d v}{d t}+b v=f", r"m\frac{dq}{dt}+bv=f", 0),
]


@pytest.mark.parametrize(("gold", "answer", "right"), TABLE)
def test_answers_are_graded_as_a_mathematician_grades_them(
    verifier: MathVerifier, gold: str, answer: str, right: int
) -> None:
    assert verifier(problem(gold), f"So it is $\\boxed{{{answer}}}$.").value == right


# Verdicts that a mathematician may dispute, and why they are so.
DISPUTED = [
    # The parser takes \log without a base for the decadic one.
    (r"\ln 2", r"\log 2", 0),
    # Variables are taken for positive, as physics and most exercises mean them.
    (r"\sqrt{x^2}", "x", 1),
    # Two values in another order and in brackets: a pair, not a set.
    ("1,-2", "(-2,1)", 0),
    # What a comma means is the language's: here it separates.
    ("1.5", "1,5", 0),
    # The same number of a base that the question does not ask for.
    ("52_8", "42", 0),
    # True to 10 digits, but the question asks for the number.
    (r"\frac{1}{3}", "0.3333333333", 0),
    # A true answer of 4 digits or more may be a rounding, one of 3 is taken as it stands.
    ("3.14", r"\pi", 0),
    ("3.142", r"\pi", 1),
    # cos(pi n) is (-1)^n for whole n only, and that n is whole is not known.
    ("(-1)^n", r"\cos(\pi n)", 0),
    # The question may ask for all of x = 1, x = 2, or for one of them.
    ("1,2", "1", 0),
]


@pytest.mark.parametrize(("gold", "answer", "right"), DISPUTED)
def test_disputed_verdicts_stay_what_the_documentation_says(
    verifier: MathVerifier, gold: str, answer: str, right: int
) -> None:
    assert verifier(problem(gold), f"$\\boxed{{{answer}}}$").value == right


# Real answers -------------------------------------------------------------------------------------

SETS = {
    "math_math500": 500,
    "math_gsm8k_test": 1319,
    "math_aime24": 30,
    "math_aime25": 30,
    "math_amc23": 40,
    "math_minerva": 272,
    "math_olympiadbench_oe_to_en": 675,
}


def rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", SETS)
def test_every_true_answer_is_right_in_a_box(
    verifier: MathVerifier, data_dir: Path, name: str
) -> None:
    answers = [row["answer"] for row in rows(data_dir / f"{name}.jsonl")]
    assert len(answers) == SETS[name]
    texts = [f"Let us see: 1 + 1 = 2. So it is $\\boxed{{{answer}}}$." for answer in answers]
    scores = grade_all(verifier, list(zip(map(problem, answers), texts, strict=True)))
    wrong = [a for a, score in zip(answers, scores, strict=True) if score.value != 1.0]
    assert wrong == []


def respelled(answer: str) -> str:
    """The same answer with other commands and spaces, so that it is not the same text."""
    for old, new in (("\\frac", "\\dfrac"), ("\\left", ""), ("\\right", ""), ("+", " + ")):
        answer = answer.replace(old, new)
    return f"\\; {answer} \\,"


@pytest.mark.parametrize("name", SETS)
def test_every_true_answer_is_right_in_another_spelling(
    verifier: MathVerifier, data_dir: Path, name: str
) -> None:
    answers = [row["answer"] for row in rows(data_dir / f"{name}.jsonl")]
    texts = [f"#### 7\nThe final answer is \\boxed{{ {respelled(answer)} }}" for answer in answers]
    scores = grade_all(verifier, list(zip(map(problem, answers), texts, strict=True)))
    wrong = [a for a, score in zip(answers, scores, strict=True) if score.value != 1.0]
    assert wrong == []


def is_the_same_all_the_same(pair: tuple[str, str]) -> bool:
    """1 in any base, and the decimals behind an exact answer."""
    return all(len(answer) == 3 and answer[:2] == "1_" for answer in pair) or "approx" in pair[0]


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*SETS, "math_gaokao2023en", "math_train_math7500"])
def test_an_answer_with_one_digit_changed_is_wrong(
    verifier: MathVerifier, data_dir: Path, name: str, every: int
) -> None:
    path = next(data_dir.glob(f"{name}.jsonl*"))
    golds = sorted({row["answer"] for row in rows(path) if row["answer"]})[::every]
    draw = random.Random(0)
    pairs: list[tuple[str, str]] = []
    for gold in golds:
        places = [place for place, character in enumerate(gold) if character.isdecimal()]
        if places:
            place = draw.choice(places)
            digit = draw.choice([digit for digit in "123456789" if digit != gold[place]])
            pairs.append((gold, gold[:place] + digit + gold[place + 1 :]))
    scores = grade_all(verifier, [(problem(g), f"$\\boxed{{{a}}}$") for g, a in pairs])
    right = [pair for pair, score in zip(pairs, scores, strict=True) if score.value == 1.0]
    assert [pair for pair in right if not is_the_same_all_the_same(pair)] == []


# Answers that never end ---------------------------------------------------------------------------

ENDLESS = {
    "tower": "9^{9^{9^9}}",
    "fractions": r"\frac{1}{" * 60 + "2" + "}" * 60,
    "factorial": "((((9!)!)!)!)!",
}


def test_endless_answers_cost_their_limit_and_nothing_else() -> None:
    verifier = MathVerifier(MathSettings(num_workers=2, seconds=2.0))
    answers = [str(number) for number in range(17)]
    for place, endless in zip((2, 9, 15), ENDLESS.values(), strict=True):
        answers.insert(place, endless)
    others = set(worker_pids())
    verifier(problem("1"), r"\boxed{x}")
    start = time.monotonic()
    golds = [answer if len(answer) < 3 else "7" for answer in answers]
    scores = grade_all(
        verifier,
        [(problem(g), f"$\\boxed{{{a}}}$") for g, a in zip(golds, answers, strict=True)],
    )
    seconds = time.monotonic() - start
    values = {a: score.value for a, score in zip(answers, scores, strict=True)}
    assert [values[str(number)] for number in range(17)] == [1.0] * 17
    assert [values[endless] for endless in ENDLESS.values()] == [0.0] * 3
    assert seconds < 3 * 2.0 + 10
    assert 0 < len(set(worker_pids()) - others) <= 2
    verifier.close()
    assert set(worker_pids()) <= others
    assert verifier(problem("1"), r"\boxed{1}").value == 1.0
    verifier.close()


def worker_pids() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == os.getpid() and stat[0] != "Z" and b"math_worker" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("name", ENDLESS)
def test_a_note_says_that_an_answer_took_too_long(name: str) -> None:
    verifier = MathVerifier(MathSettings(num_workers=1, seconds=1.0))
    score = verifier(problem("7"), f"\\boxed{{{ENDLESS[name]}}}")
    verifier.close()
    assert score.value == 0.0
    assert score.note


# Whatever a model writes --------------------------------------------------------------------------


def test_no_text_makes_the_verifier_fail(verifier: MathVerifier) -> None:
    draw = random.Random(0)
    pieces = [
        "\\boxed{", "}", "{", "(", ")", "[", "]", "\\frac", "\\sqrt", "^", "_", "1", "2", "x", ",",
        "\\{", "\\}", "\\left", "\\right", "$", "&", "\\\\", "\\pm", "=", "<", "\\le", "\x00",
        "\ud800", "%", "\\begin{pmatrix}", "\\end{pmatrix}", "\\text{", "\\cup", "\\infty", "|",
        "\\deg", ":", ".", "-", " ", "\n", "e", "10^", "#### ", "answer is ", "</think>",
    ]  # fmt: skip
    golds = ("5", r"\frac{1}{2}", r"(1,2)", r"x^2+1", r"\text{Yes}", r"[0,\infty)", "x=5")
    answers = []
    for number in range(300):
        junk = "".join(draw.choices(pieces, k=draw.randint(1, 12)))
        text = junk if number % 2 else f"\\boxed{{{junk}}}"
        answers.append((problem(draw.choice(golds)), text))
    scores = grade_all(verifier, answers)
    assert [s.note for s in scores if s.value is None] == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    ["a", "\\boxed{", "{", "}", "$", "1,", "answer is ", "#### 1\n", "9", "\\frac{", "\x00"],
)
def test_a_text_of_a_megabyte_is_graded(verifier: MathVerifier, piece: str) -> None:
    assert verifier(problem("5"), piece * (1_000_000 // len(piece))).value == 0.0


def test_importing_the_verifier_loads_neither_torch_nor_sympy() -> None:
    code = (
        "import sys; import grlo.verifiers.math, grlo.verifiers.choice; "
        "print(sorted({'torch', 'transformers', 'sympy', 'math_verify'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
