"""Mathematical answers: true ones in any spelling, near misses, answers that never end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grlo.interfaces import BuildContext
from grlo.types import Message, Prompt
from grlo.verifiers.math import MathSettings, MathVerifier


def problem(reference: str | None) -> Prompt:
    return Prompt(id="p", messages=(Message("user", "?"),), style="rule", reference=reference)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathSettings(num_workers=2, seconds=20).build(
        context=BuildContext(device="cpu", seed=0)
    )
    yield verifier
    verifier.close()


def test_a_right_answer_scores_one_and_says_what_was_found(verifier: MathVerifier) -> None:
    score = verifier(problem(r"\frac{1}{2}"), r"Half of it: $\boxed{0.5}$.")
    assert (score.value, score.extracted, score.parts) == (1.0, "0.5", {"parsed": 1.0})
