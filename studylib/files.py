"""How files of the workspace are written and described: whole or not at all, with errors a user can mend."""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from studylib.errors import StudyError

Read = TypeVar("Read")


def read_once(read: Callable[[Path], Read]) -> Callable[[Path], Read]:
    """Decorate a function that reads a file: it reads again only after the file has changed.

    What it returns is shared by all callers, so it must not be changed. A file that is absent is read each time.
    """

    @functools.lru_cache(maxsize=128)
    def cached(path: Path, _stamp: tuple[int, int, int]) -> Read:
        return read(path)

    @functools.wraps(read)
    def reading(path: Path) -> Read:
        try:
            status = path.stat()
        except OSError:
            return read(path)
        return cached(path, (status.st_ino, status.st_size, status.st_mtime_ns))

    return reading


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder met while writing `path` into a StudyError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause, remedy = (
                f"the disk is full: {path} could not be written",
                "Free some space and run it again",
            )
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            cause, remedy = f"{path} could not be written: {error.strerror}", "Check who owns that folder"
        else:
            raise
        raise StudyError(cause, f"{remedy}; nothing half-written was kept", exit_code=1) from error


def contents(folder: Path) -> str:
    """What a folder has, for an error: "holds a, b", "is empty" or "is missing"."""
    if not folder.is_dir():
        return "is missing"
    names = sorted(path.name for path in folder.iterdir())
    return f"holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "is empty"


def sync_folder(folder: Path) -> None:
    """Ask the system to put a folder's entries on the disk, so that a rename survives a power cut."""
    if os.name != "posix":  # other systems cannot open a folder for this
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    Raises StudyError when the disk is full or the folder is not writable; the old file then stays.
    """
    content = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)
