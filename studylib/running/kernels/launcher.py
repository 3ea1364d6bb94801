"""What the kernelspec `study` starts: asks the template for a kernel, then stands for it until it ends.

Signals go on to the kernel; the kernel dies with this process, and this process ends as the kernel ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import zlib
from typing import NoReturn

from studylib.files import open_standard_files
from studylib.running.kernels.rendezvous import Unavailable, connect, private_folder, receive, send
from studylib.running.kernels.watch import LOOK_SECONDS, client, kill_group, lives, remove_folder

PLAIN = [sys.executable, "-m", "studylib.running.kernels.plain"]


def main(arguments: list[str]) -> NoReturn:
    """Start a kernel with ipykernel's own arguments and end when it ends."""
    owner = client()
    open_standard_files()
    try:
        connection = connect(dict(os.environ))
        pid = ask(connection, arguments)
    except Unavailable as reason:
        say_once(f"no prewarmed kernel ({reason}); plain ones take its place, which start slower")
        os.execv(sys.executable, [*PLAIN, *arguments])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: forward(pid, number))
    status = wait(connection, pid, owner)
    if os.getppid() != owner:
        remove_folder(arguments)
    end_as(status)


def ask(connection: socket.socket, arguments: list[str]) -> int:
    """Have a kernel forked with this process's folder, environment and open files; its process id."""
    umask = os.umask(0o077)
    os.umask(umask)
    request = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ), "umask": umask}
    try:
        send(connection, request, (0, 1, 2))
        answer, _ = receive(connection)
    except (OSError, EOFError) as error:
        raise Unavailable(f"the template process closed the connection {error}".rstrip()) from error
    if "pid" not in answer:
        raise Unavailable(str(answer.get("refused")))
    return answer["pid"]


def wait(connection: socket.socket, pid: int, owner: int | None) -> int:
    """Wait for the kernel; its exit status, negative for a signal. When the client is gone, the kernel is ended.

    The template buries the kernel and what it started. Where the template was killed before, this process does.
    """
    dead = False
    while os.getppid() == owner:
        if select.select([connection], [], [], LOOK_SECONDS)[0]:
            with contextlib.suppress(OSError, EOFError):
                return receive(connection)[0]["status"]
            dead = True
        if dead:  # for a second look no template has said how it ended; a forked child may hold the connection open
            kill_group(pid)
            return -signal.SIGKILL
        dead = not lives(pid)
    kill_group(pid)
    return -signal.SIGTERM


def forward(pid: int, number: int) -> None:
    """Send a signal on to the kernel."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end_as(status: int) -> NoReturn:
    """End as the kernel ended: with its status, or by the signal that killed it."""
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def say_once(text: str) -> None:
    """Say it on standard error, but not again and again on this machine to this user."""
    marker = None
    with contextlib.suppress(OSError, AttributeError, Unavailable):  # AttributeError: no os.getuid on Windows
        marker = private_folder() / f"said-{zlib.crc32(text.encode()):08x}"
    if marker is None or not marker.exists():
        print(f"study: {text}", file=sys.stderr, flush=True)
    if marker is not None:
        marker.touch()


if __name__ == "__main__":
    main(sys.argv[1:])
