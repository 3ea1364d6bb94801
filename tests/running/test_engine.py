"""The engine: this interpreter, no hang on pictures in Output widgets, waits in slices."""

import asyncio
import sys
import time
from queue import Empty

import nbformat
import pytest
from mini_workspace import code, write_notebook

from studylib.running import engine


def test_picture_in_an_output_widget_does_not_hang(workspace):
    """nbclient sends the picture back on the socket it waits on, and a single long wait then never ends."""
    picture = """
    import io, random, ipywidgets
    from IPython.display import Image, display
    from PIL import Image as Pictures
    noise = Pictures.frombytes("RGB", (1024, 1024), random.Random(0).randbytes(3 * 1024 * 1024))
    file = io.BytesIO(); noise.save(file, "PNG")
    output = ipywidgets.Output()
    with output:
        display(Image(file.getvalue()))
    """
    notebook = workspace / "notebooks" / "mini.ipynb"
    write_notebook(notebook, [code(picture), code(picture), code("print('through')")])
    began = time.monotonic()
    engine.execute(notebook, workspace, {}, timeout=60, model=None, stream=None)
    assert time.monotonic() - began < 50
    assert nbformat.read(workspace / "notebook.ipynb", 4).cells[-1].outputs[0].text == "through\n"


def test_kernel_is_this_interpreter_whatever_the_kernelspec_says(workspace, monkeypatch, tmp_path):
    """A `python3` kernelspec of another environment would run other versions than the record says."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "Other", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    notebook = workspace / "notebooks" / "mini.ipynb"
    lines = """
    import os, sys, studylib
    print(sys.executable, os.getcwd(), os.environ["STUDY_RUN_DIR"], os.environ["HF_HUB_OFFLINE"], sep="\\n")
    print(os.environ["HF_HUB_DISABLE_PROGRESS_BARS"])
    """
    write_notebook(notebook, [code(lines)])
    engine.execute(notebook, workspace, {}, timeout=30, model="tiny", stream=None)
    printed = nbformat.read(workspace / "notebook.ipynb", 4).cells[0].outputs[0].text.splitlines()
    assert printed == [sys.executable, str(notebook.parent), str(workspace), "1", "0"]


def test_hub_is_left_on_for_other_models(workspace):
    """Only the tiny world is promised to need no network."""
    assert "HF_HUB_OFFLINE" not in engine.kernel_environment(workspace, "sd15")


class LostWakeUp:
    """A channel whose message arrives during the first wait, which then does not notice it."""

    def __init__(self, messages: int = 1) -> None:
        self.waits, self.messages = [], messages

    async def get_msg(self, timeout: float) -> dict:
        self.waits.append(timeout)
        if len(self.waits) == 1 or not self.messages:
            await asyncio.sleep(timeout)
            raise Empty
        return {"content": "reply"}


def test_lost_wake_up_costs_one_slice():
    """The second look finds the message; without a time-out the wait would have had no second look."""
    channel = LostWakeUp()
    assert asyncio.run(engine.poll_in_slices(channel.get_msg)) == {"content": "reply"}
    assert channel.waits == [engine.SLICE] * 2


def test_sliced_wait_keeps_its_time_out():
    """Cell time-outs rest on it: not longer, not shorter."""
    channel, began = LostWakeUp(messages=0), time.monotonic()
    with pytest.raises(Empty):
        asyncio.run(engine.poll_in_slices(channel.get_msg, timeout=0.6))
    assert 0.55 < time.monotonic() - began < 2.0
    assert all(0 <= wait <= engine.SLICE for wait in channel.waits)
