# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOptionalCall=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false
"""The answer's side of `code_harness`: loads the answer and does with it what it is asked.

Part of the program that the sandbox runs: it needs the standard library only. The answer shares
this process and may change everything in it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import sys
import types

from grlo.verifiers.code_pipes import Patience, receive, send
from grlo.verifiers.code_values import MAX_SHOWN, decode, decode_error, encode, encode_error, shown


class Server:
    """Loads the answer and does with it what it is asked."""

    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies
        self.kept, self.numbers, self.functions = {}, {}, {}
        self.namespace = _fresh_module("answer")

    def serve(self):
        while True:
            self.answer(receive(self.requests))

    def answer(self, request):
        try:
            reply = getattr(self, f"on_{request.pop('do')}")(**request)
        except BaseException as error:  # Also SystemExit: the tests decide what it means.
            reply = {"error": encode_error(error)}
        try:
            send(self.replies, reply)
        except (ValueError, RecursionError, MemoryError) as error:
            send(self.replies, {"error": encode_error(error)})

    def on_load(self, prelude, code, names):
        namespace = self.namespace
        exec(_compiled(prelude), namespace)
        for name in names:
            # The prelude may have the beginning of a function that the answer has to complete.
            if getattr(namespace.get(name), "__module__", None) == "answer":
                del namespace[name]
        exec(_compiled(code), namespace)
        values, errors = {}, {}
        for name in names:
            # As LeetCode has it: a method of a class of this name.
            if name not in namespace and hasattr(namespace.get("Solution"), name):
                namespace[name] = getattr(namespace["Solution"](), name)
            value = namespace.get(name)
            if isinstance(value, type) and issubclass(value, BaseException):
                errors[name] = [kind.__name__ for kind in value.__mro__]
            elif name in namespace and not callable(value):
                values[name] = encode(value, self.keep)
        missing = [name for name in names if name not in namespace]
        return {"missing": missing, "values": values, "errors": errors}

    def on_call(self, what, args, kwargs):
        function, before = self.find(what), json.dumps([args, kwargs])
        values = [decode(value, self.find) for value in args]
        named = {key: decode(value, self.find) for key, value in kwargs.items()}
        reply = {"value": encode(function(*values, **named), self.keep)}
        # Arguments that the answer has changed in place go back.
        args = [encode(value, self.keep) for value in values]
        kwargs = {key: encode(value, self.keep) for key, value in named.items()}
        if json.dumps([args, kwargs]) != before:
            reply |= {"args": args, "kwargs": kwargs}
        return reply

    def on_get(self, what, name):
        return {"value": encode(getattr(self.find(what), name), self.keep)}

    def on_set(self, what, name, value):
        setattr(self.find(what), name, decode(value, self.find))
        return {"value": None}

    def on_item(self, what, key):
        return {"value": encode(self.find(what)[decode(key, self.find)], self.keep)}

    def on_iterator(self, what):
        return {"value": self.keep(iter(self.find(what)))}

    def on_next(self, what):
        try:
            return {"value": encode(next(self.find(what)), self.keep)}
        except StopIteration:
            return {"end": True}

    def on_instance(self, what, kind):
        return {"value": isinstance(self.find(what), self.find(kind))}

    def on_length(self, what):
        return {"value": len(self.find(what))}

    def on_truth(self, what):
        return {"value": bool(self.find(what))}

    def on_text(self, what):
        return {"value": str(self.find(what))}

    def on_run(self, code, stdin, seconds, output_bytes):
        """Runs the answer as a program in a child of its own."""
        (in_read, in_write), (out_read, out_write), (why_read, why_write) = (
            os.pipe() for _ in range(3)
        )
        child = os.fork()
        if child == 0:
            for descriptor in (in_write, out_read, why_read, self.requests, self.replies):
                os.close(descriptor)
            os.setsid()
            _replace_standard(in_read, out_write)
            _run_program(code, why_write)
        for descriptor in (in_read, out_write, why_write):
            os.close(descriptor)
        os.set_blocking(in_write, False)
        os.set_blocking(why_read, False)
        data, output, limit = memoryview(stdin.encode()), bytearray(), ""
        patience = Patience(child, seconds)
        while True:
            left = patience.left()
            if left <= 0 or len(output) > output_bytes:
                limit = "time" if left <= 0 else "output"
                break
            wants = [in_write] if in_write is not None else []
            readable, writable, _ = select.select([out_read], wants, [], left)
            if writable:
                try:
                    data = data[os.write(in_write, data[:4096]) :] if data else data
                except BrokenPipeError:
                    data = data[:0]
                if not data:
                    os.close(in_write)
                    in_write = None
            if readable:
                part = os.read(out_read, 1 << 16)
                if not part:
                    break
                output += part
        ended = os.pidfd_open(child)
        if not limit:
            # The program has closed its output: all that it may still do is end.
            select.select([ended], [], [], 1.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        why = b""
        with contextlib.suppress(BlockingIOError):
            why = os.read(why_read, 4 * MAX_SHOWN)
        for descriptor in (in_write, out_read, why_read, ended):
            if descriptor is not None:
                os.close(descriptor)
        return {
            "output": output.decode("utf-8", "replace"),
            "limit": limit,
            "status": status,
            "why": why.decode("utf-8", "replace"),
        }

    def keep(self, value):
        """What stands for an object: the number that it has, or the function of the tests."""
        if isinstance(value, types.FunctionType) and "_stands_for" in vars(value):
            return vars(value)["_stands_for"]
        number = self.numbers.setdefault(id(value), len(self.kept))
        self.kept[number] = value
        return {"kept": [number, type(value).__name__]}

    def find(self, what):
        if "function" in what:
            number = what["function"][0]
            if number not in self.functions:
                self.functions[number] = self.borrowed(what)
            return self.functions[number]
        if "name" in what:
            return self.namespace[what["name"]]
        return self.kept[what["kept"][0]]

    def borrowed(self, what):
        """A function of the tests."""

        def function(*args, **kwargs):
            send(
                self.replies,
                {
                    "call": what["function"][0],
                    "args": [encode(arg, self.keep) for arg in args],
                    "kwargs": {key: encode(value, self.keep) for key, value in kwargs.items()},
                },
            )
            while "do" in (message := receive(self.requests)):
                self.answer(message)
            if "error" in message:
                raise decode_error(message["error"], {}) or RuntimeError("a test failed")
            return decode(message["value"], self.find)

        function.__name__ = what["function"][1]
        function._stands_for = what
        return function


def _compiled(code):
    return compile(code, "answer.py", "exec", dont_inherit=True)


def _fresh_module(name):
    """The namespace of a new module, found under its name."""
    module = sys.modules[name] = types.ModuleType(name)
    return vars(module)


def _run_program(code, why):
    """The rest of this process is the program.

    Args:
        code: Its text.
        why: Descriptor that is told of the exception that ended it.
    """
    status = 0
    try:
        try:
            exec(_compiled(code), _fresh_module("__main__"))
        finally:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
    except SystemExit as error:
        status = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        status = 1
        with contextlib.suppress(BaseException):
            os.write(why, f"{type(error).__name__}: {shown(str, error)}".encode()[:MAX_SHOWN])
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status & 0xFF)


def _replace_standard(stdin, stdout):
    """Standard streams from descriptors; errors go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, descriptor in enumerate((stdin, stdout, nowhere)):
        os.dup2(descriptor, number)
    for descriptor in {stdin, stdout, nowhere} - {0, 1, 2}:
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in enumerate("rww")
    )
