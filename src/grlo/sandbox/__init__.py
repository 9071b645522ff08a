"""Isolated execution of programs written by a model.

`open_sandbox` chooses the strongest backend that passes its self-test and gives a `Sandbox`, whose
`run` is called from as many threads as it has workers. Each worker is a launcher: a small process
that starts one program at a time in a sandbox of its own and outlives none of us.

    pool (this process) -- a pipe --> launcher -- bwrap --> python /program.py, process 1 of its own

A program sees an interpreter, its standard library and an empty folder. It has no network, no other
processes, no environment and few system calls, and what it uses is limited. It shares the machine's
kernel: whoever needs more than that runs the whole of training in a virtual machine.
"""

from grlo.sandbox.opening import open_sandbox
from grlo.sandbox.pool import Sandbox
from grlo.sandbox.types import ACCEPT_UNSANDBOXED, Execution, Limits, SandboxSettings

__all__ = [
    "ACCEPT_UNSANDBOXED",
    "Execution",
    "Limits",
    "Sandbox",
    "SandboxSettings",
    "open_sandbox",
]
