"""A real JupyterLab in a real Chromium: fixtures for tests that only a browser can answer.

`lab(folder, *options)` serves a folder, with options of the server, and returns its address;
`open_notebook(page, address, "x.ipynb")` opens a notebook in it; `run_all(page)` runs its cells and waits until they
have run; `state(page)` finds the state texts; `shut_down(page)` saves the notebook and ends its kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studylib.workspace import kernelspec_path

ROOT = Path(__file__).parents[2]
SECONDS = 60  # for anything to happen; nothing takes this long
CONFIG = """
from jupyterlab.galata import configure_jupyter_server
c = get_config()
configure_jupyter_server(c)  # no token, and the application object in the page
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.allow_root = True
c.ServerApp.port = {port}
c.ServerApp.root_dir = {folder!r}
c.LabApp.workspaces_dir = {workspaces!r}
c.LabApp.user_settings_dir = {settings!r}
"""
RUN_ALL = """async (seconds) => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  const run = async () => {
    await panel.sessionContext.ready;
    await app.commands.execute("notebook:run-all-cells");
    const outputs = panel.content.widgets.flatMap((cell) => cell.model.sharedModel.outputs || []);
    return outputs.filter((o) => o.output_type === "error").map((o) => `${o.ename}: ${o.evalue}`);
  };
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(
    `cells not run in ${seconds} s; a dialog may be open: ${document.querySelector(".jp-Dialog")?.innerText}`,
  )), 1000 * seconds));
  return Promise.race([run(), late]);
}"""
SHUT_DOWN = """async () => {
  const panel = window.jupyterapp?.shell.currentWidget;
  await panel?.context?.save();
  await panel?.sessionContext?.shutdown();
}"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; skips where there is none, and none is ever downloaded."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on PATH")
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    """One browser for a module's tests."""
    from playwright.sync_api import sync_playwright

    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # no sandbox for root, as in containers
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A fresh page; its notebook's kernel is shut down afterwards."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * SECONDS)
    yield page
    if not page.url.startswith("about:"):
        page.evaluate(SHUT_DOWN)
    page.close()


@pytest.fixture(scope="module")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start JupyterLab on a folder, with settings of its own, and return its address."""
    started: dict[Path, tuple[subprocess.Popen, str]] = {}

    def serve(folder: Path, *options: str) -> str:
        if folder not in started:
            started[folder] = _start_lab(folder, tmp_path_factory.mktemp("lab"), options)
        return started[folder][1]

    yield serve
    for server, _ in started.values():
        server.terminate()
        server.wait(SECONDS)


@pytest.fixture(scope="session")
def open_notebook() -> Callable:
    """Open `name` of a served folder and wait until it can be run."""
    def open_(page, address: str, name: str) -> None:
        page.goto(f"{address}/lab/tree/{name}?reset")
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context?.isReady")

    return open_


@pytest.fixture(scope="session")
def run_all() -> Callable:
    """Run all cells of the open notebook within `seconds`; fails with the errors that cells ended in."""
    def run(page, seconds: float = SECONDS) -> None:
        errors = page.evaluate(RUN_ALL, seconds)
        assert not errors, f"cells ended in {errors}"

    return run


@pytest.fixture(scope="session")
def shut_down() -> Callable:
    """Save the open notebook and end its kernel."""
    return lambda page: page.evaluate(SHUT_DOWN)


@pytest.fixture(scope="session")
def state() -> Callable:
    """The state texts of the page's widgets, as a locator."""
    return lambda page: page.locator(".study-state")


def _start_lab(folder: Path, private: Path, options: tuple[str, ...]) -> tuple[subprocess.Popen, str]:
    settings = private / "settings"
    notifications = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = private / "jupyter_server_config.py"
    folders = {"folder": str(folder), "workspaces": str(private / "workspaces"), "settings": str(settings)}
    config.write_text(CONFIG.format(port=port, **folders))
    places = {f"JUPYTER_{kind}_DIR": str(private / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    log = private / "server.log"
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--config", str(config), *options],
        env=os.environ | places | kernelspec_path() | {"IPYTHONDIR": str(private / "ipython"), "PYTHONPATH": str(ROOT)},
        stdout=log.open("w"), stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=1)
            return server, address
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"JupyterLab did not start in {SECONDS} s; it said:\n{log.read_text()[-2000:]}")
