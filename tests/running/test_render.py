"""Rendered notebooks: complete for a reader without a kernel, free of what belongs to one machine."""

import json
import sys

import pytest
from mini_workspace import PARAMETERS, RECORD, WORK, code, standard_cells, write_notebook

from studylib.errors import StudyError
from studylib.running import render

SHOWN = """
import os, sys, ipywidgets
from IPython.display import display
display(ipywidgets.IntSlider())
print("seen in", os.getcwd(), "by", sys.executable)
"""
BIG = "import random\nfrom IPython.display import HTML\nHTML('x' * 1_200_000)"


def test_rendered_notebook_is_clean_and_measured(workspace):
    """Committed outputs must not change from machine to machine for no reason, nor break code hosts."""
    path = workspace / "notebooks" / "mini.ipynb"
    write_notebook(path, standard_cells(SHOWN))
    results = render.render("mini")
    notebook = json.loads(path.read_text())
    text = path.read_text()
    for word in (
        "papermill",
        "widget-view",
        "IntSlider(value",
        "start_time",
        str(workspace),
        f"{sys.prefix}/",
    ):
        assert word not in text, f"{word} is left"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert [cell["metadata"].get("tags") for cell in notebook["cells"]][:2] == [None, ["parameters"]]
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == [1, 2, 3, 4]
    assert "seen in ./notebooks by <python>" in "".join(codes[2]["outputs"][0]["text"])
    written = json.loads((workspace / "papers" / "mini" / "results.json").read_text())
    assert written == results
    about = ["seconds", "peak_memory_mib", "device", "versions", "hardware", "weights", "git_commit"]
    assert list(results) == ["slug", "params", "claims", "metrics", *about]
    assert results["device"] == "cpu" and "torch" in results["versions"]
    assert any(name.startswith("studylib/sd/") for name in results["weights"])
    assert results["claims"]["identity"]["verdict"] == "held" and results["metrics"]["steps"] == 3
    render.render("mini")
    assert path.read_text() == text, "rendering twice gives two files"


def test_too_big_notebook_is_not_written(workspace):
    """Code hosts do not show a notebook of megabytes; the author needs to know which cell it is."""
    path = workspace / "notebooks" / "mini.ipynb"
    write_notebook(path, standard_cells(BIG))
    before = path.read_bytes()
    with pytest.raises(StudyError, match="over 1000.*cell 3 120. kB .import random"):
        render.render("mini")
    assert path.read_bytes() == before and not (workspace / "papers" / "mini" / "results.json").exists()


def test_failing_notebook_is_not_written(workspace):
    """A committed notebook must never hold an error."""
    path = workspace / "notebooks" / "mini.ipynb"
    cells = [code(PARAMETERS, "parameters"), code("1 / 0"), code(WORK), code(RECORD)]
    write_notebook(path, cells)
    before = path.read_bytes()
    with pytest.raises(StudyError, match="ZeroDivisionError.*study run mini"):
        render.render("mini")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({render.WIDGET_VIEW: {}, "text/plain": "Box()"}, None),
        ({render.WIDGET_VIEW: {}, "text/plain": "on", "image/jpeg": "AAAA"}, {"text/plain", "image/jpeg"}),
        ({"text/plain": "1"}, {"text/plain"}),
    ],
)
def test_widget_leaves_its_static_picture(data, kept):
    """Without a kernel a live widget is an error box; the picture beside it is what the reader came for."""
    output = render.without_widget({"output_type": "display_data", "data": data, "metadata": {}})
    assert (set(output["data"]) if output else None) == kept


def test_check_passes_on_nbvals_verdict(workspace):
    """A contributor relies on it: it must fail when an output marked for comparison differs."""
    path = workspace / "notebooks" / "mini.ipynb"
    cell = code("# NBVAL_CHECK_OUTPUT\nprint(1 + 1)")
    cell |= {"execution_count": 1, "outputs": [{"output_type": "stream", "name": "stdout", "text": "2\n"}]}
    write_notebook(path, [cell])
    assert render.check(["mini"]) == 0
    cell["outputs"][0]["text"] = "3\n"
    write_notebook(path, [cell])
    assert render.check(["mini"]) == 1
    path.unlink()
    with pytest.raises(StudyError, match="mini.ipynb is missing"):
        render.check(["mini"])
