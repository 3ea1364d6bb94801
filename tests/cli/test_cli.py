"""The command line: help, bad input in one line, and a new paper that runs at once."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from mini_workspace import card_text, code, standard_cells, write_notebook
from typer.testing import CliRunner, Result

import studylib
from studylib.cli import doctor
from studylib.cli.main import app
from studylib.models import files

COMMANDS = ["run", "list", "render", "check", "lab", "new", "doctor", "train"]


def study(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def error_line(result: Result, code: int = 2) -> str:
    """The one line on stderr of a command that failed as it should."""
    (line,) = [line for line in result.stderr.splitlines() if not re.match(r"mini: cell", line)]
    assert result.exit_code == code and line.startswith("error: ")
    return line


def test_help_names_every_command_with_an_example():
    """The help is the manual."""
    assert all(re.search(rf"^  {name} ", study("--help").stdout, re.MULTILINE) for name in COMMANDS)
    for name in COMMANDS:
        assert f"Example: study {name}" in study(name, "--help").stdout


def test_train_hands_its_words_on_and_names_what_can_be_trained(capfd):
    """Weights that ship come from named trainings; a wrong name must list them, and options belong to the training."""
    listed = re.findall(r"python -m studylib\.recipes\.(\w+)", study("train").stdout)
    assert listed == ["clip", "dino", "face", "judge", "sd", "style", "vae"]  # "budget" once stood there
    assert "Did you mean judge" in error_line(study("train", "jugde"))
    assert "mini" not in study("train").stdout
    assert study("train", "judge", "--", "--help").exit_code == 0
    assert "python -m studylib.recipes.judge" in capfd.readouterr().out
    assert study("train", "judge", "--no-such-option").exit_code == 2


def test_help_is_quick():
    """Two seconds of imports before a line of help would be felt at every slip."""
    command = [sys.executable, "-c", "import sys; from studylib.cli.main import app; app(['--help'])"]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    assert time.monotonic() - began < 3
    loaded = (
        "import sys, studylib.cli.main; print({'torch', 'diffusers', 'papermill', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "mnii"], "Did you mean mini"),
        (["run", "mini", "-p", "stps=1"], "Did you mean steps"),
        (["run", "mini", "-p", "steps=many"], "steps takes a whole number"),
        (["run", "mini", "-p", "strength=7"], "strength is between 0 and 1"),
        (["run", "mini", "--preset", "strong"], "no preset 'strong'"),
        (["run", "mini", "--model", "tiny"], "mini has no parameter 'model'"),
        (["run", "later"], "later is planned: A Later Study (2025) has no notebook yet"),
        (["sweep", "later", "-g", "steps=1"], "later is planned"),
        (["run", "mini", "-p", "stps=1", "-p", "steps=x", "-p", "share"], "share has no value. Did you mean steps"),
        (["sweep", "mini", "-g", "steps=0..100000000000"], "100,000,000,001 values, more than 10,000"),
        (["list", "nothing"], "no paper is called 'nothing'"),
        (["render", "nothing"], "no paper is called 'nothing'"),
        (["check", "nothing"], "no paper is called 'nothing'"),
        (["lab", "nothing"], "no paper is called 'nothing'"),
        (["new", "Not-A-Name", "--title", "T"], "no short name"),
        (["new", "class", "--title", "T"], "no short name"),
        (["new", "fresh", "--title", " "], "is empty"),
        (["new", "mini", "--title", "T"], "is there already"),
    ],
)
def test_bad_input_is_one_line_and_a_code(workspace, words, named):
    """A cause and a remedy; a traceback would hide both."""
    assert named in error_line(study(*words))
    assert not (workspace / "runs").exists()


def test_failing_run_is_one_line_and_a_code(workspace):
    """Scripts look at the code, people at the line."""
    write_notebook(workspace / "notebooks" / "mini.ipynb", [*standard_cells()[:2], code("1 / 0")])
    result = study("run", "mini")
    assert re.search(r"cell 3 .* ZeroDivisionError: .* See .*\.failed", error_line(result, code=1))
    assert "Traceback" in study("run", "mini", "--debug").stderr


def test_unexpected_error_hides_its_traceback_too(workspace, monkeypatch):
    """A file nobody expected should still give one line; --debug, before or after, shows the rest."""
    (workspace / "papers" / "mini" / "presets.toml").unlink()
    (workspace / "papers" / "mini" / "presets.toml").mkdir()  # the file is looked for, a folder is there
    (workspace / "papers" / "mini" / "card.toml").write_bytes(card_text().encode() + b"\xff")
    assert "not valid TOML" in error_line(study("list", "mini"))
    assert "Traceback" in study("--debug", "list", "mini").stderr


def test_run_reports_and_repeats_only_by_force(workspace):
    """A finished run is shown again at once, and the reader is told that it was not run."""
    first, again = study("run", "mini"), study("run", "mini")
    assert first.exit_code == again.exit_code == 0
    assert "claims: 2 held, 1 undecided, 1 failed, 1 not testable here" in first.stdout
    assert "already run" not in first.stdout and "already run" in again.stdout
    *_, record, after = first.stdout.splitlines()
    assert Path(record.removeprefix("record: ")).is_file() and after.startswith("next: study list mini")
    assert "  held     +0.5  rises holds." in first.stdout
    other = study("run", "mini", "-p", "steps=4").stdout.splitlines()[-1]
    assert re.fullmatch("next: study compare [0-9a-f]{12} [0-9a-f]{12}", other)
    assert study(*other.split()[2:]).exit_code == 0
    assert "mini: cell 4 of 4" in first.stderr and again.stderr == ""


def test_list_is_a_table_of_the_terminals_width(workspace, monkeypatch):
    """Lines that wrap where the terminal ends break words and columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "34")
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in study("list").stdout.splitlines()]
    assert len(lines) > 3 and max(map(len, lines)) <= 34
    assert {"mini", "later", "planned", "idea"} <= set(" ".join(lines).split())


def test_list_shows_the_course_and_one_paper(workspace):
    """What is written, what is planned, and which knobs a paper has."""
    head, *course = study("list").stdout.splitlines()
    assert head.split() == ["paper", "year", "claims", "idea"]
    assert re.match(r"1  mini +2024  written", course[0]) and re.match(
        r"2  later +2025  planned", course[1]
    )
    paper = study("list", "mini").stdout
    for words in (
        "strength = 0.5  how strong  from 0 to 1",
        "one of plain, rich",
        "weak: strength=0.25",
        "rises (dir",
    ):
        assert words in paper


def test_render_says_where_the_table_belongs(workspace):
    """A missing README must not undo the rendering, and must be said."""
    result = study("render", "mini")
    assert result.exit_code == 2 and "README.md is missing" in result.stderr
    (workspace / "README.md").write_text("<!-- papers:start -->\n<!-- papers:end -->\n")
    result = study("render")
    assert result.exit_code == 0 and "table of papers: rewritten" in result.stdout
    assert re.search(r"mini: \d+ s, \d+ MiB, claims: 2 held", result.stdout)
    assert "2 held" in (workspace / "README.md").read_text()


def test_doctor_names_each_fault_with_its_remedy(workspace, tmp_path, monkeypatch):
    """The one command to run when something is wrong: it must not fail itself, and work without a network."""
    monkeypatch.setattr(files, "WEIGHTS", tmp_path / "none")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    root = Path(studylib.__file__).parents[1]
    text = (
        (root / "pyproject.toml")
        .read_text()
        .replace('"tqdm>=4.67,<5"', '"tqdm<1"')
        .replace("typer>", "no-such-one>")
    )
    (workspace / "pyproject.toml").write_text(text)
    result = study("doctor")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and all(re.match(r"(ok|warn|fail) ", line) for line in lines)
    for words in (
        "fail  weights sd: missing. Restore",
        "fail  tqdm: ",
        "fail  no-such-one: not installed. pip install",
        "fail  paper mini: steps takes a whole number",
        "ok    hub: 127.0.0.1 reached",
        "ok    python: ",
        "ok    threads: ",
    ):
        assert any(line.startswith(words) for line in lines), words
    listener.close()
    assert doctor.hub().state == "warn" and "needs no network" in doctor.hub().remedy


def test_commands_outside_a_workspace_say_so(tmp_path):
    """Installed without a checkout, the command must say what is missing rather than list nothing."""
    copy = tmp_path / "site" / "studylib"
    shutil.copytree(
        Path(studylib.__file__).parent,
        copy,
        ignore=shutil.ignore_patterns("weights", "__pycache__", "recipes"),
    )
    environment = {name: value for name, value in os.environ.items() if name != "STUDY_ROOT"}
    command = [sys.executable, "-c", "from studylib.cli.main import app; app()", "list"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "no workspace found" in result.stderr and "STUDY_ROOT" in result.stderr


def test_version_names_the_workspace(workspace):
    """The first question of every report of a fault."""
    assert study("--version").stdout == f"study {studylib.__version__}, workspace {workspace}\n"


def test_lab_opens_the_map_and_reaches_the_notes(workspace, monkeypatch):
    """From the notebooks' own folder neither notes nor results could be opened."""
    started = []
    monkeypatch.setattr("os.execve", lambda file, words, environment: started.append((os.getcwd(), words)))
    monkeypatch.chdir(workspace)
    study("lab", "mini")
    (workspace / "notebooks" / "index.ipynb").write_text("{}")
    study("lab", "--no-browser")
    assert {where for where, _ in started} == {str(workspace)}
    assert [words[-1] for _, words in started] == ["notebooks/mini.ipynb", "notebooks/index.ipynb"]


def test_doctor_installs_the_kernel_for_other_programs(workspace, tmp_path, monkeypatch):
    """`papermill -k study` ended in "No such kernel": an editable install carries no data files."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    assert "installed" in study("doctor", "--fix").stdout
    kernels = str(tmp_path / "environment" / "share" / "jupyter" / "kernels")
    spec = KernelSpecManager(kernel_dirs=[kernels]).get_kernel_spec("study")
    assert spec.argv[1:3] == ["-m", "studylib.running.kernels.launcher"]
    monkeypatch.setenv("JUPYTER_PATH", str(Path(kernels).parent))
    assert doctor.kernelspec().state == "ok"
