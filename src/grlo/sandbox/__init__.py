"""Isolated execution of programs written by a model."""

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
