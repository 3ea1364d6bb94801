"""How files of the workspace are written and described: whole or not at all, with errors a user can mend."""

import contextlib
import errno
import functools
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from studylib.errors import StudyError, cut

Read = TypeVar("Read")
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


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


def open_standard_files() -> None:
    """Open those of the files 0, 1 and 2 that a shell has closed (`study run >&-`), on nothing.

    Another file that took such a number would be taken for input, output or errors by every process started here.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number, inheritable=True)
            if null != number:
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


def read_regular(path: Path) -> bytes:
    """Read a file whole. A pipe, a device or a socket is refused with a StudyError: reading it could wait for ever.

    Raises OSError as `Path.read_bytes` does.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise StudyError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file", "Give a file")
    return path.read_bytes()


def read_text(path: Path, remedy: str) -> str:
    """Read a text file; StudyError says in one line why it cannot be read, and the `remedy`."""
    try:
        return read_regular(path).decode("utf-8")
    except OSError as error:
        raise StudyError(f"{path} could not be read: {error.strerror}", remedy) from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is no UTF-8 text: {error}", remedy) from error


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file; StudyError says in one line what is wrong with it, and the `remedy`."""
    text = read_text(path, remedy)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise StudyError(f"{path} is not readable: its brackets nest too deep", remedy) from error
    except ValueError as error:  # also of a number with thousands of digits
        raise StudyError(f"{path} is not valid JSON: {error}", remedy) from error


class DiskError(StudyError):
    """Something could not be written, and nothing half-written was kept."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a forbidden folder or one that is none, met while writing `path`, into a DiskError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cause, remedy = f"the disk is full: {path} could not be written", "Free some space and run it again"
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            cause, remedy = f"{path} could not be written: {error.strerror}", "Check who owns that folder"
        elif error.errno in IN_THE_WAY:
            at = f": {error.filename}" if error.filename and str(error.filename) != str(path) else ""
            cause, remedy = f"{path} could not be written: {error.strerror}{at}", "Look what lies there"
        else:
            raise
        raise DiskError(cause, f"{remedy}; nothing half-written was kept", exit_code=1) from error


def given_path(text: str | Path) -> Path:
    """Return a path that somebody typed, absolute and with `~` spelled out; StudyError for one that cannot exist."""
    try:
        path = Path(text).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except (RuntimeError, ValueError, OSError) as error:  # an unknown user, a NUL, a name of a thousand letters
        said = error.strerror if isinstance(error, OSError) else error
        raise StudyError(f"{cut(repr(str(text)))} is no path: {said}", "Give another one") from error
    return path


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
