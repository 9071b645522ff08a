"""One process of a comparison: `python -m beside_trl.worker REQUEST.json ANSWER.json`."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from beside_trl.cases import Case


def main() -> None:
    """Does what the request's `task` says for each of its cases."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    cases = [Case(**case) for case in request["cases"]]
    import torch

    torch.set_num_threads(cases[0].threads)
    found = [TASKS[request["task"]](case) for case in cases]
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


def prepare(case: Case) -> dict[str, Any]:
    """Writes models and prompts; says what everything runs on."""
    import platform

    import torch
    import transformers
    import trl

    from beside_trl.files import make_files

    make_files(case.model, Path(case.folder), max_tokens=case.max_tokens)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def measure_ours(case: Case) -> dict[str, Any]:
    from beside_trl import ours

    return summarize(case, ours.measure(case))


def measure_theirs(case: Case) -> dict[str, Any]:
    from beside_trl import theirs

    return summarize(case, theirs.measure(case))


def summarize(case: Case, measured: dict[str, Any]) -> dict[str, Any]:
    """Adds counts to seconds; operations and tokens are per step, of the answers it drew."""
    from beside_trl.floor import matrix_rate, operations
    from grlo.model_shape import read_shape

    # Before the rate is measured, which takes memory of its own.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answers = measured["answers"]
    work = operations(answers, policy=case.policy, reward=case.reward, has_reference=case.beta > 0)
    return {
        "seconds": measured["seconds"],
        "tokens": sum(len(answer.tokens) for answer in answers) / case.steps,
        "mean_length": fmean(len(answer.tokens) for answer in answers),
        "mean_prompt": fmean(len(answer.prompt_tokens) for answer in answers),
        "flops": {phase: value / case.steps for phase, value in work.items()},
        "matrix_rates": matrix_rate(read_shape(case.policy)),
        "peak_rss_bytes": peak,
    }


def agreement(case: Case) -> dict[str, Any]:
    from beside_trl import agreement

    return agreement.measure(case)


def profile(case: Case) -> dict[str, Any]:
    from beside_trl import ours

    return ours.profile(case)


TASKS = {
    "prepare": prepare,
    "ours": measure_ours,
    "trl": measure_theirs,
    "agreement": agreement,
    "profile": profile,
}

if __name__ == "__main__":
    main()
