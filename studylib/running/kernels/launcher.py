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

from studylib.running.kernels.rendezvous import Unavailable, connect, private_folder, receive, send

WATCH_SECONDS = 1.0  # between looks whether the client that started this process is alive
PLAIN = [sys.executable, "-m", "ipykernel_launcher"]


def main(arguments: list[str]) -> NoReturn:
    """Start a kernel with ipykernel's own arguments and end when it ends."""
    client = os.getppid()
    try:
        connection = connect(dict(os.environ))
        pid = ask(connection, arguments)
    except Unavailable as reason:
        say_once(f"no prewarmed kernel ({reason}); plain ones take its place, which start slower")
        os.execv(sys.executable, [*PLAIN, *arguments])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: forward(pid, number))
    end_as(wait(connection, client))


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


def wait(connection: socket.socket, client: int) -> int:
    """Wait for the kernel; its exit status, negative for a signal. Returns when the client is gone as well: with this
    process the kernel ends."""
    while os.getppid() == client:
        if select.select([connection], [], [], WATCH_SECONDS)[0]:
            try:
                return receive(connection)[0]["status"]
            except (OSError, EOFError):  # the template was killed before, the kernel has ended now
                return -signal.SIGKILL
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
