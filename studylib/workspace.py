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
