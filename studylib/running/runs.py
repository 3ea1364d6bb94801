"""Runs a notebook with checked parameters and keeps a record of it that can be repeated and compared."""

import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from studylib.errors import StudyError
from studylib.evidence.outcome import OUTCOME
from studylib.files import disk_errors, read_json, remove, write_atomically
from studylib.models.files import check_model
from studylib.running.fingerprint import run_id, weight_hashes
from studylib.running.folder import RECORD, check_inside, keep_failed, only_one, remove_stale, replace_folder
from studylib.running.parameters import Checks, preset_values, read_parameters
from studylib.running.records import finished_record
from studylib.workspace import find_root, notebook_path, paper_folder, runs_folder


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its record, and whether it was executed just now."""

    folder: Path
    record: dict[str, Any]
    fresh: bool


def run(
    slug: str,
    given: dict[str, Any] | None = None,
    *,
    preset: str | None = None,
    timeout: int = 600,
    force: bool = False,
    prewarmed: bool | None = None,
    stream: TextIO | None = None,
) -> Run:
    """Execute a paper's notebook with `given` parameters over a preset's over the defaults, and record it.

    A finished run of the same code, weights and parameters is returned as it is, unless `force`. `timeout`
    is in seconds per cell. `prewarmed` kernels start at once and compute the same; None takes them where
    they can be had and STUDY_KERNELS is not "plain". `stream` shows the progress. The record appears at
    once and whole, or not at all: the run works in a part folder that is renamed at the end. Raises
    StudyError; after a failed cell it names the notebook as far as it was executed, kept in
    `<run id>.failed`.
    """
    parameters = checked(slug, given or {}, preset)
    weights = weight_hashes(slug, parameters.get("model"))
    id = run_id(slug, parameters, weights)
    home = runs_folder() / slug
    folder = home / id
    check_inside(folder)
    if not force and (record := known_record(folder, parameters, None)):
        return Run(folder, record, fresh=False)
    with disk_errors(home), only_one(home, id, stream):
        if not force and (record := known_record(folder, parameters, stream)):  # written while this process waited
            return Run(folder, record, fresh=False)
        return run_now(slug, id, parameters, weights, preset, timeout, prewarmed, stream)


def known_record(folder: Path, parameters: dict[str, Any], stream: TextIO | None) -> dict[str, Any] | None:
    """Return the record of a finished run; None where there is none, or a damaged one, which `stream` is told."""
    try:
        return finished_record(folder, parameters)
    except StudyError as error:
        if stream is not None:
            print(f"{folder.parent.name} {folder.name}: damaged: {error.cause}; running again", file=stream, flush=True)
        return None


def run_now(
    slug: str,
    id: str,
    parameters: dict[str, Any],
    weights: dict[str, str],
    preset: str | None,
    timeout: int,
    prewarmed: bool | None,
    stream: TextIO | None,
) -> Run:
    """Execute a checked run and write its record."""
    home = runs_folder() / slug
    folder = home / id
    remove_stale(home, id)
    part = home / f".{id}.{platform.node()}.{os.getpid()}.part"
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        with disk_errors(part):
            (part / "figures").mkdir(parents=True)
        seconds, outcome = execute(
            slug,
            part,
            parameters,
            model=parameters.get("model"),
            timeout=timeout,
            stream=stream,
            prewarmed=prewarmed_wanted() if prewarmed is None else prewarmed,
        )
        record = {
            "slug": slug,
            "run_id": id,
            "status": "finished",
            "params": parameters,
            "preset": preset,
            "seconds": round(seconds, 2),
            "peak_memory_mib": outcome["peak_memory_mib"],
            "device": outcome["device"],
            "versions": outcome["versions"],
            "hardware": outcome["hardware"],
            "weights": weights,
            "git_commit": git_commit(),
            "started_at": started,
            "metrics": outcome["metrics"],
            "claims": outcome["claims"],
        }
        if "effects" in outcome:
            record["effects"] = outcome["effects"]
        (part / OUTCOME).unlink()
        write_atomically(part / RECORD, json.dumps(record, indent=2, allow_nan=False) + "\n")
        with disk_errors(folder):
            replace_folder(part, folder)
    except StudyError as error:
        raise keep_failed(error, part, home / f"{id}.failed") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    remove(home / f"{id}.failed")
    return Run(folder, record, fresh=True)


def checked(slug: str, given: dict[str, Any], preset: str | None = None) -> dict[str, Any]:
    """Return all parameters of a run after every check that needs no kernel, model and device included."""
    paper_folder(slug)
    checks = Checks(slug)
    given = checks.absolute_folders(preset_values(slug, preset) | given)
    return check_place(slug, checks.all_values(given))


def check_place(slug: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return checked parameters with the model's folder as an absolute path, if model and device are to be had here."""
    if "model" in parameters:
        default = read_parameters(notebook_path(slug))["model"].default
        parameters = parameters | {"model": check_model(parameters["model"], default)}
    device = parameters.get("device")
    if isinstance(device, str) and device.startswith("cuda"):
        import torch

        present, number = torch.cuda.device_count(), device.partition(":")[2] or "0"
        if not number.isdigit() or int(number) >= present:
            raise StudyError(
                f"device {device} is asked for, but torch sees {present} CUDA devices here",
                "Use device=cpu, or install a CUDA build of torch; `study doctor` shows what is there",
            )
    return parameters


def execute(
    slug: str,
    run_dir: Path,
    parameters: dict[str, Any],
    *,
    model: Any,
    timeout: int,
    stream: TextIO | None,
    prewarmed: bool = False,
) -> tuple[float, dict[str, Any]]:
    """Execute the notebook into `run_dir`; return its seconds and what its last cell recorded there.

    `parameters` are injected, none for the notebook as it stands; `model` is the one it will load.
    """
    from studylib.running import engine  # papermill takes a second and a half to import

    path = notebook_path(slug)
    seconds = engine.execute(
        path, run_dir, parameters, timeout=timeout, model=model, stream=stream, prewarmed=prewarmed
    )
    if not (run_dir / OUTCOME).is_file():
        cause = f"{path.name} ran to its end without record(...)"
        raise StudyError(cause, f'End it with record("{slug}", metrics=..., claims=...)', exit_code=1)
    return seconds, read_json(run_dir / OUTCOME, "Run it again")


def prewarmed_wanted() -> bool:
    """Whether runs take prewarmed kernels on this machine: on Linux, unless STUDY_KERNELS is "plain"."""
    return sys.platform.startswith("linux") and os.environ.get("STUDY_KERNELS") != "plain"


def git_commit() -> str | None:
    """Return the checkout's commit, with "+changes" when tracked files differ from it; None without git."""
    command = ["git", "-C", str(find_root())]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if commit.returncode:
            return None
        clean = (
            subprocess.run([*command, "diff", "--quiet", "HEAD"], capture_output=True, timeout=30).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() + ("" if clean else "+changes")
