"""ZebraLogic: 1,000 puzzles of houses and their inhabitants, solved as a grid."""

from __future__ import annotations

import json
from collections.abc import Mapping

from grlo.benchmarks.spec import BenchmarkSpec, DataSource
from grlo.prompts.problems import parse_problem
from grlo.prompts.rows import kind_of
from grlo.types import Prompt
from grlo.verifiers.grid import GridSettings


def zebralogic_row(row: object, *, source: str) -> Prompt:
    """A puzzle with the form of its solution; the reference is the grid as JSON.

    Raises:
        ValueError: The row is malformed.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"is {kind_of(row)}; expected an object")
    solution = row.get("solution")
    if not isinstance(solution, Mapping):
        raise ValueError(f"solution is {kind_of(solution)}; expected header and rows")
    header, rows = solution.get("header"), solution.get("rows")
    if not (isinstance(header, list) and isinstance(rows, list) and rows):
        raise ValueError("solution has no header or no rows")
    if not all(isinstance(cells, list) and len(cells) == len(header) for cells in rows):
        raise ValueError("a row of the solution is not as long as its header")
    grid = {
        f"House {cells[0]}": dict(zip(header[1:], map(str, cells[1:]), strict=True))
        for cells in rows
    }
    empty = {house: dict.fromkeys(cells, "___") for house, cells in grid.items()}
    form = json.dumps(empty, indent=1, ensure_ascii=False)
    question = (
        f"{str(row.get('puzzle', '')).strip()}\n\nReason step by step. Then give the solution as "
        f"JSON in a fenced code block, in this form:\n\n```json\n{form}\n```"
    )
    problem = {
        "id": row.get("id"),
        "size": row.get("size"),
        "puzzle": row.get("puzzle"),
        "question": question,
        "answer": json.dumps(grid, ensure_ascii=False),
    }
    return parse_problem(problem, source=source)


ZEBRALOGIC = BenchmarkSpec(
    name="zebralogic",
    domain="logic",
    data=DataSource(
        file="logic_zebralogic",
        num_rows=1000,
        known={
            "03316ab352c98116a0f01dc42a094819ee902038d36c186113b5a694f328449b": "as RLMT has them"
        },
    ),
    paper="Lin et al. 2025, arXiv:2502.01100",
    grader=GridSettings(),
    parse=zebralogic_row,
    protocol="one sample; a puzzle counts when every cell is right, the share of cells stands "
    "beside it. On the hub the solutions are in a gated data set: give a file",
)
