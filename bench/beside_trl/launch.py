"""Starts workers: every measurement has threads, allocator and caches of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beside_trl.cases import Case

BENCH = Path(__file__).resolve().parent.parent


def run(task: str, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """What a worker found for each case; all of them in one process, one after the other.

    Raises:
        SystemExit: It failed; its last words are printed.
    """
    threads = str(cases[0].threads)
    paths = [str(BENCH), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in paths),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        body = {"task": task, "cases": [asdict(case) for case in cases]}
        request.write_text(json.dumps(body), encoding="utf-8")
        command = [sys.executable, "-m", "beside_trl.worker", str(request), str(answer)]
        done = subprocess.run(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode != 0 or not answer.exists():
            raise SystemExit(f"{task} of {cases[0]} failed:\n{done.stdout[-4000:]}")
        return json.loads(answer.read_text(encoding="utf-8"))
