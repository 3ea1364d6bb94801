"""What a run costs besides the notebook's own work: `python tests/bench/bench_runs.py`.

The notebook imports torch and a pipeline class and records one number: all its time is overhead. The settings
take turns on the same notebook; medians and the median ratios of the pairs are printed beside their bars. A few minutes
on an idle machine; on a busy one the ratios hold better than the seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jupyter_client.manager import start_new_kernel
from mini_workspace import PARAMETERS, code, make_workspace, write_notebook

from studylib.running import runs, sweeps
from studylib.running.pool import Pool
from studylib.workspace import import_paths, kernelspec_path

IMPORTS = "import torch\nfrom diffusers import StableDiffusionPipeline"
RECORD = 'from studylib.evidence.outcome import record\nrecord("mini", metrics={"steps": steps})'
BARS = {"papermill command": 1 / 8, "papermill API": 1 / 5}  # a prewarmed run may take this share of theirs
POINT_BAR = 0.050  # seconds a point of a sweep
PLAN_BAR = 0.002  # seconds to plan a point


def papermill_command(notebook: Path, number: int) -> None:
    """A run as papermill's users start it."""
    command = [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar"]
    output = notebook.with_name(f"out{number}.ipynb")
    subprocess.run([*command, notebook, output, "-p", "steps", str(number)], check=True, capture_output=True)


def papermill_api(notebook: Path, number: int) -> None:
    """A run by papermill's Python interface in a process that lives on, with its kernel stopped at once."""
    import papermill

    options = {"progress_bar": False, "shutdown_kernel": "immediate", "cwd": notebook.parent}
    papermill.execute_notebook(notebook, notebook.with_name(f"api{number}.ipynb"), {"steps": number}, **options)


def prewarmed(_: Path, number: int) -> None:
    """A run of this library in a forked kernel, checks and record included."""
    runs.run("mini", {"steps": number}, prewarmed=True, force=True)


def seconds(function: Callable[[Path, int], None], notebook: Path, number: int) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function(notebook, number)
    return time.perf_counter() - start


def compare_runs(notebook: Path, rounds: int) -> None:
    """Single runs, all settings in turn."""
    settings = {"papermill command": papermill_command, "papermill API": papermill_api, "prewarmed run": prewarmed}
    for function in settings.values():
        function(notebook, 0)  # starts the template, fills the disk cache
    times = {name: [] for name in settings}
    for number in range(1, rounds + 1):
        for name, function in settings.items():
            times[name].append(seconds(function, notebook, number))
    for name, values in times.items():
        print(f"{name:20} median {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    for name, bar in BARS.items():
        ratio = statistics.median(a / b for a, b in zip(times["prewarmed run"], times[name], strict=True))
        print(f"prewarmed / {name}: {ratio:.3f} (bar {bar:.3f}: {'met' if ratio <= bar else 'missed'})")


def compare_sweeps(notebook: Path, points: int = 8) -> None:
    """Eight points: a shell loop of papermill commands against a sweep with two jobs, twice in turn."""
    ratios = []
    for turn in range(2):
        start = time.perf_counter()
        for number in range(points):
            papermill_command(notebook, number)
        loop = time.perf_counter() - start
        start = time.perf_counter()
        first = 1000 + turn * points
        plan = sweeps.plan("mini", {"steps": list(range(first, first + points))}, {})
        sweeps.run_sweep(plan, jobs=2, prewarmed=True)
        sweep = time.perf_counter() - start
        ratios.append(loop / sweep)
        print(f"{points} points: shell loop {loop:.1f} s, sweep with 2 jobs {sweep:.1f} s: {loop / sweep:.1f} times")


def private_mib(pid: int) -> float:
    """Memory that only this process has, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_", "Swap:"))) / 1024


def compare_memory() -> None:
    """What one more kernel costs, after the imports."""
    os.environ |= kernelspec_path() | import_paths()
    for name in ("python3", "study"):
        manager, client = start_new_kernel(kernel_name=name, startup_timeout=120)
        said: list[str] = []
        client.execute_interactive(
            f"{IMPORTS}\nimport os; print(os.getpid())",
            output_hook=lambda m, said=said: said.append(m["content"].get("text", "")),
        )
        print(f"kernel {name:8} private memory {private_mib(int(''.join(said).split()[-1])):.0f} MiB")
        manager.shutdown_kernel(now=True)


def measure_growth() -> None:
    """Scheduling alone, from 1 to 64 points that do nothing."""
    for points in (1, 4, 16, 64):
        calls = deque((number, _nothing, ()) for number in range(points))
        start = time.perf_counter()
        ended = list(Pool(2, [{}, {}]).run(calls))
        cost = (time.perf_counter() - start) / points
        assert len(ended) == points and all(e.value for e in ended)
        state = "met" if cost <= POINT_BAR else "missed"
        print(f"{points:3} points: {1000 * cost:.1f} ms a point (bar {1000 * POINT_BAR:.0f}: {state})")


def measure_planning() -> None:
    """What a point of a sweep costs before the first one starts: the notebook and the card are parsed once for all."""
    sweeps.plan("mini", {"steps": [0]}, {})  # hashes of weights are kept from here on
    for points in (10, 100, 1000):
        start = time.perf_counter()
        sweeps.plan("mini", {"steps": list(range(points))}, {})
        cost = (time.perf_counter() - start) / points
        state = "met" if cost <= PLAN_BAR else "missed"
        print(f"{points:4} points planned: {1000 * cost:.2f} ms a point (bar {1000 * PLAN_BAR:.0f}: {state})")


def _nothing() -> bool:
    return True


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each setting")
    rounds = parser.parse_args().rounds
    measure_growth()  # first: this process is still small
    root = Path(tempfile.mkdtemp(prefix="study-bench-"))
    try:
        os.environ["STUDY_ROOT"] = str(make_workspace(root))
        os.environ |= import_paths()
        notebook = root / "notebooks" / "mini.ipynb"
        write_notebook(notebook, [code(PARAMETERS, "parameters"), code(IMPORTS), code(RECORD)])
        measure_planning()
        compare_runs(notebook, rounds)
        compare_sweeps(notebook)
        compare_memory()
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
