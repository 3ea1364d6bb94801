"""Where things lie: the root of the workspace, its notebooks and papers, the paths other processes need."""

import os
from pathlib import Path

from studylib.errors import StudyError, nearest
from studylib.files import given_path

PACKAGE = Path(__file__).resolve().parent


def is_workspace(folder: Path) -> bool:
    """Tell whether `folder` is the root of a workspace, by its `papers/course.toml`."""
    return (folder / "papers" / "course.toml").is_file()


def find_root() -> Path:
    """Return the workspace's root: STUDY_ROOT, else beside the package, else above the current folder.

    Raises StudyError when STUDY_ROOT names no workspace or none is found.
    """
    named = os.environ.get("STUDY_ROOT")
    if named:
        folder = given_path(named).resolve()
        if not is_workspace(folder):
            raise StudyError(
                f"STUDY_ROOT={named} is no workspace: it has no papers/course.toml",
                "Set it to the folder that holds papers/ and notebooks/, or unset it",
            )
        if (folder / PACKAGE.name).is_dir() and is_workspace(PACKAGE.parent) and not folder.samefile(PACKAGE.parent):
            raise StudyError(
                f"STUDY_ROOT={named} has a library of its own, but this one is that of {PACKAGE.parent}",
                f"Install the one there: `pip install -e {folder}`, or unset STUDY_ROOT",
            )
        return folder
    here = _current_folder()
    above = next((folder for folder in (here, *here.parents) if is_workspace(folder)), None)
    if above and is_workspace(PACKAGE.parent) and not above.samefile(PACKAGE.parent):
        raise StudyError(
            f"you stand in the workspace {above}, but this library is the one of {PACKAGE.parent}",
            f"Install the one here (`pip install -e {above}`), go to the other, or set STUDY_ROOT to the one you mean",
        )
    if is_workspace(PACKAGE.parent):
        return PACKAGE.parent
    if above:
        return above
    raise StudyError(
        f"no workspace found beside the package or above {here}: nothing there holds papers/course.toml",
        "Go to your checkout, install it with `pip install -e .`, or set STUDY_ROOT to it",
    )


def _current_folder() -> Path:
    """Where the user stands; the package's own folder where that one was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return PACKAGE


def import_paths() -> dict[str, str]:
    """Return the variables with which another Python finds this very studylib, papers and this workspace.

    Installed with `pip install .` the library is not the one of the checkout, and must come before it.
    """
    paths = [str(find_root()), str(PACKAGE.parent)]
    if (find_root() / PACKAGE.name).is_dir():
        paths.reverse()
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "STUDY_ROOT": str(find_root())}


def kernelspec_path() -> dict[str, str]:
    """Return the variable with which Jupyter finds the kernelspec `study`, whose kernels are prewarmed."""
    own = PACKAGE / "running" / "kernels" / "share" / "jupyter"
    paths = [str(own), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    return {"JUPYTER_PATH": os.pathsep.join(dict.fromkeys(paths))}


def notebook_path(slug: str) -> Path:
    """Return the path of a paper's notebook, which need not exist."""
    return find_root() / "notebooks" / f"{slug}.ipynb"


def runs_folder() -> Path:
    """Return where runs are kept: the folder that STUDY_RUNS names, or `runs/` in the workspace."""
    named = os.environ.get("STUDY_RUNS")
    return given_path(named) if named else find_root() / "runs"


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
