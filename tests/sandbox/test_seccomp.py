"""The filter, run by an interpreter of classic BPF written from its definition."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from grlo.sandbox.seccomp import (
    DENIED,
    DENIED_WITHOUT_NAMESPACES,
    INSPECTED,
    LAST_KNOWN,
    architectures,
    build_filter,
)

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h: AUDIT_ARCH_*
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h: SECCOMP_RET_*
EPERM, ENOSYS = ERROR | errno.EPERM, ERROR | errno.ENOSYS
MACHINES = list(architectures())


def verdict(program: bytes, number: int, audit: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer: networking/filter.rst on struct seccomp_data."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, audit, 0, *(a & (1 << 64) - 1 for a in padded))
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        match code:
            case 0x20:  # ld [k]
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:  # and #k
                accumulator &= operand
            case 0x15 | 0x25 | 0x45:  # jeq, jgt, jset
                holds = {
                    0x15: accumulator == operand,
                    0x25: accumulator > operand,
                    0x45: bool(accumulator & operand),
                }[code]
                position += if_true if holds else if_false
            case 0x06:  # ret #k
                return operand
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def column(machine: str) -> int:
    return MACHINES.index(machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_denied_and_ordinary_ones_are_not(machine: str):
    program = build_filter(machine, namespaces=True)
    denied = {numbers[column(machine)] for numbers in DENIED.values()} - {None}
    inspected = {numbers[column(machine)] for numbers in INSPECTED.values()}
    for number in range(LAST_KNOWN + 1):
        if number not in inspected:
            expected = EPERM if number in denied else ALLOW
            assert verdict(program, number, AUDIT[machine]) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_without_namespaces_more_is_denied(machine: str):
    program = build_filter(machine, namespaces=False)
    for name, numbers in (DENIED | DENIED_WITHOUT_NAMESPACES).items():
        if (number := numbers[column(machine)]) is not None:
            assert verdict(program, number, AUDIT[machine]) == EPERM, name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("namespaces", [True, False])
def test_unknown_calls_do_not_exist_and_foreign_ones_kill(machine: str, namespaces: bool):
    program = build_filter(machine, namespaces=namespaces)
    for number in (LAST_KNOWN + 1, 512, 1 << 30, (1 << 30) | 41):
        assert verdict(program, number, AUDIT[machine]) == ENOSYS
    i386 = 0x40000003
    assert verdict(program, 11, i386) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x01200011,), ALLOW),  # fork: CHILD_CLEARTID | CHILD_SETTID | SIGCHLD
        ("clone", (0x003D0F00,), ALLOW),  # pthread_create
        ("clone", (0x10000011,), EPERM),  # CLONE_NEWUSER
        ("clone", (0x00020011,), EPERM),  # CLONE_NEWNS
        ("clone", (0x40000011,), EPERM),  # CLONE_NEWNET
        ("clone3", (0, 88), ENOSYS),
        ("socketpair", (1, 1, 0), ALLOW),
        ("socketpair", (1, 0o2004001, 0), ALLOW),  # SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK
        ("socketpair", (1, 2, 0), EPERM),  # SOCK_DGRAM
        ("socketpair", (2, 1, 0), EPERM),  # AF_INET
        ("prctl", (1, 0), EPERM),  # PR_SET_PDEATHSIG
        ("prctl", (0xF00000001, 0), EPERM),  # the kernel reads an int
        ("prctl", (15, 0), ALLOW),  # PR_SET_NAME
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),  # TCGETS
        ("ioctl", (0, 0x5412), EPERM),  # TIOCSTI
        ("ioctl", (0, 0xF00005412), EPERM),
        ("ioctl", (0, 0x541C), EPERM),  # TIOCLINUX
    ],
)
def test_some_calls_depend_on_their_arguments(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
):
    number = INSPECTED[name][column(machine)]
    assert number is not None
    program = build_filter(machine, namespaces=True)
    assert verdict(program, number, AUDIT[machine], arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str):
    headers = {
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }
    header = Path(headers[machine])
    if not header.is_file():
        pytest.skip(f"{header} is not here: apt-get install linux-libc-dev")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    expected = {name: int(number) for name, number in found}
    for name, numbers in (DENIED | DENIED_WITHOUT_NAMESPACES | INSPECTED).items():
        assert numbers[column(machine)] == expected.get(name), name
