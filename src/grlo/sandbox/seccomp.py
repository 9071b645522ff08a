"""The system calls that a sandboxed program may not make, as a classic BPF program.

The filter is assembled here, byte by byte (`struct sock_filter`, linux/filter.h), so that neither a
compiler nor libseccomp is needed. It denies what is listed and what is newer than the list. Denied
calls fail with EPERM; calls with an older substitute fail with ENOSYS, so that libc uses that.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

# (x86_64, aarch64) numbers; None where the architecture has no such call. Sources: the kernel's
# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
_Numbers = tuple[int | None, int | None]

DENIED: dict[str, _Numbers] = {
    # Network. Connected stream pairs are allowed (asyncio needs them), see `_socketpair`.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # Other processes' memory and files.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # Large parts of the kernel that programs have no use for and attackers have.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    "uselib": (134, None),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    # Mounts and namespaces. `clone` is looked into, `clone3` cannot be.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The machine.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Memory that RLIMIT_AS does not count.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
# What landlock and user ids leave open to programs that run as their owner's user: changing other
# files' attributes and other processes' priorities.
DENIED_WITHOUT_NAMESPACES: dict[str, _Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
INSPECTED: dict[str, _Numbers] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socketpair": (53, 199),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "ioctl": (16, 29),
}
# Numbers above this one are unknown to the lists above; both architectures count alike there.
LAST_KNOWN = 450

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # linux/audit.h

# linux/bpf_common.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data, linux/seccomp.h; of an argument the kernel reads an int: the low half.
_NUMBER, _ARCHITECTURE = 0, 4
_ARGUMENTS = (16, 24, 32)

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_FAIL = 0x00050000  # | errno

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h).
_CLONE_NEW = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into the terminal (asm-generic/ioctls.h)
_PR_SET_PDEATHSIG = 1
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF


@dataclass(frozen=True)
class _Instruction:
    code: int
    operand: int
    if_true: str = ""
    """Label to jump to; empty goes on with the next instruction."""
    if_false: str = ""


def architectures() -> tuple[str, ...]:
    """Machine names (`platform.machine()`) that a filter can be built for."""
    return tuple(_ARCHITECTURES)


def build_filter(machine: str, *, namespaces: bool) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Args:
        machine: As `platform.machine()` has it.
        namespaces: Whether the program has processes and files of its own; if not, more is denied.

    Raises:
        KeyError: No list of system calls for this machine.
    """
    column, audit_architecture = _ARCHITECTURES[machine]
    denied = DENIED if namespaces else DENIED | DENIED_WITHOUT_NAMESPACES
    program: list[_Instruction | str] = [
        _Instruction(_LOAD, _ARCHITECTURE),
        _Instruction(_JUMP_EQUAL, audit_architecture, if_false="kill"),
        _Instruction(_LOAD, _NUMBER),
        # The x32 calls of x86_64 are numbers above 2**30, so they end here too.
        _Instruction(_JUMP_GREATER, LAST_KNOWN, if_true="missing"),
    ]
    for name, numbers in INSPECTED.items():
        number = numbers[column]
        assert number is not None
        program.append(_Instruction(_JUMP_EQUAL, number, if_true=name))
    program += [
        _Instruction(_JUMP_EQUAL, number, if_true="deny")
        for numbers in denied.values()
        if (number := numbers[column]) is not None
    ]
    domain, kind = _ARGUMENTS[0], _ARGUMENTS[1]
    program += [
        _Instruction(_RETURN, _ALLOW),
        "clone",
        _Instruction(_LOAD, _ARGUMENTS[0]),
        _Instruction(_JUMP_BITS, _CLONE_NEW, if_true="deny", if_false="allow"),
        "socketpair",
        # Stream pairs stay connected to each other; datagram pairs could be sent elsewhere.
        _Instruction(_LOAD, domain),
        _Instruction(_JUMP_EQUAL, _AF_UNIX, if_false="deny"),
        _Instruction(_LOAD, kind),
        _Instruction(_AND, _SOCK_TYPE_MASK),
        _Instruction(_JUMP_EQUAL, _SOCK_STREAM, if_true="allow", if_false="deny"),
        "prctl",
        # The death signal is what ends a program whose launcher was killed.
        _Instruction(_LOAD, _ARGUMENTS[0]),
        _Instruction(_JUMP_EQUAL, _PR_SET_PDEATHSIG, if_true="deny", if_false="allow"),
        "prlimit64",
        # One's own limits only: a child must not strangle the process that watches it.
        _Instruction(_LOAD, _ARGUMENTS[0]),
        _Instruction(_JUMP_EQUAL, 0, if_true="allow", if_false="deny"),
        "ioctl",
        _Instruction(_LOAD, _ARGUMENTS[1]),
        _Instruction(_JUMP_EQUAL, _TIOCSTI, if_true="deny"),
        _Instruction(_JUMP_EQUAL, _TIOCLINUX, if_true="deny", if_false="allow"),
        "allow",
        _Instruction(_RETURN, _ALLOW),
        "deny",
        _Instruction(_RETURN, _FAIL | errno.EPERM),
        "clone3",
        "missing",
        _Instruction(_RETURN, _FAIL | errno.ENOSYS),
        "kill",
        _Instruction(_RETURN, _KILL_PROCESS),
    ]
    return _assemble(program)


def _assemble(program: list[_Instruction | str]) -> bytes:
    """Turns labels into the distances that jumps are written as (at most 255)."""
    labels: dict[str, int] = {}
    instructions: list[_Instruction] = []
    for item in program:
        if isinstance(item, str):
            labels[item] = len(instructions)
        else:
            instructions.append(item)

    def distance(label: str, position: int) -> int:
        return labels[label] - position - 1 if label else 0

    return b"".join(
        # struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; }
        struct.pack(
            "=HBBI",
            instruction.code,
            distance(instruction.if_true, position),
            distance(instruction.if_false, position),
            instruction.operand,
        )
        for position, instruction in enumerate(instructions)
    )
