"""Looks at the machine and the installation; each finding is ok, a warning or a failure with its remedy."""

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from studylib.errors import StudyError
from studylib.evidence.card import load_card, read_toml
from studylib.evidence.paper import load_presets
from studylib.files import disk_errors
from studylib.models import files
from studylib.running.kernels.rendezvous import Unavailable, private_folder
from studylib.running.parameters import check_parameters
from studylib.workspace import find_root, kernelspec_path, written_papers

NEEDED_MIB = 3 * 1024  # what a notebook may use on the tiny world
HUB_SECONDS = 2.0
PREWARMED = "study"  # the kernelspec's name
TESTED_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One line of the report: its state, what was looked at, what was seen, what to do."""

    state: Literal["ok", "warn", "fail"]
    what: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:4}  {self.what}: {self.seen}" + (f". {self.remedy}" if self.remedy else "")


def examine() -> Iterator[Finding]:
    """Yield the findings, the quick ones first; needs no network and never raises for what it finds."""
    yield python_version()
    try:
        root = find_root()
    except StudyError as error:
        yield Finding("fail", "workspace", error.cause, error.remedy)
        return
    yield Finding("ok", "workspace", str(root))
    yield from packages(root / "pyproject.toml")
    yield from weights()
    yield from papers()
    yield devices()
    yield threads()
    yield kernels()
    yield kernelspec()
    yield memory()
    yield disk(root)
    yield browser()
    yield hub()


def python_version() -> Finding:
    """Check the interpreter against the version the environment was tested with."""
    seen = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] != TESTED_PYTHON:
        return Finding(
            "warn", "python", seen, "Tested with Python 3.11; pictures may differ in their last digits"
        )
    return Finding("ok", "python", seen)


def packages(pyproject: Path) -> Iterator[Finding]:
    """Compare installed packages with what pyproject.toml asks for; absent extras only warn."""
    if not pyproject.is_file():
        yield Finding("warn", "packages", f"{pyproject} is absent, so versions were not compared")
        return
    try:
        project = read_toml(pyproject)["project"]
        wanted = {Requirement(text): "fail" for text in project["dependencies"]}
        wanted |= {Requirement(text): "warn" for text in project["optional-dependencies"]["test"]}
    except (StudyError, KeyError, TypeError, AttributeError, ValueError) as error:
        yield Finding("fail", "packages", f"{pyproject} does not say what is needed: {error}", "Restore that file")
        return
    right = 0
    for requirement, state in wanted.items():
        text = str(requirement)
        remedy = f"pip install '{text}'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(state, requirement.name, "not installed", remedy)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            right += 1
        else:
            yield Finding(state, requirement.name, f"{version}, asked for {requirement.specifier}", remedy)
    yield Finding("ok", "packages", f"{right} of {len(wanted)} as asked for")


def weights() -> Iterator[Finding]:
    """Check that the tiny world's weights are there and whole."""
    for name in ("sd", "vae", "clip", "dino", "judge"):
        folder = files.WEIGHTS / name
        found = sorted(folder.rglob("*.safetensors"))
        if not found:
            remedy = f"Restore studylib/weights/{name}, or train it: python -m studylib.recipes.{name}"
            yield Finding("fail", f"weights {name}", "missing", remedy)
            continue
        try:
            for path in found:
                files.check_safetensors(path)
        except StudyError as error:
            yield Finding("fail", f"weights {name}", error.cause, error.remedy)
        else:
            size = sum(path.stat().st_size for path in found) / 2**20
            yield Finding("ok", f"weights {name}", f"{len(found)} files, {size:.1f} MiB, whole")


def papers() -> Iterator[Finding]:
    """Check that every paper's card, presets and parameters cell fit together."""
    slugs = written_papers()
    sound = 0
    for slug in slugs:
        try:
            load_card(slug)
            for values in [{}, *load_presets(slug).values()]:
                check_parameters(slug, values)
        except StudyError as error:
            yield Finding("fail", f"paper {slug}", error.cause, error.remedy)
        else:
            sound += 1
    yield Finding("ok", "papers", f"{sound} of {len(slugs)} written ones are sound")


def devices() -> Finding:
    """Name the devices torch can use."""
    try:
        import torch
    except ImportError as error:
        return Finding("fail", "devices", f"torch does not import: {error}", "Install the pinned torch again")
    found = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    if found:
        return Finding("ok", "devices", ", ".join(found))
    return Finding(
        "ok", "devices", f"cpu only, {os.cpu_count()} cores: enough for model=tiny, hub models want a GPU"
    )


def threads() -> Finding:
    """Say how many threads torch takes, and how long one that waits for another keeps its core."""
    try:
        import torch
    except ImportError as error:
        return Finding("fail", "threads", f"torch does not import: {error}", "Install the pinned torch again")
    spin = os.environ.get("GOMP_SPINCOUNT")
    waiting = f"GOMP_SPINCOUNT={spin}" if spin else f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}"
    return Finding("ok", "threads", f"{torch.get_num_threads()} of torch, waiting as {waiting} says")


def kernels() -> Finding:
    """Tell whether runs start at once in prewarmed kernels."""
    if not sys.platform.startswith("linux"):
        return Finding("ok", "kernels", "plain: prewarmed ones need Linux")
    try:
        folder = private_folder()
    except (OSError, Unavailable) as error:
        remedy = "Remove that folder, or point XDG_RUNTIME_DIR to one of your own"
        return Finding("warn", "kernels", f"plain: {error}", remedy)
    count = len(list(folder.glob("*.socket")))
    return Finding("ok", "kernels", f"prewarmed, {count} waiting in {folder}")


def kernelspec() -> Finding:
    """Tell whether any Jupyter program of this environment finds the kernel `study` by its name."""
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs().get(PREWARMED)
    if found is None:
        seen = f"papermill and others do not find the kernel `{PREWARMED}`; `study` and `study lab` do"
        return Finding("warn", "kernelspec", seen, "study doctor --fix installs it")
    return Finding("ok", "kernelspec", found)


def install_kernelspec() -> str:
    """Put the kernelspec into this environment, for papermill, nbconvert, VS Code and others; return its folder."""
    from jupyter_client.kernelspec import KernelSpecManager

    source = Path(kernelspec_path()["JUPYTER_PATH"].split(os.pathsep)[0]) / "kernels" / PREWARMED
    with disk_errors(Path(sys.prefix)):
        return KernelSpecManager().install_kernel_spec(str(source), PREWARMED, prefix=sys.prefix)


def memory() -> Finding:
    """Check that a notebook's 3 GiB are free."""
    try:
        pages = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").open()}
        free = pages["MemAvailable"] // 1024
    except (OSError, KeyError, ValueError):
        return Finding(
            "warn", "memory", "this system does not say how much is free", f"Have {NEEDED_MIB} MiB"
        )
    if free < NEEDED_MIB:
        return Finding(
            "warn", "memory", f"{free} MiB free of {NEEDED_MIB} a notebook may use", "Close other programs"
        )
    return Finding("ok", "memory", f"{free} MiB free")


def disk(root: Path) -> Finding:
    """Check that run records fit on the disk."""
    free = shutil.disk_usage(root).free // 2**20
    if free < 512:
        return Finding("warn", "disk", f"{free} MiB free", "Remove old folders under runs/")
    return Finding("ok", "disk", f"{free} MiB free")


def browser() -> Finding:
    """Look for the browser the widget tests drive."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path:
            return Finding("ok", "browser", path)
    return Finding("warn", "browser", "no chromium, so browser tests are skipped", "apt-get install chromium")


def hub() -> Finding:
    """Try to open a connection to the hub, for two seconds; without it only hub models are out of reach."""
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=HUB_SECONDS).close()
    except OSError as error:
        return Finding(
            "warn", "hub", f"{address.hostname} not reached ({error})", "model=tiny needs no network"
        )
    return Finding("ok", "hub", f"{address.hostname} reached")
