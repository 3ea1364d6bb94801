"""This machine and this process: memory held at most, the device used, versions of what decides a picture."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studylib import __version__

PACKAGES = (
    "torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate", "numpy", "scipy", "pillow"
)  # fmt: skip
PROC = Path("/proc")  # Linux
STATUS, RESET, CPUINFO = PROC / "self" / "status", PROC / "self" / "clear_refs", PROC / "cpuinfo"
_earlier = 0.0  # the highest peak from before the system's mark was last reset


@dataclass
class Peak:
    """What `peak_of` found, in MiB; 0 until its block has ended."""

    mib: float = 0.0


def peak_memory_mib() -> float:
    """Return the most memory this process has held, in MiB."""
    return round(max(_earlier, _peak()), 1)


@contextmanager
def peak_of(device: str = "cpu") -> Iterator[Peak]:
    """Measure the most memory that the block holds beyond what was held before it; on a CUDA device, of the device.

    Where the system's mark cannot be reset (not Linux) only what exceeds the process's earlier peak is seen.
    """
    global _earlier
    peak = Peak()
    if device.startswith("cuda"):
        import torch  # the command line measures memory without it

        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        yield peak
        peak.mib = (torch.cuda.max_memory_allocated(device) - held) / 2**20
        return
    _earlier = max(_earlier, _peak())
    held = _reset()
    yield peak
    peak.mib = max(0.0, _peak() - held)


def _reset() -> float:
    """Set the peak back to what is held now, and return that in MiB.

    What earlier work has freed goes back to the system first, else it would hide what the block needs.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # glibc's
        trim(0)
    try:
        RESET.write_text("5")
    except OSError:  # no such file, or one that this system keeps closed
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    if STATUS.is_file():  # ru_maxrss would count the process that started this one as well
        return _status("VmHWM")
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def device_name() -> str:
    """Name the device this process has used: a CUDA device's name once it was initialised, else cpu."""
    torch = sys.modules.get("torch")  # a notebook without torch need not import it to say so
    if torch is not None and torch.cuda.is_initialized():
        return f"cuda: {torch.cuda.get_device_name()}"
    if torch is not None and torch.backends.mps.is_available() and torch.mps.current_allocated_memory() > 0:
        return "mps"
    return "cpu"


def versions() -> dict[str, str]:
    """Return the versions of Python, this library and the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "studylib": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def hardware() -> dict[str, str]:
    """What decides the last digits of a float32 result besides the versions: the processor and, where this process
    has imported torch, its instruction set, threads and math library."""
    found = {"processor": _processor()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = str(torch.get_num_threads())
        found["math"] = "MKL" if torch.backends.mkl.is_available() else "without MKL"
    return found


def _processor() -> str:
    if CPUINFO.is_file():
        named = (line.partition(":") for line in CPUINFO.read_text(errors="replace").splitlines())
        for name in (value.strip() for key, _, value in named if key.strip() == "model name"):
            return name
    return platform.processor() or platform.machine()
