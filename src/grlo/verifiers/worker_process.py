"""The side of `worker_pool` that runs in the worker."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1
# The kernel ends a worker whose request outlives the pool's own limit: nobody may be left to do it.
_GRACE_SECONDS = 1.0


def end_with_parent() -> None:
    """On Linux this process is killed when its parent ends. Call it before slow imports."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            os._exit(1)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers requests until the input ends.

    Args:
        answer: The reply to a request. What it prints is thrown away. An exception, or memory
            beyond the limit, ends the process.
    """
    seconds, memory_bytes = float(sys.argv[2]), int(sys.argv[3])
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    _limit_memory(memory_bytes)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies.write(b"{}\n")
    replies.flush()
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
        reply = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _limit_memory(memory_bytes: int) -> None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # Elsewhere than on Linux the address space says nothing about memory.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = size + memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
