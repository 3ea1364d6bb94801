"""Who a kernel belongs to and whether they live; how a kernel ends with all that it started. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

LOOK_SECONDS = 1.0  # between looks whether the client lives
MINE = ".study-lock"  # in every temporary folder of this library, see studylib.running.scratch


def client() -> int | None:
    """The parent of this process, which has asked for a kernel; None if the one who asked is gone already.

    Jupyter's managers say their number in the environment. Where they died as this process started, its parent is
    another by now, and watching that one would keep the kernel for ever.
    """
    parent, said = os.getppid(), os.environ.get("JPY_PARENT_PID", "0")
    known = not said.isdecimal() or int(said) == 0 or int(said) in ancestors(parent)
    return parent if known or int(said) == parent else None


def ancestors(pid: int) -> list[int]:
    """The processes that a process descends from, itself first, as far as /proc shows them."""
    found = []
    while pid > 0 and pid not in found:
        found.append(pid)
        state = process_state(pid)
        pid = int(state[1]) if state else 0
    return found


def process_state(pid: int) -> list[str] | None:
    """State, parent and further fields of a process in /proc; None without one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for has ended."""
    state = process_state(pid)
    return state is not None and state[0] not in "ZX"


def kill_group(pid: int) -> None:
    """Kill what a kernel has started, and the kernel itself if it runs: it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def remove_folder(arguments: Sequence[str]) -> None:
    """Remove the temporary folder of a client that is gone: the one of the connection file among these arguments."""
    for word in arguments:
        folder = Path(word).parent
        if Path(word).is_absolute() and (folder / MINE).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def end_with(owner: int | None, arguments: Sequence[str]) -> NoReturn:
    """Wait until the client is gone, then end this kernel and what it started."""
    while os.getppid() == owner:
        time.sleep(LOOK_SECONDS)
    remove_folder(arguments)
    if os.getpgrp() == os.getpid():
        kill_group(os.getpid())
    os._exit(1)
