"""A network namespace for the calling process and all that it starts.

A node changes links, nft tables and sysctls of the namespace it runs in; in one of its own it
leaves the machine's alone, and everything is gone with its last process.
"""

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000


def enter_new():
    """Move this process into a new network namespace with lo up."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, "unshare(CLONE_NEWNET): " + os.strerror(error))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
