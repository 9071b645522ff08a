# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false
"""Runs inside the sandbox: tests an answer that runs in a process of its own.

The text of this file is the program that the sandbox runs; it needs the standard library only. The
process first forks, before it has read any test. The child runs the answer and, asked over a pair
of pipes, calls its functions. The parent runs the tests, in which the answer's functions are
`Remote`: arguments and results travel as plain values, so that whatever the answer does to its own
process (patched builtins, strange `__eq__`, a forged verdict, leaving early), the tests see data
only, and expected values never reach it. The verdict leaves by a descriptor that the child lacks.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import json
import math
import os
import select
import signal
import struct
import sys
import time

MAX_MESSAGE_BYTES = 64 << 20
MAX_SHOWN = 300
_LARGE = 1 << 1024


# Plain values -------------------------------------------------------------------------------------


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
        return {"tuple": [encode(item, keep) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in pairs]}
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
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return {"builtin": value.__name__}
    name = type(value).__module__ + "." + type(value).__name__
    if name in ("decimal.Decimal", "fractions.Fraction"):
        return {name: str(value)}
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
    if tag == "tuple":
        return tuple(decode(item, find) for item in inner)
    if tag == "dict":
        return {decode(key, find): decode(item, find) for key, item in inner}
    if tag == "set":
        return {decode(item, find) for item in inner}
    if tag == "frozenset":
        return frozenset(decode(item, find) for item in inner)
    if tag == "builtin":
        return getattr(builtins, inner)
    if tag == "int":
        return int(inner, 16)
    if tag == "complex":
        return complex(*inner)
    if tag == "bytes":
        return inner.encode("latin-1")
    if tag == "deque":
        return collections.deque(decode(item, find) for item in inner)
    if tag == "range":
        return range(*inner)
    if tag == "decimal.Decimal":
        import decimal

        return decimal.Decimal(inner)
    if tag == "fractions.Fraction":
        import fractions

        return fractions.Fraction(inner)
    return find(value)


# Messages -----------------------------------------------------------------------------------------


class GoneError(Exception):
    """The other side ended, or wrote what is no message."""


class SlowError(Exception):
    """No answer in time."""


def send(descriptor, message):
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError("a value of more than 64 MiB")
    data = struct.pack(">Q", len(data)) + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor, deadline=None):
    (size,) = struct.unpack(">Q", _read(descriptor, 8, deadline))
    if size > MAX_MESSAGE_BYTES:
        raise GoneError("wrote more than 64 MiB")
    try:
        return json.loads(_read(descriptor, size, deadline))
    except (ValueError, RecursionError) as error:
        raise GoneError("wrote no message") from error


def _read(descriptor, size, deadline):
    parts = []
    while size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise SlowError
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
        self.kept = {}
        self.namespace = {"__name__": "answer", "__builtins__": builtins}
        self.program = None

    def serve(self):
        while True:
            request = receive(self.requests)
            try:
                reply = self.reply(**request)
            except BaseException as error:  # Also SystemExit: the tests decide what it means.
                reply = {"error": [type(error).__name__, _shown(str, error)]}
            try:
                send(self.replies, reply)
            except (ValueError, RecursionError, MemoryError) as error:
                send(self.replies, {"error": [type(error).__name__, str(error)]})

    def reply(self, do, **request):
        return getattr(self, f"on_{do}")(**request)

    def on_load(self, code, names):
        exec(compile(code, "answer.py", "exec"), self.namespace)
        for name in names:
            # As LeetCode has it: a method of a class of this name.
            if name not in self.namespace and hasattr(self.namespace.get("Solution"), name):
                self.namespace[name] = getattr(self.namespace["Solution"](), name)
        return {"missing": [name for name in names if name not in self.namespace]}

    def on_call(self, what, args, kwargs):
        function, before = self.find(what), json.dumps(args)
        values = [decode(value, self.find) for value in args]
        named = {key: decode(value, self.find) for key, value in kwargs.items()}
        result = function(*values, **named)
        reply = {"value": encode(result, self.keep)}
        # Arguments that the answer has changed in place go back.
        after = [encode(value, self.keep) for value in values]
        if json.dumps(after) != before:
            reply["args"] = after
        return reply

    def on_get(self, what, name):
        return {"value": encode(getattr(self.find(what), name), self.keep)}

    def on_set(self, what, name, value):
        setattr(self.find(what), name, decode(value, self.find))
        return {"value": None}

    def on_item(self, what, key):
        return {"value": encode(self.find(what)[decode(key, self.find)], self.keep)}

    def on_list(self, what):
        return {"value": [encode(item, self.keep) for item in self.find(what)]}

    def on_length(self, what):
        return {"value": len(self.find(what))}

    def on_truth(self, what):
        return {"value": bool(self.find(what))}

    def on_text(self, what):
        return {"value": str(self.find(what))}

    def on_run(self, code, stdin, seconds, output_bytes):
        """Runs the answer as a program in a child of its own."""
        out_read, out_write = os.pipe()
        in_read, in_write = os.pipe()
        child = os.fork()
        if child == 0:
            for descriptor in (out_read, in_write, self.requests, self.replies):
                os.close(descriptor)
            _replace_standard(in_read, out_write)
            _run_program(code)
        os.close(out_write)
        os.close(in_read)
        data, output, deadline = stdin.encode(), bytearray(), time.monotonic() + seconds
        os.set_blocking(in_write, False)
        status = None
        while True:
            left = deadline - time.monotonic()
            wants = [in_write] if data is not None else []
            readable, writable, _ = select.select([out_read], wants, [], max(left, 0))
            if left <= 0 or len(output) > output_bytes:
                status = "timeout" if left <= 0 else "output"
                break
            if writable:
                with contextlib.suppress(BrokenPipeError):
                    data = data[os.write(in_write, data[:4096]) :] if data else None
                if not data:
                    os.close(in_write)
                    data = None
            if readable:
                part = os.read(out_read, 1 << 16)
                if not part:
                    break
                output += part
        if data is not None:
            os.close(in_write)
        os.close(out_read)
        os.kill(child, signal.SIGKILL) if status else None
        code = os.waitpid(child, 0)[1]
        return {"output": output.decode("utf-8", "replace"), "status": status, "code": code}

    def keep(self, value):
        number = len(self.kept)
        self.kept[number] = value
        return {"kept": [number, type(value).__name__]}

    def find(self, what):
        if "name" in what:
            return self.namespace[what["name"]]
        return self.kept[what["kept"][0]]


def _run_program(code):
    """The rest of this process is the program."""
    status = 0
    try:
        exec(compile(code, "answer.py", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        if error.code not in (None, 0):
            status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        status = 1
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
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )


# The tests' side ----------------------------------------------------------------------------------


class FailedError(Exception):
    """The answer does not do what a test demands."""


class BrokenError(Exception):
    """The tests themselves do not work."""


class Link:
    """Asks the answer's process."""

    def __init__(self, requests, replies, seconds):
        self.requests, self.replies, self.seconds = requests, replies, seconds
        self.last_call = ""

    def ask(self, patience=None, /, **request):
        """The reply to a request, in `patience` seconds or those of a call."""
        limit = patience or self.seconds
        try:
            send(self.requests, request)
            reply = receive(self.replies, time.monotonic() + limit)
        except SlowError:
            raise FailedError(f"took longer than {limit:g} s{self.in_call()}") from None
        except (GoneError, OSError) as error:
            raise FailedError(f"the program {error or 'ended'}{self.in_call()}") from None
        if not isinstance(reply, dict):
            raise FailedError("the program wrote no message")
        if "error" in reply:
            name, text = (str(part)[:MAX_SHOWN] for part in reply["error"])
            kind = getattr(builtins, name, None)
            is_error = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if is_error else FailedError)(text if is_error else f"{name}: {text}")
        return reply

    def value(self, **request):
        reply = self.ask(**request)
        try:
            return decode(reply["value"], self.found)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise FailedError("the program wrote no value") from error

    def call(self, what, args, kwargs, label):
        self.last_call = f"{label}({', '.join(_shown(repr, arg) for arg in args)})"
        reply = self.ask(
            do="call",
            what=what,
            args=[encode(arg, self.kept) for arg in args],
            kwargs={key: encode(value, self.kept) for key, value in kwargs.items()},
        )
        try:
            result = decode(reply["value"], self.found)
            if "args" in reply:
                for old, new in zip(args, reply["args"]):  # noqa: B905
                    _refill(old, decode(new, self.found))
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise FailedError("the program wrote no value") from error
        self.last_call += f" gave {_shown(repr, result)}"
        return result

    def in_call(self):
        return f" in {self.last_call}" if self.last_call else ""

    def kept(self, value):
        if isinstance(value, Remote):
            return object.__getattribute__(value, "_what")
        raise BrokenError(f"a test passes a {type(value).__name__}, which cannot be sent")

    def found(self, value):
        (number, name) = value["kept"]
        return Remote(self, {"kept": [int(number), str(name)]}, str(name)[:MAX_SHOWN])


class Remote:
    """Something of the answer's that is no plain value: it can be used, but equals nothing."""

    def __init__(self, link, what, label):
        vars(self).update(_link=link, _what=what, _label=label)

    def __call__(self, *args, **kwargs):
        return self._link.call(self._what, args, kwargs, self._label)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.value(do="get", what=self._what, name=name)

    def __setattr__(self, name, value):
        value = encode(value, self._link.kept)
        self._link.value(do="set", what=self._what, name=name, value=value)

    def __getitem__(self, key):
        key = encode(key, self._link.kept)
        return self._link.value(do="item", what=self._what, key=key)

    def __iter__(self):
        return iter(self._link.value(do="list", what=self._what))

    def __len__(self):
        return int(self._link.value(do="length", what=self._what))

    def __bool__(self):
        return self._link.value(do="truth", what=self._what) is True

    def __str__(self):
        return str(self._link.value(do="text", what=self._what))

    def __repr__(self):
        return f"<{self._label}>"

    def _refuse(self, *others):
        raise FailedError(f"an object of the type {self._label} where a plain value is expected")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse


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
        setup = compile(job["setup"], "tests.py", "exec")
    except (SyntaxError, ValueError) as error:
        raise BrokenError(f"the tests are no Python: {error}") from None
    remotes = {name: Remote(link, {"name": name}, name) for name in job["names"]}
    if job["form"] != "programs":
        try:
            missing = link.ask(do="load", code=job["code"], names=job["names"])["missing"]
        except Exception as error:
            raise FailedError(_reason(error)) from None
        if missing:
            raise FailedError(f"the program does not define {_shown(str, missing)}")
    namespace = {"__name__": "tests", **remotes}
    try:
        exec(setup, namespace)
    except BaseException as error:
        if link.last_call:  # It has used what the answer defines.
            raise FailedError(_reason(error, link)) from None
        raise BrokenError(f"the tests do not run: {error!r}") from error
    # A setup may define what it tests, as the beginning of a function to be completed.
    namespace |= remotes
    tests = job["tests"]
    passed, note = 0, ""
    for number, test in enumerate(tests, start=1):
        try:
            _FORMS[job["form"]](test, job, namespace, link)
        except BrokenError:
            raise
        except BaseException as error:
            note = note or f"test {number} of {len(tests)}: {_reason(error, link)}"
            if not job["partial"]:
                break
        else:
            passed += 1
    return passed, len(tests), note


def _reason(error, link=None):
    call = link.last_call if link is not None else ""
    if isinstance(error, FailedError):
        return str(error)
    if isinstance(error, AssertionError):
        return call or str(error) or "an assertion fails"
    text = f"{type(error).__name__}: {_shown(str, error)}"
    return f"{call} raised {text}" if call else text


def _statement(test, job, namespace, link):
    """Statements of a test, such as an assertion."""
    exec(compile(test, "tests.py", "exec"), namespace)


def _comparison(test, job, namespace, link):
    """A call whose result has to be that of the reference solution, or a given one.

    The rules are those of EvalPlus (Liu et al. 2023, arXiv 2305.01210): equal, or close where the
    expected result is made of floating-point numbers; by problem, equal as sets, or any result in
    place of a match object.
    """
    args = decode(test["args"], _nothing)
    if "expected" in test:
        expected = decode(test["expected"], _nothing)
    else:
        start = time.monotonic()
        try:
            expected = namespace[job["reference"]](*decode(test["args"], _nothing))
        except Exception:
            return  # The reference refuses the input: it is no test.
        needed = time.monotonic() - start
        link.seconds = max(job["seconds"], job["reference_factor"] * needed)
    found = namespace[job["names"][0]](*args)
    rule, tolerance = job["rule"], job["tolerance"]
    if rule == "root":
        residue = abs(namespace["poly"](*decode(test["args"], _nothing), found))
        is_right = residue <= tolerance
    elif rule == "set":
        is_right = set(found) == set(expected)
    elif rule == "match" and not isinstance(found, bool):
        is_right = (expected is not None) == (found is not None)
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
        return type(found) is not Remote and found == expected
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
    return type(found) is not Remote and found == expected


def _program(test, job, namespace, link):
    """A program that is given an input and has to write the expected output."""
    reply = link.ask(
        job["seconds"] + 1,
        do="run",
        code=job["code"],
        stdin=test["stdin"],
        seconds=job["seconds"],
        output_bytes=max(1 << 16, 2 * len(test["stdout"])),
    )
    if reply.get("status") == "timeout":
        raise FailedError(f"took longer than {job['seconds']:g} s")
    if reply.get("status") == "output":
        raise FailedError("wrote far more than was expected")
    if not same_output(str(reply.get("output", "")), test["stdout"]):
        code = reply.get("code")
        ended = f" and ended with {code}" if code else ""
        raise FailedError(
            f"for the input {_shown(repr, test['stdin'])} it wrote "
            f"{_shown(repr, reply.get('output'))}{ended}, expected {_shown(repr, test['stdout'])}"
        )


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


def main():
    to_child, to_parent = os.pipe(), os.pipe()
    sys.set_int_max_str_digits(0)
    if os.fork() == 0:
        os.close(to_child[1])
        os.close(to_parent[0])
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.setsid()
        with contextlib.suppress(GoneError):
            Server(to_child[0], to_parent[1]).serve()
        os._exit(0)
    os.close(to_child[0])
    os.close(to_parent[1])
    job = json.loads(sys.stdin.buffer.read())
    link = Link(to_child[1], to_parent[0], job["seconds"])
    verdict = {"nonce": job["nonce"]}
    try:
        passed, total, note = run_tests(job, link)
        verdict |= {"passed": passed, "total": total, "note": note}
    except FailedError as error:
        verdict |= {"passed": 0, "total": len(job["tests"]), "note": str(error)}
    except BrokenError as error:
        verdict["broken"] = str(error)
    sys.stdout.write(json.dumps(verdict))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
