"""Lays a paper's runs side by side and answers SQL over them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from studylib.errors import StudyError, nearest
from studylib.evidence.verdicts import DECIDED
from studylib.running.records import Record
from studylib.showing.listing import Listing

READING = {"SELECT", "EXPLAIN", "MULTI"}  # a PIVOT is several statements to DuckDB
SHORT = 8  # letters of a run id that are shown


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
        for verdict in DECIDED
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
    columns = run_columns(records)
    if short:  # for people: how the claims fared, what was changed, then the rest, of which a terminal may show a part
        order = ("verdict", "param", "run", "metric")
        columns = sorted(columns, key=lambda column: order.index(column.group))
    picked = [
        _quoted(column.name)
        for column in columns
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
