"""Finds the records of runs and of sweeps."""

from pathlib import Path

from studylib.errors import StudyError
from studylib.running.folder import RECORD
from studylib.running.records import Name, Read, Record, Time, Value, read_checked, read_run
from studylib.workspace import runs_folder


class Point(Read):
    """One point of a sweep's grid and the run that was made of it."""

    params: dict[Name, Value]
    run_id: str | None = None
    status: str


class Sweep(Read):
    """A sweep: the values of each knob and the points they span."""

    sweep_id: Name
    slug: Name
    grid: dict[Name, list[Value]]
    points: list[Point]
    started_at: Time


def run_folders(slug: str = "*") -> list[Path]:
    """List the folders of finished runs, of one paper or all; failed and unfinished ones are none."""
    found = runs_folder().glob(f"{slug}/*/{RECORD}")
    names = ((path.parent.name, path.parent) for path in sorted(found))
    return [folder for name, folder in names if not name.startswith(".") and not name.endswith(".failed")]


def find_runs(slug: str, sweep: str | None = None) -> tuple[list[Record], list[str]]:
    """Return the records of a paper's finished runs, oldest first, and a line for each that is damaged.

    `sweep`: the beginning of a sweep's id; then only its runs.
    """
    wanted = None if sweep is None else {point.run_id for point in find_sweep(slug, sweep).points}
    found, faults = [], []
    for folder in run_folders(slug):
        if wanted is not None and folder.name not in wanted:
            continue
        try:
            found.append(read_run(folder))
        except StudyError as error:
            faults.append(error.cause)
    return sorted(found, key=lambda record: (record.started_at, record.run_id)), faults


def find_sweep(slug: str, beginning: str) -> Sweep:
    """Read the one sweep of a paper whose id begins so; StudyError names the sweeps there are."""
    paths = {path.stem: path for path in sorted((runs_folder() / slug / "sweeps").glob("[!.]*.json"))}
    ids = [beginning] if beginning in paths else [id for id in paths if id.startswith(beginning)]
    if len(ids) != 1:
        what = f"no sweep of {slug} begins with" if not ids else f"{len(ids)} sweeps of {slug} begin with"
        raise StudyError(f"{what} {beginning!r}", f"There are: {', '.join(ids or paths) or 'none'}")
    return read_checked(Sweep, paths[ids[0]], "Run the sweep again; its finished runs are kept")
