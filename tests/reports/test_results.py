"""Results: runs side by side, SQL that cannot leave its tables, damaged records said and skipped, sweeps drawn."""

import csv
import io
import itertools
import json
import math
import os
import random
import re
import stat
import statistics
import subprocess

import pytest
from made_up_runs import CLAIMS, make_run, params
from PIL import Image
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.cli.results import write_output
from studylib.errors import StudyError
from studylib.reports import records, results
from studylib.reports.sweep_figure import mean_interval, sweep_figure, t_quantile
from studylib.running import runs
from studylib.showing.listing import Listing


def study(*words):
    return CliRunner().invoke(app, ["results", "mini", *words])


def three_runs(workspace):
    make_run(workspace, "b" * 12, minute=1, params=params(steps=5))
    make_run(workspace, "a" * 12, minute=0)
    make_run(workspace, "c" * 12, minute=2, params=params(mode="rich"), metrics={"score": 0.75, "other": 1e-9})


def test_runs_lie_side_by_side_in_order_of_time(workspace):
    """A column that is equal in all runs hides the one that is not, and half a row misleads."""
    three_runs(workspace)
    alone = study("--metric", "score").stdout.splitlines()[0]
    assert "score · β" not in alone and "score" in alone  # a whole name is that metric alone, a part all that have it
    head, *rows = (line.split() for line in study("--metric", "scor").stdout.splitlines())
    assert head == "run_id held undecided not_testable_here steps mode started_at seconds score score · β".split()
    assert [row[0] for row in rows] == ["a" * 8, "b" * 8, "c" * 8]
    assert rows[1][1:] == ["1", "1", "1", "5", "plain", "2026-01-01", "10:01", "1.5", "0.5", "2"]
    assert rows[2][1:] == ["1", "1", "1", "3", "rich", "2026-01-01", "10:02", "1.5", "0.75"]


def test_csv_and_json_hold_the_whole_numbers(workspace):
    """They are read by programs: an id cut short or a number of four digits would be another one."""
    three_runs(workspace)
    (row,) = [row for row in csv.DictReader(io.StringIO(study("--csv").stdout)) if row["mode"] == "rich"]
    assert (row["run_id"], row["score"], row["other"], row["score · β"]) == ("c" * 12, "0.75", "1e-09", "")
    rows = json.loads(study("--json").stdout)
    assert rows[0]["run_id"] == "a" * 12 and rows[0]["other"] is None and rows[2]["other"] == 1e-9
    assert study("--md").stdout.splitlines()[1] == "| --- |" + " --- |" * 10


def test_true_is_not_one(workspace):
    """A parameter that changed its type between versions of a notebook changed its meaning."""
    make_run(workspace, "a" * 12, params=params(share=True, steps=1))
    make_run(workspace, "b" * 12, minute=1, params=params(share=1, steps=1.0))
    listing = results.default_view(records.find_runs("mini")[0])
    assert "steps" not in listing.columns
    assert [row[listing.columns.index("share")] for row in listing.rows] == ["True", "1"]


def test_short_ids_still_tell_runs_apart(workspace):
    """Two rows of one name could not be looked up."""
    make_run(workspace, "a" * 9 + "01")
    make_run(workspace, "a" * 9 + "02", minute=1)
    assert [row[0] for row in results.default_view(records.find_runs("mini")[0], short=True).rows] == [
        "a" * 9 + "01",
        "a" * 9 + "02",
    ]


def test_sql_sees_runs_claims_and_metrics(workspace):
    """The tables that the help promises, with their types: a number must add up, an interval may be absent."""
    three_runs(workspace)
    rows = json.loads(study("--sql", "SELECT sum(steps) AS total, max(started_at) AS last FROM runs", "--json").stdout)
    assert rows == [{"total": 11, "last": "2026-01-01 10:02:00"}]
    found = study("--sql", "SELECT claim, verdict, effect, low, high FROM claims WHERE run_id[1] = 'a'", "--csv").stdout
    assert found.splitlines()[1:] == [
        "identity,held,0.0,,",
        "rises,undecided,0.25,-0.5,1.0",
        "liked,not testable here,,,",
    ]
    found = study("--sql", """SELECT "score · β", share FROM runs JOIN metrics USING (run_id) WHERE metric = 'other'""")
    assert found.stdout.split() == ["score", "·", "β", "share", "true"]
    pivot = study("--sql", "PIVOT claims ON verdict USING count(*) GROUP BY run_id", "--json")
    assert json.loads(pivot.stdout)[0]["held"] == 1


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT nope FROM runs", "nope"),
        ("SELECT * FROM run", 'Did you mean "runs"'),
        ("SELEC 1", "syntax error"),
        ("", "not one SELECT"),
        ("SELECT 1; SELECT 2", "not one SELECT"),
        ("DROP TABLE runs", "not one SELECT"),
        ("COPY runs TO 'stolen.csv'", "not one SELECT"),
        ("SET enable_external_access = true", "not one SELECT"),
        ("ATTACH 'other.db'", "not one SELECT"),
        ("INSTALL httpfs", "not one SELECT"),
        ("SELECT * FROM read_text('secret.txt')", "disabled by configuration"),
        ("SELECT * FROM read_csv('secret.txt')", "disabled by configuration"),
        ("SELECT * FROM 'secret.txt'", "does not exist"),
        ("SELECT * FROM glob('*')", "disabled by configuration"),
        ("SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')", "disabled by configuration"),
    ],
)
def test_sql_stays_inside_its_tables(workspace, monkeypatch, sql, said):
    """A pasted query may read the records and nothing else, and a slip shows what there is."""
    make_run(workspace, "a" * 12)
    (workspace / "secret.txt").write_text("the-secret\n")
    monkeypatch.chdir(workspace)
    before = sorted(workspace.iterdir())
    result = study("--sql", sql)
    assert result.exit_code == 2 and result.stdout == "" and "the-secret" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert said in line
    assert "runs(run_id, started_at" in line and '"score · β"' in line
    assert "claims(run_id, claim, verdict, effect, low, high)" in line
    assert sorted(workspace.iterdir()) == before


def test_names_that_collide_get_their_group(workspace):
    """The mini paper's metrics are named like its parameters, and SQL does not tell Seed from seed."""
    make_run(workspace, "a" * 12, params=params(held=1, Seed=4), metrics={"steps": 7.0, "": 1.0} | {"SEED": 2.0})
    assert records.find_runs("mini")[0] == []  # the empty name is refused
    metrics = {"steps": 7.0, 'a "quoted" one': 2.0, "SEED": 9}
    make_run(workspace, "b" * 12, params=params(held=8, Seed=4), metrics=metrics)
    names = 'steps, metric_steps, seed, "param_Seed", "metric_SEED", param_held, held, "a ""quoted"" one"'
    (row,) = results.query(records.find_runs("mini")[0], f"SELECT {names} FROM runs").rows
    assert row == (3, 7.0, 0, 4, 9.0, 8, 1, 2.0)


DAMAGES = {
    "cut short": (lambda text: text[: len(text) // 2], "Invalid JSON"),
    "empty": (lambda text: "", "Invalid JSON"),
    "a list": (lambda text: "[]", "should be an object"),
    "no metrics": (lambda text: text.replace('"metrics"', '"numbers"'), "metrics: Field required"),
    "a word for a number": (lambda text: text.replace('"score": 0.5', '"score": "much"'), "metrics.score"),
    "not a number": (lambda text: text.replace('"score": 0.5', '"score": NaN'), "metrics.score"),
    "a nested parameter": (lambda text: text.replace('"steps": 3', '"steps": [3]'), "params.steps: a list is no"),
    "a huge parameter": (lambda text: text.replace('"steps": 3', f'"steps": {10**30}'), "out of range"),
    "half an interval": (lambda text: text.replace("[-0.5, 1.0]", "[-0.5]"), "claims.rises.interval"),
    "no verdict": (lambda text: text.replace('"verdict": "held", ', ""), "claims.identity.verdict: Field required"),
    "an odd time": (lambda text: text.replace("2026-01-01T", "yesterday "), "started_at"),
    "another folder's": (lambda text: text.replace("a" * 12, "d" * 12), "its folder says otherwise"),
    "unfinished": (lambda text: text.replace("finished", "running"), "status"),
    "a name in colour": (lambda text: text.replace('"steps"', '"\\u001b[31msteps"'), "is no name"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_named_and_skipped(workspace, damage):
    """One bad record must neither stop the table nor leave it without a word."""
    change, reason = DAMAGES[damage]
    path = make_run(workspace, "a" * 12) / "record.json"
    make_run(workspace, "b" * 12)
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    result = study("--csv")
    assert result.exit_code == 0 and [line[:3] for line in result.stdout.splitlines()] == ["run", "bbb"]
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: skipped {path}: ") and reason in line


def test_unreadable_record_is_skipped(workspace):
    """Bytes that are no text, and a folder where a file should be, are damage as well."""
    (make_run(workspace, "a" * 12) / "record.json").write_bytes(b"\xff\xfe\x00")
    (workspace / "runs" / "mini" / ("b" * 12) / "record.json").mkdir(parents=True)
    found, damaged = records.find_runs("mini")
    assert found == [] and len(damaged) == 2


def test_failed_hidden_and_other_folders_are_no_runs(workspace):
    """A run that failed or is still running has measured nothing."""
    for name in ("a" * 12 + ".failed", "." + "b" * 12 + ".host.1.part", "sweeps"):
        make_run(workspace, name)
    (workspace / "runs" / "mini" / "sweeps" / "record.json").unlink()
    assert records.find_runs("mini") == ([], [])
    result = study()
    assert result.exit_code == 2 and "mini has no finished runs in" in result.stderr
    assert "study run mini" in result.stderr


def test_runs_are_found_where_the_environment_says(workspace, monkeypatch):
    """On shared machines runs lie on another disk."""
    make_run(workspace / "elsewhere", "a" * 12)
    monkeypatch.setenv("STUDY_RUNS", str(workspace / "elsewhere" / "runs"))
    assert [record.run_id for record in records.find_runs("mini")[0]] == ["a" * 12]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--csv", "--json"], "do not go together"),
        (["--figure", "x.webp", "--sql", "SELECT 1"], "do not go together"),
        (["--figure", "x.doc"], "names no format"),
        (["--figure", "."], "names no format"),
        (["--figure", "x.webp"], "differ in no parameter but the seed"),
        (["--metric", "scoer"], "Did you mean score"),
        (["--sweep", "ab"], "no sweep of mini begins with 'ab'"),
    ],
)
def test_bad_words_are_one_line(workspace, monkeypatch, words, said):
    """A cause and a remedy, and no file."""
    monkeypatch.chdir(workspace)
    make_run(workspace, "a" * 12)
    result = study(*words)
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (workspace / "x.webp").exists()


def make_sweep(workspace, id="5weep1", **changed):
    """A sweep over steps and share with three seeds, and one run beside it."""
    rng, points = random.Random(0), []
    for number, (steps, share, seed) in enumerate(itertools.product((2, 4, 8), (False, True), (0, 1, 2))):
        run_id = f"{number:012x}"
        given = {"steps": steps, "share": share, "seed": seed}
        metrics = {"score": steps + 10 * share + rng.random(), "flat": 1.0}
        make_run(workspace, run_id, minute=number, params=params(**given), metrics=metrics)
        points.append({"params": given, "run_id": run_id, "status": "done"})
    make_run(workspace, "f" * 12, minute=30, params=params(strength=0.9))
    sweep = {"sweep_id": id, "slug": "mini", "grid": {"steps": [2, 4, 8]}, "points": points}
    sweep |= {"started_at": "2026-01-01T10:00:00+00:00"} | changed
    (workspace / "runs" / "mini" / "sweeps").mkdir(exist_ok=True)
    (workspace / "runs" / "mini" / "sweeps" / f"{id}.json").write_text(json.dumps(sweep))


def test_a_sweep_limits_the_runs(workspace):
    """The runs of one sweep must not mix with whatever else was tried."""
    make_sweep(workspace)
    assert len(json.loads(study("--json").stdout)) == 19
    assert len(json.loads(study("--json", "--sweep", "5w").stdout)) == 18
    (workspace / "runs" / "mini" / ("0" * 12) / "record.json").unlink()
    assert "only 17 of the sweep's 18 points have a record" in study("--sweep", "5w").stderr
    (workspace / "runs" / "mini" / "sweeps" / "5weep2.json").write_text("{")
    both = "2 sweeps of mini begin with '5weep'. There are: 5weep1, 5weep2"
    for beginning, said in (("5weep", both), ("5weep2", "JSON")):
        result = study("--sweep", beginning)
        assert result.exit_code == 2 and said in result.stderr


def test_figure_shows_means_over_seeds_and_a_line_per_other_setting(workspace):
    """The figure is the answer of a sweep: its points must be the means of the right runs."""
    make_sweep(workspace)
    found, _ = records.find_runs("mini", "5weep1")
    figure = sweep_figure(found, metrics=["score"])
    over_share, over_steps = figure.axes
    assert (over_share.get_xlabel(), over_steps.get_xlabel()) == ("share", "steps")
    assert over_share.get_ylabel() == "score"
    lines = {line.get_label(): line for line in over_steps.containers}
    assert list(lines) == ["share=false", "share=true"]
    for share, container in zip((False, True), lines.values(), strict=True):
        points = container.lines[0]
        assert list(points.get_xdata()) == [2, 4, 8]
        for steps, mean in zip(points.get_xdata(), points.get_ydata(), strict=True):
            same = [r for r in found if (r.params["steps"], r.params["share"]) == (steps, share)]
            assert mean == pytest.approx(statistics.fmean(r.metrics["score"] for r in same))
    assert [text.get_text() for text in over_share.get_xticklabels()] == ["false", "true"]
    assert over_share.containers[0].lines[0].get_linestyle() == "None"
    assert "95 % t-interval over 3 seeds" in figure.get_supxlabel()


def test_figure_is_written_by_the_command(workspace):
    """From the command line to a picture that opens."""
    make_sweep(workspace)
    result = study("--sweep", "5weep1", "--figure", str(workspace / "new" / "out.webp"))
    assert result.exit_code == 0 and result.stdout.strip() == str(workspace / "new" / "out.webp")
    with Image.open(workspace / "new" / "out.webp") as picture:
        assert picture.format == "WEBP" and picture.width > 400


def test_figure_takes_the_newest_of_equal_runs(workspace):
    """Runs of an older code at the same point are no further seed."""
    for minute, (id, steps, score) in enumerate([("a", 1, 5.0), ("b", 1, 7.0), ("c", 2, 9.0)]):
        make_run(workspace, id * 12, minute=minute, params=params(steps=steps), metrics={"score": score})
    figure = sweep_figure(records.find_runs("mini")[0])
    assert list(figure.axes[0].containers[0].lines[0].get_ydata()) == [7.0, 9.0]
    assert "no interval" in figure.get_supxlabel()


def test_figure_averages_when_lines_would_be_too_many(workspace):
    """Nine lines of eight colours cannot be read; the average over them must say that it is one."""
    for number in range(18):
        given = params(steps=number % 9, share=number > 8)
        make_run(workspace, f"{number:012x}", params=given, metrics={"score": float(number)})
    over_share, over_steps = sweep_figure(records.find_runs("mini")[0]).axes
    assert over_share.get_title(loc="left") == "average over steps"
    assert list(over_share.containers[0].lines[0].get_ydata()) == [4.0, 13.0]
    assert len(over_steps.containers) == 2 and over_steps.get_title(loc="left") == ""


def test_figure_that_nobody_could_read_is_refused(workspace):
    """Sixty-one panels are a wall, and the reader needs to know how to get fewer."""
    for number in (0, 1):
        metrics = {f"m{i}": 1.0 for i in range(61)}
        make_run(workspace, f"{number:012x}", params=params(steps=number), metrics=metrics)
    with pytest.raises(StudyError, match="61 metrics over 1 knobs .steps.*--metric"):
        sweep_figure(records.find_runs("mini")[0])


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (4, 2.776), (11, 2.201), (20, 2.086), (100, 1.984)])
def test_t_quantiles_are_those_of_the_tables(freedom, quantile):
    """With three seeds the normal distribution's 1.96 would halve the interval."""
    assert t_quantile(freedom) == pytest.approx(quantile, abs=0.0006)


def test_interval_covers_the_mean_as_often_as_it_says():
    """That is what 95 % means: of many samples of four, about one in twenty misses."""
    rng, hits = random.Random(0), 0
    for _ in range(2000):
        mean, half = mean_interval([rng.gauss(3, 2) for _ in range(4)])
        hits += abs(mean - 3) <= half
    assert 0.935 < hits / 2000 < 0.965
    assert mean_interval([2.0]) == (2.0, 0.0)


def test_wide_listing_breaks_into_blocks_on_a_terminal(monkeypatch, capsys):
    """Thirty metrics do not fit beside each other, and squeezed to one letter each they tell nothing."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    Listing(["run", *(f"metric {i}" for i in range(9))], [("abc", *range(1000, 1009))]).show()
    lines = capsys.readouterr().out.splitlines()
    assert sum("abc" in line for line in lines) > 1
    assert all(str(number) in "".join(lines) for number in range(1000, 1009))
    Listing(["run", *(f"metric {i}" for i in range(9))], [("abc", *range(1000, 1009))]).show(whole=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum("abc" in line for line in lines) == 1 and re.match(r"\d more columns with --all: .*metric 8", lines[-1])


def test_listing_keeps_strange_values_apart():
    """What a query returns can be anything: no value may break a cell, a line or the JSON."""
    listing = Listing(["a|b", "c"], [("x|y\n<i>", math.nan), ("\x1b[31mred", [1.5, math.inf])])
    assert json.loads(listing.json()) == [{"a|b": "x|y\n<i>", "c": None}, {"a|b": "\x1b[31mred", "c": [1.5, None]}]
    assert listing.markdown().splitlines()[0] == "| a\\|b | c |" and "| x\\|y &lt;i&gt; | nan |" in listing.markdown()
    assert "\x1b" not in listing.markdown()
    assert len(list(csv.reader(io.StringIO(listing.csv())))) == 3


def test_a_real_record_is_read(workspace):
    """The other tests stand on made-up records: they must have the keys of what a run writes, and both be readable."""
    run = runs.run("mini", {"steps": 7}, preset="weak")
    ((found,), damaged) = records.find_runs("mini")
    assert damaged == [] and found.folder == run.folder and found.params == run.record["params"]
    assert found.metrics == run.record["metrics"] and found.claims["rises"].interval == (0.25, 0.25)
    made_up = json.loads((make_run(workspace, "a" * 12) / "record.json").read_text())
    assert set(made_up) == set(run.record)
    assert {tuple(claim) for claim in CLAIMS.values()} == {tuple(claim) for claim in run.record["claims"].values()}


def test_a_pipe_or_a_link_is_written_to_as_it_stands(workspace):
    """`-o /dev/null` by root replaced the device with a file; a link must go on leading where it led."""
    fifo, target, link = workspace / "fifo", workspace / "deep" / "page.html", workspace / "link.html"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        write_output(fifo, "a page")
        assert reader.stdout.read() == b"a page" and stat.S_ISFIFO(fifo.stat().st_mode)
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("one", "two"):
        write_output(link, text)
        assert link.is_symlink() and target.read_text() == text
