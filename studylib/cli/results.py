"""The commands of `study` that show what was found: results, compare, claims."""

from pathlib import Path
from typing import Annotated, Any

import typer

from studylib.cli.app import SOME_PAPER, Slug, Slugs, app, need_paper
from studylib.errors import StudyError
from studylib.files import disk_errors, given_path, write_atomically

FIGURE_FORMATS = ("webp", "png", "svg", "pdf")


@app.command(epilog=f'Example: study results {SOME_PAPER} --sql "SELECT run_id, seconds, held FROM runs"')
def results(
    slug: Slug,
    sql: Annotated[str | None, typer.Option(help="One SELECT over the tables named above.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Only the runs of this sweep, by the beginning of its id.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric's name, or a part of several; repeatable.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw metrics over the knobs that differ: a .webp, .png, .svg or .pdf file.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Print a Markdown table.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Show also columns that the terminal has no room for.")] = False,
) -> None:
    """Lay a paper's runs side by side, or ask them in SQL.

    Without --sql: one row per run with the parameters that differ between the runs, the metrics, and how
    many claims were held, undecided and so on.

    \b
    Tables for --sql (DuckDB, in memory, without access to files):
      runs     one row per run: run_id, started_at (UTC), seconds, peak_memory_mib,
               device, preset, git_commit, a column for each parameter and for each
               metric, and held, reversed, undecided, failed, not_testable_here
      claims   run_id, claim, verdict, effect, low, high
      metrics  run_id, metric, value
    A metric named like a parameter is metric_<name>; odd names want double quotes.
    """
    from studylib.reports import results as found
    from studylib.reports.records import find_runs, find_sweep
    from studylib.workspace import runs_folder

    need_paper(slug)
    if csv + json + md > 1 or (figure and (sql or csv or json or md)):
        raise StudyError("--csv, --json, --md and --figure do not go together", "Give one; --figure without --sql")
    records, damaged = find_runs(slug, sweep)
    for line in damaged:
        typer.echo(f"warning: skipped {line}", err=True)
    if sweep is not None:
        points = find_sweep(slug, sweep).points
        if len(records) < len(points):
            typer.echo(f"warning: only {len(records)} of the sweep's {len(points)} points have a record", err=True)
    if not records:
        where = "no finished runs" if sweep is None else f"no finished runs of sweep {sweep}"
        raise StudyError(f"{slug} has {where} in {runs_folder() / slug}", f"Start with `study run {slug}`")
    if figure is not None:
        save_figure(figure, records, metric or [], slug if sweep is None else f"{slug}, sweep {sweep}")
        return
    if sql is None:
        listing = found.default_view(records, metric or [], short=not (csv or json))
    else:
        listing = found.query(records, sql)
    if csv or json or md:
        typer.echo(listing.csv() if csv else listing.json() if json else listing.markdown(), nl=False)
    else:
        listing.show(whole=all or sql is not None)


@app.command(epilog="Example: study compare 3f2a 9c41 -o compare.html")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's id or its beginning.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run's.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write a page with the pictures side by side.")
    ] = None,
) -> None:
    """Show in which parameters, metrics and verdicts two runs differ, and their pictures side by side."""
    from studylib.reports.compare import compare as compare_runs
    from studylib.reports.compare import find_run

    found = compare_runs(find_run(a), find_run(b))
    found.show()
    if output is not None:
        from studylib.reports.compare_page import comparison_page

        write_output(output, comparison_page(found))


@app.command(epilog=f"Example: study claims {SOME_PAPER}")
def claims(
    slugs: Slugs = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Print the page papers/CLAIMS.md.")] = False,
) -> None:
    """Show how every claim fared: the verdict, the paper's figure, and what was measured here."""
    from studylib.reports import scoreboard

    if json and md:
        raise StudyError("--json and --md do not go together", "Give one")
    found = scoreboard.scoreboard(slugs)
    if json:
        typer.echo(scoreboard.as_json(found), nl=False)
    elif md:
        typer.echo(scoreboard.markdown(found), nl=False)
    else:
        scoreboard.show(found)


def save_figure(path: Path, records: list[Any], metrics: list[str], title: str) -> None:
    """Draw the runs' metrics over their knobs into a file of the format that its ending says."""
    import io

    from studylib.reports.sweep_figure import sweep_figure

    format = path.suffix.lower().removeprefix(".")
    if format not in FIGURE_FORMATS:
        raise StudyError(f"{path} names no format", f"End it with .{', .'.join(FIGURE_FORMATS)}")
    content = io.BytesIO()
    sweep_figure(records, metrics=metrics, title=title).savefig(content, format=format, dpi=110, bbox_inches="tight")
    write_output(path, content.getvalue())


def write_output(path: Path, content: str | bytes) -> None:
    """Write the file that a user named, whole or not at all, and say where it is.

    A device or a pipe is written to as it stands, and a link leads to what it names: neither is replaced by a file.
    """
    target = given_path(path).resolve()
    if target.is_dir():
        raise StudyError(f"{path} is a folder", "Name a file")
    if given_path(path).exists() and not path.is_file() or given_path(path).is_relative_to("/dev"):
        with disk_errors(path), path.open("wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    else:
        write_atomically(target, content)
    typer.echo(str(path))
