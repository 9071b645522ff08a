"""Grades many answers by one verifier, as fast as the verifier lets itself be called."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from grlo.interfaces import Progress, Verifier, silent
from grlo.types import Prompt, Score


def grade_all(
    verifier: Verifier, answers: Sequence[tuple[Prompt, str]], *, progress: Progress = silent
) -> list[Score]:
    """One score per answer, in order; an answer whose verifier raises is unscored.

    Args:
        verifier: Called from as many threads as its attribute `num_workers` says, else from one.
        answers: Prompts with the texts to grade.
        progress: Called as answers are graded; tokens are not counted.
    """

    def grade(prompt: Prompt, text: str) -> Score:
        try:
            return verifier(prompt, text)
        except Exception as error:
            # Whose fault it is cannot be known here, so it is nobody's: unscored, not zero.
            return Score(value=None, note=f"the verifier failed: {type(error).__name__}: {error}")

    num_workers = getattr(verifier, "num_workers", 1)
    if num_workers == 1:
        scores = []
        for prompt, text in answers:
            scores.append(grade(prompt, text))
            progress(done=len(scores), total=len(answers), tokens=0)
        return scores
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        futures = [pool.submit(grade, prompt, text) for prompt, text in answers]
        for done, _ in enumerate(as_completed(futures), start=1):
            progress(done=done, total=len(answers), tokens=0)
        return [future.result() for future in futures]
