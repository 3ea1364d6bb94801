"""A plain kernel: ipykernel's own, but what it started ends with it when its client is gone."""

from __future__ import annotations

import os
import sys
import threading

from studylib.files import open_standard_files
from studylib.running.kernels.watch import client, end_with


def main(arguments: list[str]) -> None:
    """Be a kernel with ipykernel's own arguments."""
    open_standard_files()
    if sys.path[0] in ("", os.getcwd()):  # where `python -m` was called must not hide a library
        del sys.path[0]
    if os.name == "posix":
        threading.Thread(target=end_with, args=(client(), arguments), daemon=True, name="client-watch").start()
        arguments = [*arguments, "--IPKernelApp.parent_handle=1"]  # 1 switches ipykernel's own watch off
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
