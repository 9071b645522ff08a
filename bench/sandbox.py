"""Programs per second and core: the sandbox beside a bare interpreter.

`python -I -S -c pass`, started by `subprocess`, is about the least that a fresh interpreter costs.
All run the same interpreter, in turn, from as many threads as there are cores. Processor time is
that of this process, the launchers and all programs; not that of the kernel's own threads, which
take namespaces apart afterwards.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from grlo.errors import SandboxError
from grlo.sandbox import ACCEPT_UNSANDBOXED, SandboxSettings, open_sandbox


def cpu_seconds() -> float:
    """Processor time of this process and all below it, ended ones that were waited for included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # proc(5): state, ppid, ..., then utime, stime, cutime and cstime as fields 14 to 17.
            parents[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def measure(work: Callable[[], object], *, num_programs: int) -> tuple[float, float]:
    """Wall and processor seconds per program."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        cpu, wall = cpu_seconds(), time.perf_counter()
        list(threads.map(lambda _: work(), range(num_programs)))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return wall / num_programs, cpu / num_programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100, help="in one round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    num_cores = len(os.sched_getaffinity(0))

    with ExitStack() as stack:
        works: dict[str, Callable[[], object]] = {}
        python = ""
        for backend in ("bubblewrap", "landlock", "none"):
            settings = SandboxSettings(backend=backend, accept_unsandboxed=ACCEPT_UNSANDBOXED)
            try:
                sandbox = stack.enter_context(open_sandbox(settings))
            except SandboxError as error:
                print(f"{backend}: not here: {error}")
                continue
            python = str(sandbox.describe()["interpreter"])
            works[backend] = lambda sandbox=sandbox: sandbox.run("pass")
        command = [python, "-I", "-S", "-c", "pass"]
        works = {"bare": lambda: subprocess.run(command, capture_output=True, check=True)} | works
        walls: dict[str, list[float]] = {name: [] for name in works}
        cpus: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            measure(work, num_programs=2 * num_cores)
        for _ in range(arguments.rounds):
            for name, work in works.items():
                wall, cpu = measure(work, num_programs=arguments.programs)
                walls[name].append(wall)
                cpus[name].append(cpu)

    print(f"{num_cores} cores, {python}, median (best) of {arguments.rounds} rounds")
    print("              programs/s/core    CPU ms/program    CPU against bare")
    for name in works:
        rate = 1 / statistics.median(walls[name]) / num_cores
        best = 1 / min(walls[name]) / num_cores
        cpu = 1e3 * statistics.median(cpus[name])
        ratio = statistics.median(
            mine / bare for mine, bare in zip(cpus[name], cpus["bare"], strict=True)
        )
        low = 1e3 * min(cpus[name])
        print(f"{name:12} {rate:9.1f} ({best:5.1f}) {cpu:9.1f} ({low:5.1f}) {ratio:14.2f}")


if __name__ == "__main__":
    main()
