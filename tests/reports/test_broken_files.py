"""Every reader of the project on broken files: one line that says what is wrong, never a traceback or "unexpected"."""

import json
import random
import re
import shutil

import pytest
from made_up_runs import make_run
from mini_workspace import card_text
from safetensors.numpy import save_file
from typer.testing import CliRunner

from studylib.cli.main import app
from studylib.errors import StudyError
from studylib.models.files import check_model
from studylib.running.effects import stored_effects
from studylib.running.engine import whole_notebook
from studylib.running.parameters import check_parameters, read_parameters
from studylib.running.runs import checked
from studylib.workspace import notebook_path

SEEDS = range(25)  # of mutations of each kind of file
ODD = ["null", "[]", "{}", '""', "true", "-1", "NaN", "1e999", "9" * 5000, '"\\u001b[31m\\ud800"', "[[]]", '{"a": {}}']
ODD_TOML = ["[]", "{}", '""', "true", "-1", "nan", "inf", "9" * 5000, '"\\u001b"', "[[1]]", "{a = 1}", "1979-05-27"]


def say(*words):
    """A command's end: it may succeed, else it must be one line for a person."""

    def command():
        result = CliRunner().invoke(app, words)
        if result.exit_code:
            *warnings, line = result.stderr.splitlines() or ["unexpected " + repr(result.exception)]
            assert line.startswith("error: ") and all(said.startswith("warning: ") for said in warnings), result.stderr
            raise StudyError(line)

    return command


def pipeline(root):
    """A folder in diffusers format that passes every check, of made-up weights."""
    folder = root / "model"
    (folder / "unet").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "x": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", "layers": [1, 2]}))
    import numpy

    save_file({"a": numpy.zeros(3)}, folder / "unet" / "part-1.safetensors")
    shards = {"metadata": {"total_size": 24}, "weight_map": {"a": "part-1.safetensors"}}
    (folder / "unet" / "model.safetensors.index.json").write_text(json.dumps(shards))
    return folder


def results_text():
    claims = {"identity": {"verdict": "held", "effect": None, "interval": None}}
    claims["rises"] = {"verdict": "held", "effect": 0.5, "interval": [0.25, 0.75]}
    return json.dumps({"slug": "mini", "params": {"steps": 3}, "claims": claims, "metrics": {"a": 1.5}, "seconds": 4})


def sweep_text():
    point = {"params": {"steps": 1}, "run_id": "a" * 12, "status": "done", "seconds": 1.0, "error": ""}
    return json.dumps({
        "sweep_id": "5weep", "slug": "mini", "grid": {"steps": [1]}, "fixed": {}, "preset": None,
        "started_at": "2026-01-01T10:00:00+00:00", "points": [point],
    })  # fmt: skip


KINDS = {  # path in the workspace -> its sound text (None: as it is there), and who reads it
    "papers/mini/card.toml": (card_text, [say("list"), say("list", "mini"), lambda: check_parameters("mini", {})]),
    "papers/course.toml": (None, [say("list"), say("claims")]),
    "papers/mini/presets.toml": (None, [say("list", "mini"), lambda: checked("mini", {}, "weak")]),
    "papers/mini/results.json": (results_text, [say("list"), say("claims"), say("claims", "--json")]),
    "papers/mini/effects.json": (
        lambda: json.dumps({"params": {}, "weights": {}, "code": "", "effects": {"rises": {"0": {"a cat": 0.5}}}}),
        [lambda: stored_effects("mini", {name: one.default for name, one in mini_parameters().items()})],
    ),
    "notebooks/mini.ipynb": (
        None, [lambda: mini_parameters(), lambda: whole_notebook(notebook_path("mini")), say("list", "mini")]
    ),
    f"runs/mini/{'a' * 12}/record.json": (None, [say("results", "mini"), say("results", "mini", "--json")]),
    "runs/mini/sweeps/5weep.json": (sweep_text, [say("results", "mini", "--sweep", "5")]),
    "model/model_index.json": (None, [lambda: check_model(str(notebook_path("x").parents[1] / "model"), "tiny")]),
    "model/unet/config.json": (None, [lambda: check_model(str(notebook_path("x").parents[1] / "model"), "tiny")]),
    "model/unet/model.safetensors.index.json": (
        None, [lambda: check_model(str(notebook_path("x").parents[1] / "model"), "tiny")]
    ),
    "model/unet/part-1.safetensors": (
        None, [lambda: check_model(str(notebook_path("x").parents[1] / "model"), "tiny")]
    ),
}  # fmt: skip


def mini_parameters():
    return read_parameters(notebook_path("mini"))


def mutated(content: bytes, kind: str, rng: random.Random) -> bytes:
    """The content with one to three faults: a value replaced, a key lost, bytes damaged, its end cut off."""
    for _ in range(rng.randint(1, 3)):
        how = rng.choice(["value", "value", "value", "key", "bytes", "cut"])
        if how == "value":
            pattern = rb'(?<=[:\[,])\s*("[^"\n]*"|[-\w.]+|\[[^\[\]]*\]|\{[^{}]*\})'
            pattern = rb'(?<== )("[^"\n]*"|[^\n]+)|(?<=\[)[\w.]+(?=\])' if kind == "toml" else pattern
            found = list(re.finditer(pattern, content))
            if found:
                one, odd = rng.choice(found), rng.choice(ODD_TOML if kind == "toml" else ODD).encode()
                content = content[: one.start()] + odd + content[one.end() :]
        elif how == "key":
            lines = re.split(rb"(?<=[,\n])", content)
            del lines[rng.randrange(len(lines))]
            content = b"".join(lines)
        elif how == "bytes" and content:
            at = rng.randrange(len(content))
            content = content[:at] + rng.randbytes(rng.randint(0, 4)) + content[at + rng.randint(0, 4) :]
        elif how == "cut":
            content = content[: rng.randrange(len(content) + 1)]
    return content


@pytest.fixture
def prepared(workspace):
    """The small workspace with one file of each kind."""
    make_run(workspace, "a" * 12)
    pipeline(workspace)
    (workspace / "runs" / "mini" / "sweeps").mkdir()
    for name, (text, _) in KINDS.items():
        if text is not None:
            (workspace / name).write_text(text())
    return workspace


def one_line(error: StudyError) -> bool:
    said = str(error)
    bad = re.search(r"unexpected \w+(Error|Exception)|Traceback", said)
    return bool(said) and said.isprintable() and not bad and len(said) < 10_000


@pytest.mark.parametrize("name", KINDS)
def test_broken_files_are_one_line(prepared, name):
    """85 of 731 odd inputs ended in "unexpected ...": each kind of file, broken in many ways, gets its line."""
    path, readers = prepared / name, KINDS[name][1]
    sound, kind = path.read_bytes(), path.suffix.removeprefix(".")
    for reader in readers:
        reader()
    for seed in SEEDS:
        path.write_bytes(mutated(sound, kind, random.Random(seed)))
        for number, reader in enumerate(readers):
            try:
                reader()
            except StudyError as error:
                assert one_line(error), (name, seed, number, str(error))
            except Exception as error:
                raise AssertionError((name, seed, number, path.read_bytes()[:2000])) from error


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_is_one_line(prepared, name):
    """A pipe would be read for ever, a folder raises an error of its own."""
    import os

    path, readers = prepared / name, KINDS[name][1]
    path.unlink()
    os.mkfifo(path)
    for as_what in ("pipe", "folder"):
        if as_what == "folder":
            path.unlink()
            path.mkdir()
        for reader in readers:
            try:
                reader()
            except StudyError as error:
                assert one_line(error), (name, as_what, str(error))
    shutil.rmtree(path)
