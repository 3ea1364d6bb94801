"""Where a template listens and how requests travel; standard library only, so that a launcher starts fast."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
TEMPLATE = "studylib.running.kernels.template"
# a template takes six seconds on an idle machine; Jupyter's clients give a kernel sixty to start
START_SECONDS = float(os.environ.get("STUDY_KERNELS_START", 40))
MAX_PATH, SOCKET = 100, f"{'0' * 16}.socket"  # bytes that the path of a socket may have; a name as long as any
ENDINGS = (".socket", ".pid", ".log", ".lock")  # of the files of one template
REQUEST_BYTES = 16 << 20  # an environment of this size is a mistake
# variables that are read when a library is imported: kernels that differ in one of them need different templates
READ_AT_IMPORT = (
    "CUDA_", "DIFFUSERS_", "GOMP_", "HF_", "HOME", "HUGGINGFACE_", "IPYTHON", "KMP_", "LANG", "LC_", "LD_", "MALLOC_",
    "MKL_", "MPL", "NUMEXPR_", "NUMPY_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH",
    "TRANSFORMERS_", "TZ", "USE_", "XDG_",
)  # fmt: skip
READ_LATER = ("CUDA_VISIBLE_DEVICES", "PYTHONBREAKPOINT", "PYTHONPATH")  # by the kernel, or by `become_kernel`


class Unavailable(Exception):
    """Why no prewarmed kernel can be had."""


def private_folder() -> Path:
    """This user's folder for sockets, made if need be; Unavailable if another could write to it."""
    homes = [os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), "/tmp"]
    folders = [Path(home).absolute() / f"study-kernels-{os.getuid()}" for home in homes]
    short = [folder for folder in folders if len(os.fsencode(folder / SOCKET)) <= MAX_PATH]
    if not short:
        raise Unavailable(f"{folders[0]} is too long a path for a socket")
    folder = short[0]
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Unavailable(f"{folder} is not a folder that only you can enter")
    return folder


def library_stamp() -> str:
    """A hash that changes with any file of this package and with any installation into this Python."""
    files = sorted(PACKAGE.rglob("*.py"))
    stamps = [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    for name in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        stamps.append((name, 0, os.stat(name).st_mtime_ns))
    return hashlib.sha256(repr(sorted(stamps)).encode()).hexdigest()


def template_name(environment: dict[str, str]) -> str:
    """The name of the template that fits this interpreter, library, environment and place among the processes."""
    read = {k: v for k, v in environment.items() if k.startswith(READ_AT_IMPORT) and k not in READ_LATER}
    parts = [sys.executable, sys.version, library_stamp(), sorted(read.items()), handed_down()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def handed_down() -> list[Any]:
    """What a process has from the one that started it, and a kernel would have from its template: cores, priority,
    limits, control group."""
    import resource  # not on Windows

    kinds = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in kinds]
    group = Path("/proc/self/cgroup").read_text()
    return [sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0), limits, group]


def connect(environment: dict[str, str]) -> socket.socket:
    """A connection to the fitting template, which is started if none is running; Unavailable says why not."""
    if not sys.platform.startswith("linux"):
        raise Unavailable(f"they need Linux, this is {sys.platform}")
    try:
        path = private_folder() / f"{template_name(environment)}.socket"
        with contextlib.suppress(OSError):
            return dial(path)
        with locked(path.with_suffix(".lock")):  # of several launchers one starts the template
            with contextlib.suppress(OSError):
                return dial(path)
            return start_template(path, environment)
    except OSError as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error


def dial(path: Path) -> socket.socket:
    """Connect to the socket file; OSError if nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def start_template(path: Path, environment: dict[str, str]) -> socket.socket:
    """Start a template that outlives this process, unless one is about to listen, and wait for it."""
    born, log, process = path.with_suffix(".pid"), path.with_suffix(".log"), None
    sweep(path.parent)
    if not is_template(born):
        path.unlink(missing_ok=True)
        kept = {k: v for k, v in environment.items() if k not in READ_LATER}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", TEMPLATE, str(path)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
                env={**kept, "PYTHONPATH": str(PACKAGE.parent)},
            )  # fmt: skip
        born.write_text(str(process.pid))
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            return dial(path)
        if process.poll() is not None if process else not is_template(born):
            raise Unavailable(f"the template process ended: {error_line(log)}; see {log}")
        time.sleep(0.02)
    raise Unavailable(f"the template process is not ready after {START_SECONDS:.0f} s; see {log}")


def error_line(log: Path) -> str:
    """The line of a log that names an error, else its last."""
    said = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in said if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)), said[-1])


def is_template(born: Path) -> bool:
    """Whether the process whose number is in this file lives and is a template."""
    try:
        words = Path("/proc", born.read_text(), "cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):  # no process, or no number
        return False
    return TEMPLATE.encode() in words  # a dead child that nobody has waited for has no words


def sweep(folder: Path) -> None:
    """Remove what dead templates left: socket, number, log and lock; what a launcher is at stays."""
    for name in {path.stem for path in folder.iterdir() if path.suffix in ENDINGS}:
        files = [folder / f"{name}{ending}" for ending in ENDINGS]
        with contextlib.suppress(BlockingIOError), locked(folder / f"{name}.lock", wait=False):
            if not is_template(folder / f"{name}.pid"):
                for file in files:
                    file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file of its own; the system frees it if this process dies.

    BlockingIOError if another holds it and `wait` is false.
    """
    import fcntl  # not on Windows

    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it was swept away
                yield
                return


def send(connection: socket.socket, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
    """Send a message, its length first, with open files beside it."""
    body = json.dumps(message).encode()
    header = len(body).to_bytes(4, "big")
    if files:
        socket.send_fds(connection, [header], files)
    else:
        connection.sendall(header)
    connection.sendall(body)


def receive(connection: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]]:
    """The next message and the open files beside it; EOFError when the other side is gone."""
    header, received, _, _ = socket.recv_fds(connection, 4, files) if files else (connection.recv(4), [], 0, None)
    length = int.from_bytes(header + exactly(connection, 4 - len(header)), "big") if header else 0
    if not 0 < length <= REQUEST_BYTES:
        raise EOFError
    return json.loads(exactly(connection, length)), list(received)


def exactly(connection: socket.socket, count: int) -> bytes:
    """Read `count` bytes; EOFError if the other side closes before."""
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts
