"""Become another program that cannot outlive its parent: `python guard.py OPTIONS PROGRAM ARGUMENTS...`.

`deploy.processes.spawn` puts this in front of every child. It is a program of its own because code between
fork and exec (`preexec_fn`) is unsafe once the parent has threads. Linux asks for the signal per thread: a
child dies with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG).

OPTIONS is one JSON object: `parent` (pid), `signal` (number), and for a change of user `uid` and `traverse`
(keep the right to pass through directories of mode 0700, which root's clones often lie in).
"""

import ctypes
import json
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1  # not DAC_READ_SEARCH, which would do: a container's root does not have that one
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int = 0, more: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(more), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")


def _set_capability(capability: int) -> None:
    """Make one capability effective, permitted and inheritable, and all others none (capset(2))."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if _libc.capset(header, data):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def become(uid: int, *, traverse: bool) -> None:
    """Give up root for good, but with `traverse` not the way through closed directories."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    if traverse:
        # else access(2), with which PostgreSQL looks for its programs, would not count the capability
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setresuid(uid, uid, uid)
    if traverse:
        _set_capability(CAP_DAC_OVERRIDE)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)


def main() -> None:
    """Set up this process and replace it by the program."""
    options, command = json.loads(sys.argv[1]), sys.argv[2:]
    if options["uid"] is not None:
        try:
            become(options["uid"], traverse=options["traverse"])
        except OSError as error:
            sys.exit(f"this root may not become another user ({error}): run as an ordinary user instead")
    _prctl(PR_SET_PDEATHSIG, options["signal"])  # last: a change of user clears it
    if os.getppid() != options["parent"]:
        sys.exit("the parent died before its child could start")
    os.execv(command[0], command)  # noqa: S606  # the caller names the program by its full path


if __name__ == "__main__":
    main()
