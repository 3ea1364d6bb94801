"""Reads and checks the records of runs and of sweeps, which a hand or a crash may have changed."""

import datetime
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from studylib.errors import StudyError
from studylib.running.folder import RECORD, check_inside
from studylib.workspace import runs_folder

BIGGEST = 2**63


def _name(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} is no name")
    return text


def _plain(value: Any) -> Any:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"a {type(value).__name__} is no plain value")
    if isinstance(value, float) and not math.isfinite(value) or isinstance(value, int) and abs(value) >= BIGGEST:
        raise ValueError(f"{value} is out of range")
    return value


def _in_utc(time: datetime.datetime) -> datetime.datetime:
    try:
        return time.astimezone(datetime.UTC).replace(tzinfo=None) if time.tzinfo else time
    except OverflowError as error:
        raise ValueError("out of range") from error


Name = Annotated[str, AfterValidator(_name)]
Value = Annotated[Any, AfterValidator(_plain)]
Time = Annotated[datetime.datetime, AfterValidator(_in_utc)]


class Read(BaseModel):
    """Something read from a JSON file that a hand or a crash may have changed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class ClaimFound(Read):
    """What was found for one claim."""

    verdict: Name
    effect: float | None = None
    interval: tuple[float, float] | None = None
    paper: str = ""


class Record(Read):
    """The record of a finished run; `started_at` is in UTC."""

    slug: Name
    run_id: Name
    status: Literal["finished"]
    params: dict[Name, Value]
    preset: str | None = None
    seconds: float
    peak_memory_mib: float | None = None
    device: str = ""
    versions: dict[str, str] = {}
    hardware: dict[str, str] = {}
    git_commit: str | None = None
    started_at: Time
    metrics: dict[Name, float]
    claims: dict[Name, ClaimFound]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return runs_folder() / self.slug / self.run_id


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


Kind = TypeVar("Kind", bound=Read)


def read_run(folder: Path) -> Record:
    """Read and check the record of a run; StudyError names the file and what is wrong with it, a link included."""
    check_inside(folder)
    record = _read(Record, folder / RECORD, "Remove that folder and run again")
    if (record.slug, record.run_id) != (folder.parent.name, folder.name):
        raise StudyError(
            f"{folder / RECORD}: it says slug {record.slug!r}, run_id {record.run_id!r}, its folder says otherwise",
            "Move the folder back to its place",
        )
    return record


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
    return _read(Sweep, paths[ids[0]], "Run the sweep again; its finished runs are kept")


def _read(kind: type[Kind], path: Path, remedy: str) -> Kind:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}", remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{path}: {place}{': ' if place else ''}{said}", remedy) from error
