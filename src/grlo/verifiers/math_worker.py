"""The process that compares mathematical answers."""

from __future__ import annotations

import sys
from typing import Any

from grlo.verifiers.worker_process import end_with_parent, serve


def main() -> None:
    """Serves comparisons: {"gold", "answer"} -> the fields of `math_equivalence.Comparison`."""
    end_with_parent()
    # Long whole numbers are common in answers, and reading them is bounded by the time limit.
    sys.set_int_max_str_digits(0)
    from dataclasses import asdict

    from grlo.verifiers.math_equivalence import compare

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return asdict(compare(request["gold"], request["answer"]))

    compare(r"\frac{1}{2}", "x+0.5")
    serve(answer)


if __name__ == "__main__":
    main()
