"""Functions of the user's own as verifiers, and how many answers are graded at once."""

from __future__ import annotations

import threading

import pytest

from grlo.grading import grade_all
from grlo.interfaces import BuildContext
from grlo.types import Message, Prompt, Score
from grlo.verifiers.function import FunctionSettings

PROMPT = Prompt(id="p", messages=(Message("user", "?"),))
MODULE = """
from grlo.types import Score

def shouts(prompt, text):
    return Score(float(text.isupper()))

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_verifier.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_grades() -> None:
    verifier = FunctionSettings("own_verifier:shouts").build(
        context=BuildContext(device="cpu", seed=0)
    )
    scores = grade_all(verifier, [(PROMPT, "YES"), (PROMPT, "no")])
    assert [score.value for score in scores] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("own_verifier:whispers", "has no 'whispers'"),
        ("no_such_module:f", "there is no module"),
        ("own_verifier:NUMBER", "expected a function"),
        ("shouts", "unknown function"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FunctionSettings(path)


class Meeting:
    """Grades only when as many answers are being graded at once as it has workers."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.barrier = threading.Barrier(num_workers)

    def __call__(self, prompt: Prompt, text: str) -> Score:
        self.barrier.wait(timeout=10)
        if text == "bad":
            raise ValueError("no")
        return Score(float(text))


def test_as_many_answers_are_graded_at_once_as_the_verifier_can_in_order() -> None:
    told: list[int] = []
    scores = grade_all(
        Meeting(3),
        [(PROMPT, text) for text in ("0", "1", "2", "bad", "4", "5")],
        progress=lambda *, done, total, tokens: told.append(done),
    )
    assert [score.value for score in scores] == [0, 1, 2, None, 4, 5]
    assert scores[3].note == "the verifier failed: ValueError: no"
    assert told == [1, 2, 3, 4, 5, 6]
