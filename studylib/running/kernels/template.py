"""The process that has imported everything: it waits on a socket and forks a kernel for each launcher that asks.

It starts no thread, never touches CUDA and holds no state of any run. It leaves when the library changes or when no
kernel has been asked for in `IDLE_SECONDS`; kernels that run then go on.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from studylib.running.kernels.rendezvous import PACKAGE, library_stamp, receive, send
from studylib.running.kernels.watch import kill_group

IDLE_SECONDS = float(os.environ.get("STUDY_KERNELS_IDLE", 1200))
LOOK_SECONDS = 3.0  # between looks at the library's files
REQUEST_SECONDS = 5.0  # for a launcher to say what it wants
LIBRARIES = (
    "IPython.core.completer", "IPython.core.interactiveshell", "ipykernel.inprocess", "ipykernel.ipkernel",
    "ipykernel.kernelapp", "ipywidgets", "anywidget", "matplotlib.pyplot", "numpy", "PIL.Image", "PIL.WebPImagePlugin",
    "safetensors.torch", "torch", "transformers", "transformers.models.clip.modeling_clip", "diffusers", "peft",
)  # fmt: skip
CLASSES = {
    "diffusers": ("AutoencoderKL", "DDIMScheduler", "StableDiffusionPipeline", "UNet2DConditionModel"),
    "transformers": ("CLIPImageProcessor", "CLIPModel", "CLIPProcessor", "CLIPTextModel", "CLIPTokenizer", "ViTModel"),
}
NOT_IMPORTED = (  # no notebook needs these rooms and modules
    "studylib.cli", "studylib.recipes", "studylib.running.engine", "studylib.running.kernels",
    "studylib.running.render", "studylib.world.gallery",
)  # fmt: skip


def main(path: Path) -> None:
    """Import, listen at `path`, fork until it is time to leave."""
    stamp = library_stamp()
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel's own start does
    import_libraries()
    check_forkable()
    gc.collect()
    gc.freeze()  # what is here never becomes garbage: its pages stay shared
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    Template(listener, path, stamp).serve()


def import_libraries() -> None:
    """Import what notebooks import, this package's own modules included."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for library, names in CLASSES.items():
        for name in names:
            getattr(importlib.import_module(library), name)  # both libraries import a class when it is asked for
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        if file.stem != "__init__" and not f"{name}.".startswith(tuple(f"{left_out}." for left_out in NOT_IMPORTED)):
            importlib.import_module(name)


def check_forkable() -> None:
    """RuntimeError if a thread was started or CUDA initialised: a fork would copy neither in working order."""
    import torch

    if threading.active_count() > 1:
        raise RuntimeError(f"importing started threads: {threading.enumerate()}")
    if torch.cuda.is_initialized():
        raise RuntimeError("importing initialised CUDA, which does not survive a fork")


class Template:
    """Forks kernels on request and tells each launcher how its kernel ended."""

    def __init__(self, listener: socket.socket, path: Path, stamp: str) -> None:
        self.listener, self.path, self.stamp = listener, path, stamp
        self.kernels: dict[int, socket.socket] = {}  # process id -> its launcher
        self.selector = selectors.DefaultSelector()
        self.used = time.monotonic()

    def serve(self) -> None:
        """Until idle or stale: accept, bury, look. Then wait for the kernels that still run."""
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the end of a kernel wakes the loop
        signal.signal(signal.SIGTERM, self.leave)
        self.selector.register(wake, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while self.listener.fileno() >= 0 or self.kernels:
            for key, _ in self.selector.select(LOOK_SECONDS):
                if key.fileobj is wake:
                    wake.recv(4096)
                elif key.fileobj is self.listener:
                    self.accept()
                else:  # a launcher is gone, and its kernel goes with it
                    self.kill(key.data)
            self.bury()
            if self.listener.fileno() >= 0 and (self.idle() or not self.fits()):
                self.leave()

    def idle(self) -> bool:
        """Whether nobody has needed this process for a while."""
        return not self.kernels and time.monotonic() - self.used > IDLE_SECONDS

    def fits(self) -> bool:
        """Whether the library is what was imported and the socket is still this process's."""
        with contextlib.suppress(OSError):
            return self.path.exists() and library_stamp() == self.stamp
        return False

    def leave(self, *_: Any) -> None:
        """Take no more requests."""
        if self.listener.fileno() >= 0:
            born = self.path.with_suffix(".pid")
            with contextlib.suppress(OSError):  # or another has taken this one's place
                if born.read_text() == str(os.getpid()):
                    born.unlink()  # so that nobody waits for this process to listen again
                    self.path.unlink()
            self.selector.unregister(self.listener)
            self.listener.close()

    def accept(self) -> None:
        """Fork one kernel; whatever is wrong with a request is its sender's problem only."""
        try:
            connection, _ = self.listener.accept()
        except OSError as error:  # no more files may be opened: who asks is better served by another kernel
            print(f"leaving: {error!r}", file=sys.stderr, flush=True)
            self.leave()
            return
        self.used = time.monotonic()
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] != os.getuid():
                raise PermissionError("another user's request")
            connection.settimeout(REQUEST_SECONDS)
            request, files = receive(connection, files=3)
            connection.settimeout(None)
            if not self.fits():
                send(connection, {"refused": "the library has just changed"})
                raise PermissionError("stale")
            missing = {"arguments", "cwd", "environment", "umask"} - set(request)
            if missing or len(files) != 3:
                raise ValueError(f"incomplete: without {sorted(missing)}, {len(files)} files")
            self.fork(connection, request, files)
        except (OSError, EOFError, ValueError, KeyError) as error:
            print(f"request refused: {error!r}", file=sys.stderr, flush=True)
            connection.close()

    def fork(self, connection: socket.socket, request: dict[str, Any], files: list[int]) -> None:
        """In the child become a kernel, in this process remember it."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            try:
                self.forget()
                become_kernel(connection, request, files)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        for file in files:
            os.close(file)
        self.kernels[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):  # a launcher that is gone already is seen to be so in the loop
            send(connection, {"pid": pid})

    def forget(self) -> None:
        """In a child: drop what belongs to the template, so that its sockets close when it does."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def kill(self, pid: int) -> None:
        """Kill a kernel and what it started."""
        self.selector.unregister(self.kernels[pid])
        kill_group(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # had it no time yet to lead a group of its own

    def bury(self) -> None:
        """Collect the kernels that have ended and tell their launchers how."""
        for pid in list(self.kernels):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            kill_group(pid)  # before its number is free for another
            _, status = os.waitpid(pid, 0)
            connection = self.kernels.pop(pid)
            with contextlib.suppress(KeyError):  # its launcher was gone before
                self.selector.unregister(connection)
            with contextlib.suppress(OSError):
                send(connection, {"status": os.waitstatus_to_exitcode(status)})
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
            self.used = time.monotonic()


def become_kernel(connection: socket.socket, request: dict[str, Any], files: list[int]) -> NoReturn:
    """Take over the launcher's folder, files, environment and identity, then be ipykernel until told to stop."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file) if file > 2 else None
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reseed()
    threading.Thread(target=die_with, args=(connection,), daemon=True, name="launcher-watch").start()
    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    from ipykernel.kernelapp import IPKernelApp

    # the parent to watch is the launcher, not the template: 1 switches ipykernel's own watch off
    IPKernelApp.launch_instance(argv=[*request["arguments"], "--IPKernelApp.parent_handle=1"])
    leave_at_once(0)


def reseed() -> None:
    """Give this kernel random numbers of its own, as a new process has (`random` does it by itself)."""
    import numpy
    import torch

    numpy.random.seed(None)
    torch.default_generator.seed()


def die_with(connection: socket.socket) -> None:
    """End this kernel and what it started when its launcher is gone, even if the template no longer lives."""
    with contextlib.suppress(OSError):
        while connection.recv(4096):
            pass
    os.killpg(0, signal.SIGKILL)


def leave_at_once(status: int) -> NoReturn:
    """Run what was registered for the exit, but do not take libraries apart: that costs two seconds."""
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
