"""Reads the records of a paper's runs and of its sweeps, lays runs side by side, and answers SQL over them."""

import datetime
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import duckdb
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from studylib.listing import Listing
from studylib.run_folder import RECORD, check_inside, runs_folder
from studylib.workspace import StudyError, nearest

VERDICTS = ("held", "reversed", "undecided", "failed", "not testable here")
READING = {"SELECT", "EXPLAIN", "MULTI"}  # a PIVOT is several statements to DuckDB
BIGGEST = 2**63
SHORT = 8  # letters of a run id that are shown


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


@dataclass(frozen=True)
class Column:
    """One column of a table: its SQL name and type, a value for each row, and of what it is the value."""

    name: str
    type: str
    values: list[Any]
    group: str = ""
    original: str = ""

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return len(set(self.values)) > 1


def run_columns(records: Sequence[Record]) -> list[Column]:
    """Return the columns of `runs`; a parameter or metric whose name is taken gets its group before it."""
    about = {"run_id": "VARCHAR", "started_at": "TIMESTAMP", "seconds": "DOUBLE", "peak_memory_mib": "DOUBLE"}
    about |= {"device": "VARCHAR", "preset": "VARCHAR", "git_commit": "VARCHAR"}
    columns = [Column(name, kind, [getattr(r, name) for r in records], "run", name) for name, kind in about.items()]
    counts = {
        verdict.replace(" ", "_"): [sum(claim.verdict == verdict for claim in r.claims.values()) for r in records]
        for verdict in VERDICTS
    }
    taken = {*about, *counts}  # in small letters, since SQL does not tell Seed from seed
    for group, field in (("param", "params"), ("metric", "metrics")):
        for original in dict.fromkeys(name for record in records for name in getattr(record, field)):
            name = original
            while name.casefold() in taken:
                name = f"{group}_{name}"
            taken.add(name.casefold())
            values = [getattr(record, field).get(original) for record in records]
            columns.append(Column(name, *_typed(values), group, original))
    return columns + [Column(name, "BIGINT", values, "verdict", name) for name, values in counts.items()]


def default_view(records: Sequence[Record], metric: Sequence[str] = (), *, short: bool = False) -> Listing:
    """Lay runs side by side: the parameters in which they differ, the metrics, how many claims fared how.

    `metric`: only metrics whose names contain one of these texts. `short`: run ids as short as they can be
    told apart, but no shorter than eight letters.
    """
    wanted = pick_metrics([name for record in records for name in record.metrics], metric)
    picked = [
        _quoted(column.name)
        for column in run_columns(records)
        if column.name in ("started_at", "seconds")
        or (column.group == "param" and column.differs)
        or (column.group == "metric" and column.original in wanted)
        or (column.group == "verdict" and any(column.values))
    ]
    id = f"run_id[:{_telling_length(records)}] AS run_id" if short else "run_id"
    return query(records, f"SELECT {', '.join([id, *picked])} FROM runs ORDER BY started_at, runs.run_id")


def pick_metrics(names: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the names that are or contain one of `texts`, all without texts; StudyError for a text that none contains.

    A text that is a name means that one alone.
    """
    names = list(dict.fromkeys(names))
    for text in texts:
        if not any(text in name for name in names):
            known = f"There are: {', '.join(names) or 'none'}"
            raise StudyError(f"no metric is called {text!r}", nearest(text, names) + known)
    parts = [text for text in texts if text not in names]
    return [name for name in names if not texts or name in texts or any(part in name for part in parts)]


def query(records: Sequence[Record], sql: str) -> Listing:
    """Answer one reading SQL statement over the tables `runs`, `claims` and `metrics`.

    Everything is held in memory and the query can reach neither files, the network nor other packages.
    Raises StudyError with the tables and their columns for SQL that does not run.
    """
    connection, tables = _database(records)
    with connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type.name not in READING:
                raise StudyError("the query is not one SELECT", f"Tables: {tables}")
            connection.execute(statements[0])
            return Listing([column[0] for column in connection.description], connection.fetchall())
        except duckdb.Error as error:
            said = " ".join(itertools.takewhile(lambda line: not line.startswith("LINE "), str(error).splitlines()))
            raise StudyError(f"the query failed: {said.strip().rstrip('!')}", f"Tables: {tables}") from error


def _database(records: Sequence[Record]) -> tuple[duckdb.DuckDBPyConnection, str]:
    """Hold the records in memory, cut off from files and network; the second value names tables and columns."""
    claims = [(record.run_id, id, claim) for record in records for id, claim in record.claims.items()]
    ends = [claim.interval or (None, None) for _, _, claim in claims]
    numbers = [(record.run_id, name, value) for record in records for name, value in record.metrics.items()]
    tables = {
        "runs": run_columns(records),
        "claims": [
            Column("run_id", "VARCHAR", [id for id, _, _ in claims]),
            Column("claim", "VARCHAR", [id for _, id, _ in claims]),
            Column("verdict", "VARCHAR", [claim.verdict for _, _, claim in claims]),
            Column("effect", "DOUBLE", [claim.effect for _, _, claim in claims]),
            Column("low", "DOUBLE", [low for low, _ in ends]),
            Column("high", "DOUBLE", [high for _, high in ends]),
        ],
        "metrics": [
            Column("run_id", "VARCHAR", [id for id, _, _ in numbers]),
            Column("metric", "VARCHAR", [name for _, name, _ in numbers]),
            Column("value", "DOUBLE", [value for _, _, value in numbers]),
        ],
    }
    connection = duckdb.connect(":memory:")
    for table, columns in tables.items():
        parts = ", ".join(f"unnest(?::{column.type}[]) AS {_quoted(column.name)}" for column in columns)
        connection.execute(f"CREATE TABLE {table} AS SELECT {parts}", [column.values for column in columns])
    for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")
    listed = [f"{table}({', '.join(_readable(column.name) for column in tables[table])})" for table in tables]
    return connection, ", ".join(listed)


def _read(kind: type[Kind], path: Path, remedy: str) -> Kind:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}", remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise StudyError(f"{path}: {place}{': ' if place else ''}{said}", remedy) from error


def _telling_length(records: Sequence[Record]) -> int:
    length = SHORT
    while len({record.run_id[:length] for record in records}) < len({record.run_id for record in records}):
        length += 1
    return length


def _typed(values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the SQL type that holds all values, and the values as that type: text where kinds are mixed."""
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({bool}, {int}):
        return ("BOOLEAN" if kinds == {bool} else "BIGINT"), list(values)
    if kinds and kinds <= {int, float}:
        return "DOUBLE", list(values)
    return "VARCHAR", [value if value is None else str(value) for value in values]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _readable(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else _quoted(name)
