"""Make another process do one system call, to see what its filter says: the way a debugger does."""

import ctypes
import os
import platform
import signal

import pytest
from controlplane.client import wait_for

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

SINGLESTEP, GETREGS, SETREGS, ATTACH, DETACH = 9, 12, 13, 16, 17
WALL = 0x40000000
SYSCALL = b"\x0f\x05"  # the instruction

# Numbers of x86-64.
GETPID, EXECVE, PTRACE, MOUNT, UNSHARE, KEYCTL = 39, 59, 101, 165, 272, 250


class Registers(ctypes.Structure):
    """struct user_regs_struct of <sys/user.h>."""

    _fields_ = [
        (name, ctypes.c_ulong)
        for name in (
            "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp "
            "ss fs_base gs_base ds es fs gs"
        ).split()
    ]


def _ptrace(request, pid, data=None):
    if libc.ptrace(request, pid, None, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _step(pid, registers):
    _ptrace(SETREGS, pid, ctypes.byref(registers))
    _ptrace(SINGLESTEP, pid)
    _, status = os.waitpid(pid, WALL)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP


def _attach(pid):
    """Attach to it while it waits in a call, and not, as it may now and then, while it computes."""
    _ptrace(ATTACH, pid)
    os.waitpid(pid, WALL)
    registers = Registers()
    try:
        _ptrace(GETREGS, pid, ctypes.byref(registers))
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            waits = os.pread(memory.fileno(), 2, registers.rip - 2) == SYSCALL
    except BaseException:
        _ptrace(DETACH, pid)
        raise
    if not waits:
        _ptrace(DETACH, pid)
    return waits


def syscall_in(pid, number, *args):
    """The result, or the negative errno, of one call by a child that waits in another. All
    arguments are numbers."""
    if platform.machine() != "x86_64":
        pytest.skip("registers are known for x86-64 only")
    wait_for(lambda: _attach(pid), 20, f"process {pid} does not wait in a system call")
    try:
        before, during, after = Registers(), Registers(), Registers()
        _ptrace(GETREGS, pid, ctypes.byref(before))
        _ptrace(GETREGS, pid, ctypes.byref(during))
        during.rip -= 2  # the instruction that it waits in
        during.orig_rax = ctypes.c_ulong(-1).value  # nothing to be restarted
        during.rax = number
        for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), (*args, *[0] * 6)):
            setattr(during, register, value)
        _step(pid, during)
        _ptrace(GETREGS, pid, ctypes.byref(after))
        _ptrace(SETREGS, pid, ctypes.byref(before))
    finally:
        _ptrace(DETACH, pid)
    return ctypes.c_long(after.rax).value
