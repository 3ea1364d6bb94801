"""Where the workspace is, how its files are written, and the one error type its commands report."""

import contextlib
import difflib
import errno
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


class StudyError(Exception):
    """Something a user can mend: a cause in one line and what to do about it.

    `exit_code` is what the command line returns: 2 for bad input, 1 for a run that failed.
    """

    def __init__(self, cause: str, remedy: str = "", *, exit_code: int = 2) -> None:
        self.cause = cause.rstrip(".")
        self.remedy = remedy
        self.exit_code = exit_code
        super().__init__(f"{self.cause}. {remedy}" if remedy else self.cause)

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole across processes: an exception's own way would lose the remedy and the exit code."""
        return functools.partial(type(self), exit_code=self.exit_code), (self.cause, self.remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean x? " when a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]}? " if close else ""


def is_workspace(folder: Path) -> bool:
    """Tell whether `folder` is the root of a workspace, by its `papers/course.toml`."""
    return (folder / "papers" / "course.toml").is_file()


def find_root() -> Path:
    """Return the workspace's root: STUDY_ROOT, else beside the package, else above the current folder.

    Raises StudyError when STUDY_ROOT names no workspace or none is found.
    """
    named = os.environ.get("STUDY_ROOT")
    if named:
        folder = Path(named).expanduser().resolve()
        if not is_workspace(folder):
            raise StudyError(
                f"STUDY_ROOT={named} is no workspace: it has no papers/course.toml",
                "Set it to the folder that holds papers/ and notebooks/, or unset it",
            )
        return folder
    here = Path.cwd()
    for folder in (PACKAGE.parent, here, *here.parents):
        if is_workspace(folder):
            return folder
    raise StudyError(
        f"no workspace found beside the package or above {here}: nothing there holds papers/course.toml",
        "Go to your checkout, install it with `pip install -e .`, or set STUDY_ROOT to it",
    )


def import_paths() -> dict[str, str]:
    """Return the variables with which another Python finds studylib, papers and this workspace."""
    paths = [str(find_root()), str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "STUDY_ROOT": str(find_root())}


def kernelspec_path() -> dict[str, str]:
    """Return the variable with which Jupyter finds the kernelspec `study`, whose kernels are prewarmed."""
    paths = [str(PACKAGE / "kernels" / "share" / "jupyter"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    return {"JUPYTER_PATH": os.pathsep.join(dict.fromkeys(paths))}


def notebook_path(slug: str) -> Path:
    """Return the path of a paper's notebook, which need not exist."""
    return find_root() / "notebooks" / f"{slug}.ipynb"


def written_papers() -> list[str]:
    """List the slugs of the papers that have a card, in alphabetical order."""
    return sorted(card.parent.name for card in (find_root() / "papers").glob("*/card.toml"))


def paper_folder(slug: str) -> Path:
    """Return the folder of a paper that has a card; StudyError names the nearest one otherwise."""
    known = written_papers()
    if slug in known:  # by name, so that no path leads anywhere else
        return find_root() / "papers" / slug
    raise StudyError(
        f"no paper is called {slug!r}",
        f"{nearest(slug, known)}Written so far: {', '.join(known) or 'none'}; `study list` shows the course",
    )


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
