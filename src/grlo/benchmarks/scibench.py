"""SciBench: 580 problems of college textbooks in physics, chemistry and mathematics."""

from __future__ import annotations

from collections.abc import Mapping

from grlo.benchmarks.spec import BenchmarkSpec, DataSource
from grlo.benchmarks.tasks import MATH_PROMPT
from grlo.prompts.problems import parse_problem
from grlo.types import Prompt
from grlo.verifiers.choice import ChoiceSettings


def scibench_row(row: object, *, source: str) -> Prompt:
    """A problem with the unit of its answer named; on the hub its text is `problem_text` and the
    number `answer_number`.

    Raises:
        ValueError: The row is malformed.
    """
    if isinstance(row, Mapping) and "problem_text" in row:
        row = {
            **row,
            "id": f"{row.get('source', '')}/{row.get('problemid', '')}".strip(),
            "kind": "numeric",
            "question": row["problem_text"],
            "answer": str(row.get("answer_number") or "").strip(),
        }
    if isinstance(row, Mapping) and isinstance(row.get("question"), str):
        unit = str(row.get("unit") or "").strip()
        if unit:
            asked = f"{row['question']} The answer is in units of {unit}."
            row = {**row, "question": asked, "bare_question": row["question"]}
    return parse_problem(row, source=source)


SCIBENCH = BenchmarkSpec(
    name="scibench",
    domain="science",
    data=DataSource(
        file="science_scibench",
        num_rows=580,
        known={
            "b3aa75b11a4e940d511ac6e1f57155fbca8a17916eb29c9b51896e61d7479ffd": "from "
            "mandyyyyii/scibench, dataset/original"
        },
    ),
    paper="Wang et al. 2023, arXiv:2307.10635",
    grader=ChoiceSettings(),
    parse=scibench_row,
    prompt=MATH_PROMPT,
    protocol="one sample; right within 5 % of the true number, in another unit too if it says so",
    shots="numeric",
)
