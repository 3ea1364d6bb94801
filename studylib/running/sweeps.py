"""One notebook at many points: a grid of parameters, checked as a whole, run in parallel, resumed where it stopped."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from tqdm import tqdm

from studylib.errors import StudyError
from studylib.evidence.paper import load_results
from studylib.files import write_atomically
from studylib.running.fingerprint import Identity, weight_hashes
from studylib.running.grid import check_size, expand
from studylib.running.parameters import Checks, preset_values
from studylib.running.pool import Calls, Ended, Pool
from studylib.running.runs import check_place, known_record, run
from studylib.workspace import paper_folder, runs_folder

State = Literal["missing", "done", "failed", "stopped"]


@dataclass
class Point:
    """One run of a sweep: what is asked for, the id its record will have, and what became of it."""

    number: int
    given: dict[str, Any]
    run_id: str
    state: State = "missing"
    seconds: float = 0.0
    error: str = ""
    where: str = ""  # the worker or node that ran it

    @property
    def shown(self) -> str:
        """The values that tell this point from the others."""
        return " ".join(f"{name}={value}" for name, value in self.given.items()) or "defaults"


@dataclass
class Sweep:
    """All points of a grid over one notebook; `fixed` values hold at each."""

    slug: str
    grid: dict[str, list[Any]]
    fixed: dict[str, Any]
    preset: str | None
    points: list[Point] = field(default_factory=list)

    @property
    def sweep_id(self) -> str:
        """The same for the same points of the same code, whatever their order or how often they were started."""
        return hashlib.sha256("".join(sorted(p.run_id for p in self.points)).encode()).hexdigest()[:12]

    def missing(self) -> list[Point]:
        """The points without a finished record, in order."""
        return [point for point in self.points if point.state != "done"]

    def save(self) -> Path:
        """Write `runs/<slug>/sweeps/<sweep id>.json`: the grid and what became of each point."""
        path = runs_folder() / self.slug / "sweeps" / f"{self.sweep_id}.json"
        content = {
            "sweep_id": self.sweep_id,
            "slug": self.slug,
            "grid": self.grid,
            "fixed": self.fixed,
            "preset": self.preset,
            "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "points": [
                {"params": p.given, "run_id": p.run_id, "status": p.state, "seconds": p.seconds, "error": p.error}
                for p in self.points
            ],
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        return path


def plan(slug: str, grid: dict[str, list[Any]], fixed: dict[str, Any], preset: str | None = None) -> Sweep:
    """Every point of the grid, each checked as a run is, before any starts; StudyError names the first that does not
    fit. Points that have a finished record already are `done`."""
    both = [name for name in grid if name in fixed]
    if both:
        raise StudyError(f"{', '.join(both)} is given by -g and by -p", "Keep one of the two")
    size = check_size(grid)
    paper_folder(slug)
    checks = Checks(slug)
    common = checks.absolute_folders(preset_values(slug, preset) | fixed)
    sweep = Sweep(slug, grid, {name: common[name] for name in fixed}, preset)
    places: dict[tuple[Any, Any], dict[str, Any]] = {}  # model, device -> the model as it was checked
    checked: list[tuple[dict[str, Any], dict[str, Any]]] = []  # given, all
    for number, given in enumerate(expand(grid), start=1):
        try:
            given = checks.absolute_folders(given)
            values = checks.all_values(common | given)
            where = values.get("model"), values.get("device")
            if where not in places:
                found = check_place(slug, values)
                places[where] = {"model": found["model"]} if "model" in found else {}
        except StudyError as error:
            raise StudyError(f"point {number} of {size} ({given}): {error.cause}", error.remedy) from error
        checked.append((given, values | places[where]))
    identity, home = Identity(slug), runs_folder() / slug
    weights = {model: weight_hashes(slug, model) for model in {values.get("model") for _, values in checked}}
    for number, (given, values) in enumerate(checked, start=1):
        point = Point(number, given, identity.run_id(values, weights[values.get("model")]))
        if record := known_record(home / point.run_id, values, None):
            point.state, point.seconds = "done", record["seconds"]
        sweep.points.append(point)
    return sweep


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    retries: int = 1,
    timeout: int = 600,
    prewarmed: bool | None = None,
    stream: TextIO | None = None,
    run_calls: Callable[[Calls], Iterator[Ended]] | None = None,
) -> Sweep:
    """Run the points that have no finished record, `jobs` at a time; what became of each is left in the sweep's points.

    A point that fails does not stop the others. A kernel that the system killed is given `retries` more tries.
    `run_calls` runs them elsewhere than in processes of this machine. Interrupted, the points that were running count
    as `stopped`, and the sweep is saved as far as it came.
    """
    from studylib.running import (
        engine,  # once, for all workers that are forked from this process; it takes a second and a half
    )

    if not sweep.missing():  # no worker, no cluster
        SweepProgress(sweep, stream).close()
        sweep.save()
        return sweep
    by_number = {point.number: point for point in sweep.points}

    def call(point: Point) -> tuple[int, Callable[..., Any], tuple[Any, ...]]:
        arguments = (sweep.slug, sweep.fixed | point.given, sweep.preset, timeout, prewarmed, point.run_id)
        return point.number, run_point, arguments

    calls: Calls = deque(map(call, sweep.missing()))
    run_calls = run_calls or Pool(jobs, worker_environments(jobs)).run
    tries = dict.fromkeys(by_number, 0)
    progress = SweepProgress(sweep, stream)
    for point in sweep.missing():
        point.state = "stopped"
    try:
        sweep.save()
        with engine.termination_as_interrupt(), contextlib.closing(run_calls(calls)) as ends:
            for ended in ends:
                point = by_number[ended.number]
                tries[point.number] += 1
                lost = ended.lost or isinstance(ended.error, engine.KernelDied)
                if ended.error is not None and lost and tries[point.number] <= retries:
                    progress.say(f"{point.shown}: {ended.error.cause}; trying again")
                    calls.append(call(point))
                    continue
                if ended.error is not None:
                    point.state, point.error = "failed", str(ended.error)
                else:
                    point.state, point.seconds = "done", ended.value
                progress.ended(point)
    finally:
        progress.close()
        sweep.save()
    return sweep


def estimate(sweep: Sweep, jobs: int) -> str:
    """Say how long the missing points of a sweep will take, by what finished ones took, else by the rendered notebook;
    nothing where nothing is known."""
    missing = len(sweep.missing())
    times = [point.seconds for point in sweep.points if point.state == "done" and point.seconds]
    results = load_results(sweep.slug) or {}
    seconds = statistics.median(times) if times else results.get("seconds")
    if not missing or not isinstance(seconds, int | float):
        return ""
    minutes = seconds * math.ceil(missing / jobs) / 60
    source = "a point that is done" if times else "the rendered notebook"
    return f", about {max(1, round(minutes))} minutes with --jobs {jobs} (as {source} took {seconds:.0f} s)"


def run_point(
    slug: str, given: dict[str, Any], preset: str | None, timeout: int, prewarmed: bool | None, id: str
) -> float:
    """Run one point; the seconds its notebook took. StudyError if the code has changed since the sweep was planned."""
    done = run(slug, given, preset=preset, timeout=timeout, prewarmed=prewarmed)
    if done.record["run_id"] != id:
        cause = f"code or weights changed while the sweep ran: this is run {done.record['run_id']}, not {id}"
        raise StudyError(cause, "Start the sweep again; it takes the new code for all points", exit_code=1)
    return done.record["seconds"]


def worker_environments(jobs: int) -> list[dict[str, str]]:
    """For each of `jobs` workers its share of the processor's cores and, where there are several GPUs, one of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:  # counted without a CUDA call: one before a fork would spoil CUDA in the workers
        gpus = [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu.strip()]
    if len(gpus) < 2:
        return [threads] * jobs
    return [threads | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs)]


class SweepProgress:
    """One display for all points: a bar on a terminal, a line a point in a log, nothing without a stream."""

    def __init__(self, sweep: Sweep, stream: TextIO | None) -> None:
        self.sweep, self.stream, self.total = sweep, stream, len(sweep.points)
        self.count = self.total - len(sweep.missing())
        self.bar = None
        if stream is not None and stream.isatty():
            tqdm.monitor_interval = 0  # its thread would not survive the forks
            self.bar = tqdm(total=self.total, initial=self.count, desc=sweep.slug, unit="run", file=stream, leave=False)
        elif stream is not None and self.count:
            self.say(f"{self.count} of {self.total} points are already done")

    def ended(self, point: Point) -> None:
        """Count a point and, in a log, tell how it ended."""
        self.count += 1
        how = f"{point.seconds:.1f} s, {point.run_id}" if point.state == "done" else f"FAILED, {point.error}"
        if self.bar is not None:
            self.bar.update(1)
        if self.bar is None or point.state == "failed":
            self.say(f"[{self.count}/{self.total}] {point.shown}: {how}")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        elif self.stream is not None:
            print(f"{self.sweep.slug}: {line}", file=self.stream, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
