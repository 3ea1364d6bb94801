"""What a notebook's last cell hands over."""

import json
import math
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from studylib.evidence import outcome
from studylib.evidence.card import load_card
from studylib.evidence.claims import Claims


def decided() -> Claims:
    claims = Claims(load_card("mini"))
    claims.exact("identity", 1, 1)
    claims.exact("count", 2, 3)
    for id, effect in (("rises", 1.0), ("falls", -1.0)):
        claims.directional(id, [effect] * 24, [0, 1, 2] * 8, [i // 3 for i in range(24)])
    return claims


def test_record_hands_over_metrics_and_figures(workspace, tmp_path, monkeypatch):
    """What the runner puts into the record is what the notebook measured."""
    monkeypatch.setenv("STUDY_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    figures = {"picture": Image.new("RGB", (8, 8), "red"), "plot": Figure()}
    summary = outcome.record("mini", metrics={"x": np.float32(0.5)}, claims=decided(), figures=figures)
    written = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert written["metrics"] == {"x": 0.5} and written["claims"] == summary.claims
    assert written["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(Image.open(tmp_path / "run" / "figures" / f"{name}.webp").format == "WEBP" for name in figures)
    assert "x = 0.5" in repr(summary) and str(tmp_path) not in repr(summary) + summary._repr_html_()


def test_record_refuses_what_was_not_measured(workspace):
    """NaN is no number of JSON, and a claim left out is no claim held."""
    with pytest.raises(ValueError, match="not finite numbers: gone"):
        outcome.record("mini", metrics={"gone": math.nan, "there": 1.0})
    with pytest.raises(ValueError, match="identity, count, rises, falls"):
        outcome.record("mini", claims=Claims(load_card("mini")))
    with pytest.raises(ValueError, match="claims of mini"):
        outcome.record("other", claims=decided())


def test_record_outside_a_run_only_shows(workspace, monkeypatch):
    """A reader who works through the notebook in JupyterLab leaves no files behind."""
    monkeypatch.delenv("STUDY_RUN_DIR", raising=False)
    before = sorted(workspace.rglob("*"))
    summary = outcome.record(
        "mini", metrics={"x": 1.0}, claims=decided(), figures={"p": Image.new("RGB", (8, 8))}
    )
    assert sorted(workspace.rglob("*")) == before
    assert repr(summary) == "mini: 3 held, 1 failed, 1 not testable here\n  x = 1"
