"""Prewarmed kernels: like plain ones in all that a notebook or a client can see, only at once."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager
from mini_workspace import PARAMETERS, code, make_workspace, standard_cells, write_notebook
from prewarmed import gone, templates

from studylib.running import runs
from studylib.running.kernels import rendezvous
from studylib.workspace import PACKAGE, kernelspec_path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prewarmed kernels need Linux")
SECONDS = 180  # for anything that may first have to start a template on a busy machine


@contextlib.contextmanager
def kernel(environment, package=PACKAGE, **more):
    """A running kernel of the launcher in `package`: its manager and a connected client."""
    manager = KernelManager(kernel_name="study")
    argv = [sys.executable, "-m", "studylib.running.kernels.launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="study", language="python")
    manager.start_kernel(env={**environment, "PYTHONPATH": str(package.parent), **more}, cwd=str(package.parent))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def tell(client, source: str):
    """Run `source` in the kernel; what it printed, as JSON if it is some, or the error's name."""
    said = []
    reply = client.execute_interactive(
        textwrap.dedent(source), timeout=SECONDS,
        output_hook=lambda m: said.append(m["content"].get("text", "")) if m["msg_type"] == "stream" else None,
    )  # fmt: skip
    if reply["content"]["status"] == "error":
        return reply["content"]["ename"]
    try:
        return json.loads("".join(said))
    except ValueError:
        return "".join(said)


def test_kernels_come_from_one_template(environment, sockets):
    """The libraries must be there before the first cell, from one process, with no CUDA touched by it."""
    ask = """
        import json, os, sys
        print(json.dumps([os.getppid(), "torch" in sys.modules, "diffusers" in sys.modules, os.getcwd(),
                          sys.modules["torch"].cuda.is_initialized(), "studylib.denoisers.attention" in sys.modules]))
    """
    with kernel(environment) as (_, one), kernel(environment) as (_, two):
        first, second = tell(one, ask), tell(two, ask)
    assert first == second == [*templates(sockets), True, True, str(PACKAGE.parent), False, True]


def test_interrupt_and_restart(environment):
    """A reader stops a long cell, in Python or between calls into C, and starts afresh."""
    with kernel(environment) as (manager, client):
        for endless in ("time.sleep(0.01)", "torch.rand(300, 300).svd()"):
            client.execute(f"import time, torch\nprint('begun', flush=True)\nwhile True: {endless}")
            while client.get_iopub_msg(timeout=SECONDS)["msg_type"] != "stream":
                pass
            manager.interrupt_kernel()
            replies = iter(lambda: client.get_shell_msg(timeout=SECONDS), None)  # those about the kernel come late
            reply = next(message for message in replies if message["msg_type"] == "execute_reply")
            assert reply["content"]["ename"] == "KeyboardInterrupt"
            while client.get_iopub_msg(timeout=SECONDS)["content"].get("execution_state") != "idle":
                pass
        tell(client, "kept = 1")
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=SECONDS)
        assert tell(client, "kept") == "NameError"


def test_a_kernel_that_dies_is_seen_to_be_dead(environment):
    """Clients look at the launcher; it must not outlive its kernel, and must not hide how it ended."""
    with kernel(environment) as (manager, client):
        client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        end = time.monotonic() + 20
        while manager.is_alive() and time.monotonic() < end:
            time.sleep(0.05)
        assert not manager.is_alive()


@pytest.mark.parametrize("victim", ["launcher", "client"])
def test_no_orphan_is_left(environment, victim):
    """SIGKILL of the launcher, or of the program that started it: kernel and what it started end within 10 s."""
    script = f"""
        import json, sys
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import KernelManager
        manager = KernelManager(kernel_name="study")
        argv = [{sys.executable!r}, "-m", "studylib.running.kernels.launcher", "-f", "{{connection_file}}"]
        manager._kernel_spec = KernelSpec(argv=argv, display_name="study", language="python")
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout={SECONDS})
        said = []
        client.execute_interactive(
            "import os, subprocess; print(os.getpid(), subprocess.Popen(['sleep', '99']).pid)",
            output_hook=lambda m: said.append(m["content"].get("text", "")))
        print(manager.provisioner.pid, "".join(said), flush=True)
        sys.stdin.read()
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    launcher, *others = map(int, program.stdout.readline().split())
    os.kill(launcher if victim == "launcher" else program.pid, signal.SIGKILL)
    assert all(gone(pid) for pid in (launcher, *others))
    program.kill()
    program.wait()


@pytest.mark.parametrize("module", ["launcher", "plain"])
def test_a_client_killed_as_its_kernel_appears_leaves_none(environment, module):
    """The kernel's process looked at its parent when that was another already, and watched the wrong one for ever."""
    script = f"""
        import os, signal
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import KernelManager
        manager = KernelManager(kernel_name="study")
        argv = [{sys.executable!r}, "-m", "studylib.running.kernels.{module}", "-f", "{{connection_file}}"]
        manager._kernel_spec = KernelSpec(argv=argv, display_name="study", language="python")
        manager.start_kernel()
        print(manager.provisioner.pid, manager.connection_file, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    program = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, stdout=subprocess.PIPE, text=True
    )
    pid, file = program.stdout.split()
    assert gone(int(pid), SECONDS)
    end = time.monotonic() + SECONDS
    while kernels_of(file):
        assert time.monotonic() < end, "a kernel lives"
        time.sleep(0.1)


def kernels_of(connection_file):
    """The processes that have opened the heart of this kernel; those forked from a template do not bear its words."""
    ports = json.loads(Path(connection_file).read_text()) if Path(connection_file).exists() else {}
    listening = f":{ports.get('shell_port', 0):04X} 00000000:0000 0A"
    return listening in Path("/proc/net/tcp").read_text()


@pytest.mark.parametrize("template", ["alive", "killed"])
def test_what_a_killed_kernel_started_ends(environment, sockets, template):
    """A system short of memory kills the kernel alone; its children held their memory on."""
    with kernel(environment) as (manager, client):
        pid, child, forked = tell(client, """
            import json, os, subprocess, time
            child = subprocess.Popen(["sleep", "999"]).pid
            forked = os.fork()
            while not forked: time.sleep(1)
            print(json.dumps([os.getpid(), child, forked]))
        """)  # fmt: skip
        if template == "killed":
            for one in templates(sockets):
                os.kill(one, signal.SIGKILL)
                assert gone(one)
        os.kill(pid, signal.SIGKILL)
        assert all(gone(one) for one in (pid, child, forked))
        assert gone(manager.provisioner.pid), "the launcher waits for a kernel that is dead"


def test_a_template_that_left_is_not_waited_for(environment, sockets):
    """It stays to bury its kernels, but listens no more: every later run waited 40 seconds and took a plain kernel."""
    with kernel(environment) as (_, client):
        old = tell(client, "import os; print(os.getppid())")
        (folder,) = sockets.glob("study-kernels-*")
        sockets_before = set(folder.glob("*.socket"))
        os.kill(old, signal.SIGTERM)
        while set(folder.glob("*.socket")) & sockets_before == sockets_before:
            time.sleep(0.05)
        with kernel(environment) as (_, another):
            new = tell(another, "import os; print(os.getppid())")
            assert new != old and new in templates(sockets)
        assert tell(client, "print(1 + 1)") == 2
    assert gone(old)


def test_what_dead_templates_left_is_swept(environment, sockets):
    """Lock, log, number and socket of a template that was killed are removed by the next one's start."""
    (sockets / f"study-kernels-{os.getuid()}").mkdir(mode=0o700, exist_ok=True)
    (folder,) = sockets.glob("study-kernels-*")
    old = [folder / f"{'0' * 16}{ending}" for ending in rendezvous.ENDINGS]
    for path in old:
        path.write_text(str(2**22 - 1))
    for pid in templates(sockets):
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    with kernel(environment):
        assert not any(path.exists() for path in old)
        assert len(list(folder.glob("*.pid"))) == len(list(folder.glob("*.socket"))) == 1


def test_kernels_survive_their_template(environment, sockets):
    """SIGKILL of the template in mid-run: the run goes on, still dies with its launcher, and the next kernel has a new
    template."""
    with kernel(environment) as (manager, client):
        pid = tell(client, "import os; print(os.getpid())")
        (template,) = templates(sockets)
        os.kill(template, signal.SIGKILL)
        assert gone(template) and tell(client, "print(1 + 1)") == 2
        with kernel(environment) as (_, another):
            assert tell(another, "import os; print(os.getppid())") in templates(sockets)
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        assert gone(pid)


def test_a_changed_library_gets_a_new_template(environment, sockets, tmp_path):
    """A template that was started before an edit would run the old code."""
    package = tmp_path / "studylib"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    said = "from studylib.denoisers import hooks; print(getattr(hooks, 'EDITED', 0))"
    with kernel(environment, package) as (_, client):
        assert tell(client, said) == 0
        old = tell(client, "import os; print(os.getppid())")
        with (package / "denoisers" / "hooks.py").open("a") as file:
            file.write("\nEDITED = 1\n")
        with kernel(environment, package) as (_, client):
            assert tell(client, said) == 1
    assert gone(old, 20)  # with its last kernel


def test_the_environment_is_the_clients(environment):
    """Thread counts and hub switches are read when a library is imported: a template cannot serve two of them."""
    ask = """
        import json, os, sys, torch
        from huggingface_hub import constants
        print(json.dumps([torch.get_num_threads(), bool(constants.HF_HUB_OFFLINE), os.environ.get("MINE"),
                          os.environ.get("CUDA_VISIBLE_DEVICES"), sys.path[0]]))
    """
    with kernel(environment, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MINE="yes", CUDA_VISIBLE_DEVICES="3") as (_, one):
        assert tell(one, ask)[:4] == [1, True, "yes", "3"]
    with kernel(environment) as (_, two):
        assert tell(two, ask)[2] is None


def test_cores_and_priority_are_the_clients(environment):
    """`taskset` and `nice` before a command must hold for its kernel, which is another process's child."""
    ask = """
        import json, os, torch
        print(json.dumps([sorted(os.sched_getaffinity(0)), os.nice(0), torch.get_num_threads()]))
    """
    cores, before = sorted(os.sched_getaffinity(0)), os.nice(0)
    os.sched_setaffinity(0, cores[:1])  # of this test's own process, handed down to the launcher
    try:
        with kernel({k: v for k, v in environment.items() if k != "OMP_NUM_THREADS"}) as (_, client):
            assert tell(client, ask) == [cores[:1], before, 1]
    finally:
        os.sched_setaffinity(0, cores)


def test_kernels_have_random_numbers_of_their_own(environment):
    """Forked twins would draw the same numbers, and call it chance."""
    ask = """
        import json, random, numpy, torch
        print(json.dumps([random.random(), numpy.random.rand(), torch.initial_seed()]))
    """
    with kernel(environment) as (_, one), kernel(environment) as (_, two):
        assert all(a != b for a, b in zip(tell(one, ask), tell(two, ask), strict=True))


def test_nothing_of_a_run_is_left_for_the_next(environment):
    """Poisoned modules, environment, generators, folder and thread count must die with their kernel."""
    poison = """
        import json, os, random, numpy, torch, diffusers, matplotlib, studylib.denoisers.hooks, signal
        torch.manual_seed(1); random.seed(1); numpy.random.seed(1); torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64); os.environ["POISON"] = "1"; os.chdir("/")
        diffusers.StableDiffusionPipeline.__call__ = None; studylib.denoisers.hooks.POISON = 1
        torch.nn.functional.scaled_dot_product_attention = None; matplotlib.rcParams["figure.dpi"] = 7
        signal.signal(signal.SIGTERM, signal.SIG_IGN); torch.use_deterministic_algorithms(True)
    """
    state = """
        import json, os, random, numpy, torch, diffusers, matplotlib, studylib.denoisers.hooks, signal
        print(json.dumps([torch.initial_seed() == 1, torch.get_num_threads(), str(torch.get_default_dtype()),
            os.getcwd(), "POISON" in os.environ, diffusers.StableDiffusionPipeline.__call__ is None,
            hasattr(studylib.denoisers.hooks, "POISON"), torch.nn.functional.scaled_dot_product_attention is None,
            matplotlib.rcParams["figure.dpi"], str(signal.getsignal(signal.SIGTERM)),
            torch.are_deterministic_algorithms_enabled()]))
    """
    with kernel(environment) as (_, clean):
        before = tell(clean, state)
    with kernel(environment) as (_, poisoned):
        tell(poisoned, poison)
        assert tell(poisoned, state) != before
        with kernel(environment) as (_, beside):
            assert tell(beside, state) == before
    with kernel(environment) as (_, after):
        assert tell(after, state) == before


def test_a_folder_of_another_user_is_refused(environment, tmp_path_factory, capfd):
    """Whoever owns the socket's folder could pose as the template: a plain kernel starts, and it is said once."""
    home = tmp_path_factory.mktemp("o")  # short, or the sockets would lie elsewhere
    folder = home / f"study-kernels-{os.getuid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    for _ in range(2):
        with kernel(environment, XDG_RUNTIME_DIR=str(home)) as (_, client):
            assert tell(client, "import sys; print(int('diffusers' in sys.modules))") == 0
    assert "only you can enter" in capfd.readouterr().err


def test_a_template_that_cannot_start_is_replaced_by_a_plain_kernel(environment, tmp_path, capfd):
    """A broken library must break the cell that uses it, with its own error, and not the kernel's start."""
    package, home = tmp_path / "studylib", tmp_path / "run"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    home.mkdir()
    (package / "denoisers" / "hooks.py").write_text("raise RuntimeError('broken on purpose')")
    for _ in range(2):
        with kernel(environment, package, XDG_RUNTIME_DIR=str(home)) as (_, client):
            assert tell(client, "import studylib.denoisers.hooks") == "RuntimeError"
    assert capfd.readouterr().err.count("broken on purpose") == 1


def test_only_the_owner_reads_the_socket(environment, sockets):
    """The template runs what it is told."""
    with kernel(environment):
        (folder,) = sockets.glob("study-kernels-*")
        assert folder.stat().st_mode & 0o077 == 0
        assert all(s.stat().st_mode & 0o077 == 0 for s in folder.glob("*.socket"))


def test_nonsense_on_the_socket_does_no_harm(environment, sockets):
    """A launcher killed in mid-sentence must not take the template along."""
    with kernel(environment) as (_, client):
        ask = "import os; print(os.getppid())"
        template = tell(client, ask)
        for words in (b"", b"\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"\0\0\0\x09{\"cwd\":1}"):
            for path in next(sockets.glob("study-kernels-*")).glob("*.socket"):
                with contextlib.suppress(OSError), rendezvous.dial(path) as connection:
                    connection.sendall(words)
        with kernel(environment) as (_, another):
            assert tell(another, ask) == template


def test_jupyter_finds_the_kernelspec(monkeypatch):
    """`study lab` offers the kernel by this folder; its argv must be the launcher's."""
    monkeypatch.setenv("JUPYTER_PATH", kernelspec_path()["JUPYTER_PATH"])
    spec = KernelSpecManager().get_kernel_spec("study")
    assert spec.argv[1:3] == ["-m", "studylib.running.kernels.launcher"]


def test_papermill_and_nbval_take_it(environment, tmp_path, monkeypatch):
    """The kernel serves the field's own tools by name, not only this library's runs."""
    environment |= kernelspec_path()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import torch\nprint(torch.ones(2).sum())")])
    source, executed = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    nbformat.write(notebook, source)
    subprocess.run(
        [sys.executable, "-m", "papermill", "-k", "study", source, executed],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert nbformat.read(executed, 4).cells[0].outputs[0].text == "tensor(2.)\n"
    checked = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-kernel-name", "study", executed],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_a_run_takes_a_prewarmed_kernel_and_records_the_same(environment, tmp_path, monkeypatch):
    """`study run` uses them unless told not to; the record must not depend on it, but for time and memory,
    and what torch tells of the machine."""
    monkeypatch.setenv("STUDY_ROOT", str(make_workspace(tmp_path)))
    look = "import sys; from pathlib import Path; Path('seen').write_text(str('diffusers' in sys.modules))"
    cells = [code(PARAMETERS, "parameters"), code(look), *standard_cells()[2:]]
    write_notebook(tmp_path / "notebooks" / "mini.ipynb", cells)
    seen = tmp_path / "notebooks" / "seen"
    forked = runs.run("mini").record
    assert seen.read_text() == "True"
    plain = runs.run("mini", prewarmed=False, force=True).record
    assert seen.read_text() == "False"
    assert forked["hardware"].items() >= plain["hardware"].items()  # what torch tells, only where it was imported
    for key in ("seconds", "peak_memory_mib", "started_at", "hardware"):
        forked.pop(key), plain.pop(key)
    assert forked == plain
