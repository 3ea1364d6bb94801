"""The one reader of records: what a hand or a crash may have changed is checked before anything believes it."""

import datetime
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from studylib.errors import StudyError, cut
from studylib.files import read_json, read_regular
from studylib.running.folder import RECORD, check_inside
from studylib.workspace import runs_folder

BIGGEST = 2**63
REMEDY = "Remove that folder and run again"


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
    effects: dict[Name, dict[str, float]] = {}
    weights: dict[str, str] = {}
    claims: dict[Name, ClaimFound]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return runs_folder() / self.slug / self.run_id


Kind = TypeVar("Kind", bound=Read)


def read_run(folder: Path) -> Record:
    """Read and check the record of a run; StudyError names the file and what is wrong with it, a link included."""
    check_inside(folder)
    record = read_checked(Record, folder / RECORD, REMEDY)
    if (record.slug, record.run_id) != (folder.parent.name, folder.name):
        raise StudyError(
            f"{folder / RECORD}: it says slug {record.slug!r}, run_id {record.run_id!r}, its folder says otherwise",
            "Move the folder back to its place",
        )
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """Return all that the record of a finished run holds; StudyError when it is damaged."""
    read_run(folder)
    return read_json(folder / RECORD, REMEDY)


def finished_record(folder: Path, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the whole record of a finished run with these parameters, None where there is none.

    StudyError for one that is damaged, which counts as none: `study run` and `study sweep` write it again.
    """
    if not (folder / RECORD).is_file():
        return None
    record = read_record(folder)
    if record["params"] != params:
        raise StudyError(f"{folder / RECORD}: its parameters are not those of this run", REMEDY)
    return record


def read_checked(kind: type[Kind], path: Path, remedy: str) -> Kind:
    """Read a JSON file of this kind; StudyError names the file, the first wrong field and the remedy."""
    try:
        return kind.model_validate_json(read_regular(path))
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}", remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{path}: {place}{': ' if place else ''}{cut(said)}", remedy) from error
