"""Runs a program for which io_uring does not exist: without_io_uring.py PROGRAM ARGUMENT...

A seccomp filter of this process answers io_uring_setup with ENOSYS, and is kept across exec. Nothing else on the machine changes.
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000
BPF_LOAD_WORD_ABSOLUTE = 0x20
BPF_JUMP_EQUAL = 0x15
BPF_RETURN = 0x06
# The same on x86-64 and aarch64.
IO_URING_SETUP = 425


def instruction(code, jump_true, jump_false, constant):
    """One struct sock_filter."""
    return struct.pack("HBBI", code, jump_true, jump_false, constant)


class SockFprog(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def main():
    program = b"".join(
        [
            instruction(BPF_LOAD_WORD_ABSOLUTE, 0, 0, 0),
            instruction(BPF_JUMP_EQUAL, 0, 1, IO_URING_SETUP),
            instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
            instruction(BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )
    memory = ctypes.create_string_buffer(program, len(program))
    filter_program = SockFprog(len(program) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
