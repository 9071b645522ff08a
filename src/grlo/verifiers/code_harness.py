# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOptionalCall=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false
"""Runs inside the sandbox: tests an answer that runs in a process of its own.

The text of this file is the program that the sandbox runs; it needs the standard library only. The
process first forks, before it has read any test. The child runs the answer and, asked over a pair
of pipes, calls its functions. The parent runs the tests, in which the answer's functions are
`Remote`: arguments and results travel as plain values, so that whatever the answer does to its own
process (patched builtins, strange `__eq__`, a forged verdict, leaving early), the tests see data
only, and expected values never reach it. The verdict leaves by a descriptor that the child lacks.

What the child says is believed in two respects only: what its functions return or raise, and what
its programs write. Once it ends or hangs every test fails, whatever that test makes of exceptions.
"""

from __future__ import annotations

import atexit
import builtins
import collections
import contextlib
import ctypes
import json
import math
import os
import select
import signal
import struct
import sys
import time
import types

MAX_MESSAGE_BYTES = 64 << 20
MAX_SHOWN = 300
# Wall-clock time that a call may take, in terms of its processor time: machines are busy.
WALL_FACTOR = 3.0
_LARGE = 1 << 1024
_PR_SET_DUMPABLE = 4


# Plain values -------------------------------------------------------------------------------------

_DATES = {
    "datetime.date": ("year", "month", "day"),
    "datetime.time": ("hour", "minute", "second", "microsecond"),
    "datetime.datetime": ("year", "month", "day", "hour", "minute", "second", "microsecond"),
    "datetime.timedelta": ("days", "seconds", "microseconds"),
}
_NUMBERS = ("decimal.Decimal", "fractions.Fraction")
_TYPES = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and value.__module__ == "builtins"
}


def encode(value, keep):
    """A value as JSON has it: lists, numbers, texts, and `{tag: ...}` for everything else.

    Args:
        value: Subclasses of builtin types become those types.
        keep: Called with an object of any other type; returns what stands for it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        value = int.__int__(value)
        # Decimal digits of huge numbers take quadratic time.
        return value if -_LARGE < value < _LARGE else {"int": hex(value)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item, keep) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        items = [encode(item, keep) for item in tuple.__iter__(value)]
        fields = getattr(type(value), "_fields", None)
        if isinstance(fields, tuple) and len(fields) == len(items):
            return {"namedtuple": [type(value).__name__, list(fields), items]}
        return {"tuple": items}
    if isinstance(value, dict):
        pairs = [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]
        for kind in (collections.OrderedDict, collections.Counter):
            if isinstance(value, kind):
                return {kind.__name__: pairs}
        return {"dict": pairs}
    if isinstance(value, set):
        return {"set": [encode(item, keep) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"frozenset": [encode(item, keep) for item in frozenset.__iter__(value)]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).decode("latin-1")}
    if isinstance(value, collections.deque):
        return {"deque": [encode(item, keep) for item in collections.deque.__iter__(value)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return {"type": value.__name__}
    name = type(value).__module__ + "." + type(value).__name__
    if name in _NUMBERS:
        return {name: str(value)}
    if name in _DATES and getattr(value, "tzinfo", None) is None:
        return {name: [getattr(value, field) for field in _DATES[name]]}
    return keep(value)


def decode(value, find):
    """The value that `encode` gave this for.

    Args:
        value: From JSON.
        find: Called with what stands for an object that was kept.
    """
    if isinstance(value, list):
        return [decode(item, find) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag in _ITEMS:
        return _ITEMS[tag](decode(item, find) for item in inner)
    if tag in _PAIRS:
        return _PAIRS[tag]((decode(key, find), decode(item, find)) for key, item in inner)
    if tag == "namedtuple":
        name, fields, items = inner
        return _named_tuple(str(name), tuple(fields))(*(decode(item, find) for item in items))
    if tag == "type":
        return _TYPES[inner]
    if tag == "int":
        return int(inner, 16)
    if tag == "complex":
        return complex(*inner)
    if tag == "bytes":
        return inner.encode("latin-1")
    if tag == "range":
        return range(*inner)
    if tag in _NUMBERS or tag in _DATES:
        module, _, name = tag.partition(".")
        kind = getattr(__import__(module), name)
        return kind(inner) if tag in _NUMBERS else kind(*inner)
    return find(value)


_ITEMS = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_PAIRS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": lambda pairs: collections.Counter(dict(pairs)),
}
_named_tuples = {}


def _named_tuple(name, fields):
    if (name, fields) not in _named_tuples:
        _named_tuples[name, fields] = collections.namedtuple(name, fields)
    return _named_tuples[name, fields]


def encode_error(error):
    """The names of an exception's types, the narrowest first, and its arguments."""
    plain = (str, int, float, type(None))
    args = [arg if isinstance(arg, plain) else _shown(repr, arg) for arg in error.args]
    if isinstance(error, SyntaxError):
        args = [_shown(str, error)]
    return {"types": [kind.__name__ for kind in type(error).__mro__], "args": args[:10]}


def decode_error(error, known):
    """An exception like the one that was encoded, or None if it is of no ordinary type.

    Args:
        error: From `encode_error`.
        known: Types of exceptions by name, besides those of the language.
    """
    args = [arg for arg in error["args"] if not isinstance(arg, (list, dict))]
    for name in error["types"]:
        kind = known.get(name) or _TYPES.get(name)
        if kind is None or not issubclass(kind, Exception):
            continue
        if issubclass(kind, (StopIteration, StopAsyncIteration)):
            # Here it would end a loop of the caller's as if nothing had happened.
            kind = RuntimeError
        try:
            return kind(*args)
        except TypeError:
            return kind.__new__(kind, *args)
    return None


# Messages -----------------------------------------------------------------------------------------


class GoneError(Exception):
    """The other side ended, or wrote what is no message."""


class SlowError(Exception):
    """No answer in time."""


class Patience:
    """How long another process may take.

    Args:
        process: Its id.
        seconds: Of its own processor time; on the clock `WALL_FACTOR` times as much.
        until: Time of the monotonic clock when it ends in any case.
    """

    def __init__(self, process, seconds, until=math.inf):
        self.process, self.seconds = process, seconds
        self.begin = self.used()
        self.end = min(time.monotonic() + WALL_FACTOR * seconds, until)

    def used(self):
        """Processor time of the process, in seconds."""
        try:
            # As clock_getcpuclockid(3) makes it.
            return time.clock_gettime((~self.process << 3) | 2)
        except OSError:
            return 0.0

    def left(self):
        """Seconds until it is worth while to ask again; not positive when it is over."""
        processor = self.seconds - (self.used() - self.begin)
        left = min(processor, self.end - time.monotonic())
        return max(left, 0.005) if left > 0 else left


def send(descriptor, message):
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError("a value of more than 64 MiB")
    data = memoryview(struct.pack(">Q", len(data)) + data)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor, patience=None):
    (size,) = struct.unpack(">Q", _read(descriptor, 8, patience))
    if size > MAX_MESSAGE_BYTES:
        raise GoneError("wrote more than 64 MiB")
    try:
        return json.loads(_read(descriptor, size, patience))
    except (ValueError, RecursionError, MemoryError) as error:
        raise GoneError("wrote no message") from error


def _read(descriptor, size, patience):
    parts = []
    while size:
        while patience is not None:
            left = patience.left()
            if left <= 0:
                raise SlowError
            if select.select([descriptor], [], [], left)[0]:
                break
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise GoneError("ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# The answer's side --------------------------------------------------------------------------------


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
        while not limit:
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
            os.write(why, f"{type(error).__name__}: {_shown(str, error)}".encode()[:MAX_SHOWN])
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


# The tests' side ----------------------------------------------------------------------------------


class FailedError(Exception):
    """The answer does not do what a test demands."""


class BrokenError(Exception):
    """The tests themselves do not work."""


class SkippedError(Exception):
    """What is tested is no test."""


class Link:
    """Asks the answer's process.

    Args:
        requests: Descriptor to write to.
        replies: Descriptor to read from.
        process: Its id.
        seconds: Of processor time that a call may take.
        until: Time of the monotonic clock when all tests have to be over.
    """

    def __init__(self, requests, replies, *, process, seconds, until):
        self.requests, self.replies = requests, replies
        self.process, self.seconds, self.until = process, seconds, until
        self.errors, self.functions = {}, []
        self.last_call = ""
        self.failure = None  # The first of a test: the test cannot catch it and go on.
        self.is_gone = False  # Nothing more will come, or nobody knows what for.

    def fail(self, reason, *, is_broken=False):
        error = (BrokenError if is_broken else FailedError)(reason)
        self.failure = self.failure or error
        return error

    def gone(self, reason):
        self.is_gone = True
        return self.fail(reason)

    def ask(self, wall_seconds=None, /, **request):
        """The reply to a request, as it is.

        Args:
            wall_seconds: Time for an answer on the clock alone; None counts processor time.
            request: What to do, and with what.
        """
        if self.is_gone:
            raise self.fail("the program is gone")
        if wall_seconds is None:
            patience = Patience(self.process, self.seconds, self.until)
        else:
            until = min(time.monotonic() + wall_seconds, self.until)
            patience = Patience(self.process, math.inf, until)
        try:
            send(self.requests, request)
            while True:
                reply = receive(self.replies, patience)
                if not isinstance(reply, dict):
                    raise GoneError("wrote no message")
                if "call" not in reply:
                    break
                send(self.requests, self.called(reply))
        except SlowError:
            if time.monotonic() >= self.until:
                raise self.gone(f"all tests together took too long{self.in_call()}") from None
            raise self.gone(f"took longer than {self.seconds:g} s{self.in_call()}") from None
        except (GoneError, OSError) as error:
            raise self.gone(f"the program {error or 'ended'}{self.in_call()}") from None
        if "error" in reply:
            raise self.error_of(reply["error"])
        return reply

    def error_of(self, error):
        """The exception that the answer has raised."""
        try:
            found = decode_error(error, self.errors)
            if found is None:
                shown = [_shown(str, arg) for arg in error["args"]]
                found = self.fail(f"{_shown(str, error['types'][0])}: {', '.join(shown)}")
        except (ValueError, TypeError, LookupError):
            found = self.gone("the program wrote no message")
        return found

    def value(self, **request):
        """The value in the reply to a request."""
        return self.decoded(self.ask(**request).get("value"))

    def decoded(self, value):
        try:
            return decode(value, self.found)
        except Exception as error:
            raise self.gone("the program wrote no value") from error

    def call(self, what, args, kwargs, label):
        shown = [_shown(repr, arg) for arg in args]
        shown += [f"{key}={_shown(repr, value)}" for key, value in kwargs.items()]
        self.last_call = f"{label}({', '.join(shown)})"
        reply = self.ask(
            do="call",
            what=what,
            args=[encode(arg, self.lent) for arg in args],
            kwargs={key: encode(value, self.lent) for key, value in kwargs.items()},
        )
        result = self.decoded(reply.get("value"))
        if "args" in reply:
            changed, named = self.decoded(reply["args"]), reply.get("kwargs")
            for old, new in zip(args, changed):  # noqa: B905
                _refill(old, new)
            for key in kwargs.keys() & (named if isinstance(named, dict) else {}).keys():
                _refill(kwargs[key], self.decoded(named[key]))
        self.last_call += f" gave {_shown(repr, result)}"
        return result

    def called(self, message):
        """What a function of the tests returns to the answer that has called it."""
        try:
            function = self.functions[message["call"]]
            args = [decode(arg, self.found) for arg in message["args"]]
            kwargs = {key: decode(value, self.found) for key, value in message["kwargs"].items()}
            return {"value": encode(function(*args, **kwargs), self.lent)}
        except Exception as error:
            return {"error": encode_error(error)}

    def in_call(self):
        return f" in {self.last_call}" if self.last_call else ""

    def lent(self, value):
        """What stands for an object that is no plain value: the answer's own, or a function."""
        if isinstance(value, Remote):
            return object.__getattribute__(value, "_what")
        if callable(value):
            self.functions.append(value)
            return {"function": [len(self.functions) - 1, getattr(value, "__name__", "function")]}
        raise self.fail(
            f"a test passes a {type(value).__name__}, which cannot be sent", is_broken=True
        )

    def found(self, value):
        """The object that something stands for."""
        if "function" in value:
            return self.functions[value["function"][0]]
        (number, name) = value["kept"]
        return Remote(self, {"kept": [int(number), str(name)]}, str(name)[:MAX_SHOWN])


class Remote:
    """Something of the answer's that is no plain value: it can be used, but equals no value."""

    def __init__(self, link, what, label):
        vars(self).update(_link=link, _what=what, _label=label)

    def __call__(self, *args, **kwargs):
        return self._link.call(self._what, args, kwargs, self._label)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.value(do="get", what=self._what, name=name)

    def __setattr__(self, name, value):
        value = encode(value, self._link.lent)
        self._link.value(do="set", what=self._what, name=name, value=value)

    def __getitem__(self, key):
        key = encode(key, self._link.lent)
        return self._link.value(do="item", what=self._what, key=key)

    def __iter__(self):
        return self._link.value(do="iterator", what=self._what)

    def __next__(self):
        reply = self._link.ask(do="next", what=self._what)
        if "end" in reply:
            raise StopIteration
        return self._link.decoded(reply.get("value"))

    def __instancecheck__(self, value):
        if not isinstance(value, Remote):
            return False
        return self._link.value(do="instance", what=value._what, kind=self._what) is True

    def __len__(self):
        return int(self._link.value(do="length", what=self._what))

    def __bool__(self):
        return self._link.value(do="truth", what=self._what) is True

    def __str__(self):
        return str(self._link.value(do="text", what=self._what))

    def __repr__(self):
        return f"<{self._label}>"

    def __eq__(self, other):
        if isinstance(other, Remote):
            self._refuse()
        return False

    def __ne__(self, other):
        return not self == other

    def _refuse(self, *others):
        raise self._link.fail(
            f"an object of the type {self._label} where a plain value is expected"
        )

    __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse


def _refill(old, new):
    """Makes an argument what the answer has made of it."""
    if isinstance(old, (list, collections.deque)) and isinstance(new, type(old)):
        old.clear()
        old.extend(new)
    elif isinstance(old, (dict, set)) and isinstance(new, type(old)):
        old.clear()
        old.update(new)
    elif isinstance(old, tuple) and isinstance(new, tuple):
        for old_item, new_item in zip(old, new):  # noqa: B905
            _refill(old_item, new_item)


def _shown(write, value):
    if isinstance(value, int) and not -_LARGE < value < _LARGE:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = write(value)
    except BaseException:
        return "?"
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def run_tests(job, link):
    """Runs every test of a job.

    Returns:
        Number of tests that passed, number of tests, and why the first other one did not.
    """
    try:
        setup = compile(job["setup"], "tests.py", "exec", dont_inherit=True)
        compile(job["prelude"], "prelude.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise BrokenError(f"the tests are no Python: {error}") from None
    namespace = {"__name__": "tests"}
    try:
        answers = _load(job, link) if job["form"] != "programs" else {}
    except Exception as error:
        raise FailedError(_reason(error)) from None
    if job["form"] == "statements":
        namespace |= answers
    try:
        exec(setup, namespace)
    except BaseException as error:
        if link.last_call:  # It has used what the answer defines.
            raise FailedError(_reason(error, link)) from None
        raise BrokenError(f"the tests do not run: {error!r}") from error
    if job["form"] == "statements":
        # A setup may define what it tests, as the beginning of a function to be completed.
        namespace |= answers
    passed, total, note = 0, len(job["tests"]), ""
    for number, test in enumerate(job["tests"], start=1):
        link.failure = None
        try:
            _FORMS[job["form"]](test, job, namespace, answers, link)
            if link.failure:
                raise link.failure
        except BaseException as error:
            if isinstance(link.failure or error, BrokenError):
                raise link.failure or error from None
            if isinstance(error, SkippedError):
                total -= 1
                continue
            why = _reason(link.failure or error, link)
            note = note or f"test {number} of {len(job['tests'])}: {why}"
            if not job["partial"] or link.is_gone:
                break
        else:
            passed += 1
    if not total:
        raise BrokenError("the reference solution refuses every input")
    return passed, total, note


def _load(job, link):
    """What the answer defines, by name: functions and classes, exceptions, plain values."""
    loaded = link.ask(do="load", prelude=job["prelude"], code=job["code"], names=job["names"])
    if loaded["missing"]:
        raise FailedError(f"the program does not define {_shown(str, loaded['missing'])}")
    answers = {name: Remote(link, {"name": name}, name) for name in job["names"]}
    for name in job["names"]:
        if name in loaded["values"]:
            answers[name] = link.decoded(loaded["values"][name])
        if name in loaded["errors"]:
            bases = [_TYPES[base] for base in loaded["errors"][name] if base in _TYPES]
            if bases and issubclass(bases[0], Exception):
                answers[name] = link.errors[name] = type(name, (bases[0],), {})
    return answers


def _reason(error, link=None):
    call = link.last_call if link is not None else ""
    if isinstance(error, FailedError):
        return str(error)
    if isinstance(error, AssertionError):
        return call or str(error) or "an assertion fails"
    text = f"{type(error).__name__}: {_shown(str, error)}"
    return f"{call} raised {text}" if call else text


def _statement(test, job, namespace, answers, link):
    """Statements of a test, such as an assertion."""
    exec(compile(test, "tests.py", "exec", dont_inherit=True), namespace)


def _comparison(test, job, namespace, answers, link):
    """A call whose result has to be that of the reference solution, or a given one.

    The rules are those of EvalPlus (Liu et al. 2023, arXiv 2305.01210): equal, or close where the
    expected result is made of floating-point numbers; by problem, equal as sets, or any result in
    place of a match object. Expected results that are JSON have no tuples: there a tuple is as good
    as a list, and where each result is wrapped in a list so may be that of the answer.
    """
    args = decode(test["args"], _nothing)
    if "expected" in test:
        expected = decode(test["expected"], _nothing)
    else:
        start = time.process_time()
        try:
            expected = namespace[job["reference"]](*decode(test["args"], _nothing))
        except Exception:
            raise SkippedError from None  # The reference refuses the input.
        needed = time.process_time() - start
        link.seconds = max(job["seconds"], job["reference_factor"] * needed)
    found = answers[job["names"][0]](*args)
    rule, tolerance = job["rule"], job["tolerance"]
    if rule == "root":
        residue = abs(namespace["poly"](*decode(test["args"], _nothing), found))
        is_right = residue <= tolerance
    elif rule == "set":
        is_right = set(found) == set(expected)
    elif rule == "match" and not isinstance(found, bool):
        is_right = (expected is not None) == (found is not None)
    elif rule in ("json", "wrapped"):
        found = _without_tuples(found)
        is_right = _equal(found, expected, tolerance)
        is_right = is_right or (rule == "wrapped" and _equal([found], expected, tolerance))
    else:
        is_right = _equal(found, expected, tolerance)
    if not is_right:
        raise FailedError(f"{link.last_call}, expected {_shown(repr, expected)}")


def _nothing(value):
    raise BrokenError(f"a test holds {value!r}, which is no value")


def _equal(found, expected, tolerance):
    if tolerance == 0 and _is_floats(expected):
        tolerance = 1e-6
    if tolerance == 0 or not _is_close(found, expected, tolerance):
        return found == expected
    return True


def _is_floats(value):
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _is_close(found, expected, tolerance):
    """Within the tolerance and 1e-7 of the value, number by number."""
    if isinstance(expected, (list, tuple)):
        return (
            type(found) is type(expected)
            and len(found) == len(expected)
            and all(_is_close(f, e, tolerance) for f, e in zip(found, expected))  # noqa: B905
        )
    number = (int, float)
    if isinstance(found, number) and isinstance(expected, number):
        if math.isnan(expected):
            return math.isnan(found)
        return found == expected or abs(found - expected) <= tolerance + 1e-7 * abs(expected)
    return found == expected


def _without_tuples(value):
    if isinstance(value, (list, tuple)):
        return [_without_tuples(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return value


def _program(test, job, namespace, answers, link):
    """A program that is given an input and has to write the expected output, and not to fail."""
    seconds = job["seconds"]
    reply = link.ask(
        # That of the program, and what its start and end take.
        WALL_FACTOR * seconds + 5.0,
        do="run",
        code=job["code"],
        stdin=test["stdin"],
        seconds=seconds,
        # In powers of two: it must not say how long the expected output is.
        output_bytes=1 << max(20, 2 + len(test["stdout"]).bit_length()),
    )
    given = f"for the input {_shown(repr, test['stdin'])}"
    if reply.get("limit") == "time":
        raise FailedError(f"{given} it took longer than {seconds:g} s")
    if reply.get("limit"):
        raise FailedError(f"{given} it wrote far more than was expected")
    output, why = str(reply.get("output", "")), _shown(str, reply.get("why", ""))
    if why or reply.get("status") != 0:
        raise FailedError(f"{given} it ended with {why or reply.get('status')}")
    if not same_output(output, test["stdout"]):
        expected = _shown(repr, test["stdout"])
        raise FailedError(f"{given} it wrote {_shown(repr, output)}, expected {expected}")


def same_output(found, expected):
    """Whether two outputs agree: the same words, numbers with a point within 1e-6 of each other.

    White space between words and at ends does not count.
    """
    found_words, expected_words = found.split(), expected.split()
    if len(found_words) != len(expected_words):
        return False
    return all(map(_same_word, found_words, expected_words))


def _same_word(found, expected):
    if found == expected:
        return True
    if "." not in expected and "e" not in expected.lower():
        return False
    try:
        return math.isclose(float(found), float(expected), rel_tol=1e-6, abs_tol=1e-6)
    except ValueError:
        return False


_FORMS = {"statements": _statement, "comparisons": _comparison, "programs": _program}


def _nowhere(*descriptors):
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def main():
    to_child, to_parent = os.pipe(), os.pipe()
    sys.set_int_max_str_digits(0)
    child = os.fork()
    if child == 0:
        os.close(to_child[1])
        os.close(to_parent[0])
        _nowhere(0, 1, 2)
        os.setsid()
        # Usually made by `site`, which the sandbox leaves out.
        builtins.exit = builtins.quit = sys.exit
        with contextlib.suppress(GoneError):
            Server(to_child[0], to_parent[1]).serve()
        os._exit(0)
    # Signals and debuggers of the child, which has not been told anything yet, do not reach us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.close(to_child[0])
    os.close(to_parent[1])
    job = json.loads(sys.stdin.buffer.read())
    # Tests may print.
    channel = os.dup(1)
    _nowhere(0, 1, 2)
    verdict = {"nonce": job["nonce"]}
    try:
        link = Link(
            to_child[1],
            to_parent[0],
            process=child,
            seconds=job["seconds"],
            until=time.monotonic() + job["total_seconds"],
        )
        passed, total, note = run_tests(job, link)
        verdict |= {"passed": passed, "total": total, "note": note}
    except FailedError as error:
        verdict |= {"passed": 0, "total": len(job["tests"]), "note": str(error)}
    except BaseException as error:
        text = str(error) if isinstance(error, BrokenError) else f"{type(error).__name__}: {error}"
        verdict["broken"] = text[:MAX_SHOWN]
    with open(channel, "w", encoding="utf-8") as file:
        json.dump(verdict, file)
    os._exit(0)


if __name__ == "__main__":
    main()
