"""The folders of runs on the disk: one writer at a time, whole or absent, nothing outside, nothing stale."""

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import filelock

from studylib.errors import StudyError
from studylib.evidence.outcome import OUTCOME
from studylib.files import sync_folder
from studylib.workspace import runs_folder

RECORD = "record.json"
STALE_SECONDS = 24 * 3600  # a part folder of another machine's run is given up after a day


def check_inside(folder: Path) -> None:
    """StudyError if a run's folder is or lies behind a link that leads out of the runs folder."""
    inside = runs_folder().resolve()
    real = folder.resolve()
    if folder.is_symlink() or real != inside / folder.parent.name / folder.name:
        raise StudyError(f"{folder} leads to {real}, outside {inside}", "Remove that link; runs are written as folders")


@contextlib.contextmanager
def only_one(home: Path, id: str, stream: TextIO | None) -> Iterator[None]:
    """Hold the lock of one run id, so that of several processes that want the same run one computes it."""
    folder = home / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / id)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if stream is not None:
            print(f"{home.name} {id}: another process is at it; waiting for its record", file=stream, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def replace_folder(part: Path, folder: Path) -> None:
    """Move a complete part folder to its final name, in place of an older one."""
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
    shutil.rmtree(old, ignore_errors=True)


def keep_failed(error: StudyError, part: Path, failed: Path) -> StudyError:
    """Keep the notebook of a failed run for the reader; return an error of its kind with its path as a remedy."""
    notebook = part / "notebook.ipynb"
    if not notebook.is_file():
        return error
    shutil.rmtree(failed, ignore_errors=True)
    (part / OUTCOME).unlink(missing_ok=True)
    (part / RECORD).unlink(missing_ok=True)
    part.rename(failed)
    look = f"See {failed / notebook.name}"
    remedy = f"{error.remedy}. {look}" if error.remedy else look
    return type(error)(error.cause, remedy, exit_code=error.exit_code)


def remove_stale_parts(home: Path) -> None:
    """Remove the part folders that killed runs left behind; those of runs still alive stay."""
    for part in home.glob(".*.part*"):
        host, pid = part.name.removeprefix(".").split(".", 1)[1].rsplit(".part", 1)[0].rsplit(".", 1)
        if host == platform.node():
            abandoned = not is_alive(int(pid))
        else:
            abandoned = time.time() - part.stat().st_mtime > STALE_SECONDS
        if abandoned:
            shutil.rmtree(part, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
