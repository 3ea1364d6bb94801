"""Looks at processes, for tests with prewarmed kernels."""

import contextlib
import time
from pathlib import Path

from studylib.running.kernels import rendezvous


def templates(folder: Path) -> list[int]:
    """The templates that live and whose sockets are below `folder`; their kernels bear the same words."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode().split("\0")
            if rendezvous.TEMPLATE in words and any(w.startswith(str(folder)) for w in words):
                stat = entry.with_name("stat").read_text()
                parents[int(entry.parent.name)] = int(stat.rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parent not in parents]


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends in time; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
