"""Temporary folders that do not stay: those of a killed process are removed by the next that needs one."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from studylib.running.kernels.watch import MINE

PREFIX = "study-"


@contextlib.contextmanager
def scratch_folder(prefix: str = PREFIX) -> Iterator[Path]:
    """A temporary folder for the block, under a lock that shows that its owner lives; `prefix` begins with PREFIX."""
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    lock = filelock.FileLock(folder / MINE)
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def sweep(home: Path) -> None:
    """Remove the folders here whose owners were killed: their lock is there, and nobody holds it."""
    for mark in home.glob(f"{PREFIX}*/{MINE}"):
        with contextlib.suppress(filelock.Timeout, OSError):  # in use, or another user's
            with filelock.FileLock(mark, timeout=0):
                shutil.rmtree(mark.parent, ignore_errors=True)
