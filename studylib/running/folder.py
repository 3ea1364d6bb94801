"""The folders of runs on the disk: one writer at a time, whole or absent, nothing outside, nothing stale."""

import contextlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import filelock

from studylib.errors import StudyError
from studylib.evidence.outcome import OUTCOME
from studylib.files import DiskError, remove, sync_folder
from studylib.running.notebook import read_notebook
from studylib.workspace import runs_folder

RECORD = "record.json"
LOCKS = ".locks"
PART = re.compile(r"\.(?P<id>[^.]+)\.(?P<host>.+)\.\d+\.part(\.old)?")
STALE_SECONDS = 24 * 3600


def check_inside(folder: Path) -> None:
    """StudyError if a run's folder is or lies behind a link that leads out of the runs folder."""
    inside = runs_folder().resolve()
    real = folder.resolve()
    if folder.is_symlink() or real != inside / folder.parent.name / folder.name:
        raise StudyError(f"{folder} leads to {real}, outside {inside}", "Remove that link; runs are written as folders")


@contextlib.contextmanager
def only_one(home: Path, id: str, stream: TextIO | None) -> Iterator[None]:
    """Hold the lock of one run id, so that of several processes that want the same run one computes it."""
    (home / LOCKS).mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home / LOCKS / id)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if stream is not None:
            print(f"{home.name} {id}: another process is at it; waiting for its record", file=stream, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        let_go(lock)


def let_go(lock: filelock.BaseFileLock) -> None:
    """Release a lock; its file goes with it, and who waits for it makes a new one."""
    if os.name == "posix":  # elsewhere a file that is open cannot be removed
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def is_free(home: Path, id: str) -> bool:
    """Tell whether no living process, of this machine or another, computes that run; then its lock file is removed."""
    lock = filelock.FileLock(home / LOCKS / id)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return False
    let_go(lock)
    return True


def replace_folder(part: Path, folder: Path) -> None:
    """Move a complete part folder to its final name, in place of whatever lies there."""
    old = folder.with_name(f"{part.name}.old")
    for path in part.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(part)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    sync_folder(folder.parent)
    remove(old)


def keep_failed(error: StudyError, part: Path, failed: Path) -> StudyError:
    """Keep the notebook of a failed run for the reader; return an error of its kind with its path as a remedy.

    A notebook that could not be written whole is not kept, nor one of which nothing was executed.
    """
    notebook = part / "notebook.ipynb"
    try:
        begun = any(cell.get("execution_count") for cell in read_notebook(notebook)["cells"])
    except StudyError:
        return error
    if isinstance(error, DiskError) or not begun:
        return error
    remove(failed)
    (part / OUTCOME).unlink(missing_ok=True)
    (part / RECORD).unlink(missing_ok=True)
    part.rename(failed)
    look = f"See {failed / notebook.name}"
    remedy = f"{error.remedy}. {look}" if error.remedy else look
    return type(error)(error.cause, remedy, exit_code=error.exit_code)


def remove_stale(home: Path, id: str) -> None:
    """Remove the part folders and locks that killed runs left behind; `id` is the run whose lock the caller holds.

    What a living process holds the lock of stays. A part of another machine, whose locks may not be seen here, must
    also have been left alone for a day. Entries of other names are nobody's business here.
    """
    for part in home.glob(".*.part*"):
        match = PART.fullmatch(part.name)
        if not match or not part.is_dir() or (match["id"] != id and not is_free(home, match["id"])):
            continue
        if match["host"] == platform.node() or time.time() - last_change(part) > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
    for lock in (home / LOCKS).iterdir():
        if lock.name != id and lock.is_file():
            is_free(home, lock.name)


def last_change(folder: Path) -> float:
    """When anything in a folder was last written, in seconds since 1970."""
    times = [time.time()]
    with contextlib.suppress(OSError):  # it has just been renamed: someone is at it
        times = [path.stat().st_mtime for path in (folder, *folder.rglob("*"))]
    return max(times)
