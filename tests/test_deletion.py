"""A paper is deleted by removing its folder, its notebook and its tests, and writing again what is generated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paper_checks import own_tests

from studylib.workspace import written_papers

ROOT = Path(__file__).resolve().parents[1]
COPIED = (".ci", "README.md", "environment.yml", "notebooks", "papers", "pyproject.toml", "studylib", "tests")
STUDY = "from studylib.cli.main import app; app()"
QUICK = (  # of those left: the house, what is generated, commands that list papers, notebooks read without a kernel
    "tests/test_house.py", "tests/reports/test_scoreboard.py", "tests/papers/test_every_paper.py",
    "tests/papers/test_knobs_stand_once.py", "tests/cli/test_cli.py::test_list_shows_the_course_and_one_paper",
)  # fmt: skip


def most_leaned_on() -> str:
    """The paper with the most tests and benches of its own."""
    return max(written_papers(), key=lambda slug: len(own_tests(ROOT, slug)))


@pytest.fixture(scope="module", params=[most_leaned_on()])
def without(request, tmp_path_factory) -> Path:
    """A copy of this workspace without one paper."""
    root = tmp_path_factory.mktemp("without") / request.param
    root.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    shutil.rmtree(root / "papers" / request.param)
    (root / "notebooks" / f"{request.param}.ipynb").unlink()
    for path in own_tests(root, request.param):
        path.unlink()
    (root / "tests" / Path(__file__).name).unlink()  # it would copy the copy
    return root


def python(root: Path, *words: str) -> str:
    """Run Python in the copy, and return what it printed; a failure shows it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    environment |= {"PYTHONPATH": str(root), "STUDY_ROOT": str(root), "STUDY_KERNELS": "plain"}
    done = subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.timeout(1800)
def test_all_other_tests_stay_green(without):
    """Somebody who wants two of the papers must be able to drop the rest: no other test, bench, page or command may
    need the one that is gone. What is generated is written again without rendering a notebook of a paper."""
    assert "README.md: table of papers: rewritten" in python(without, "-c", STUDY, "render", "index")
    assert without.name in python(without, "-c", STUDY, "list")  # planned again
    assert f"{without.name}:" not in python(without, "-c", STUDY, "claims")
    benches = [path.stem for path in (without / "tests" / "bench").glob("bench_*.py")]
    python(without, "-c", f"import {', '.join(f'tests.bench.{name}' for name in benches)}")
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "error" not in python(without, *options, "--collect-only").splitlines()[-1]
    python(without, *options, *QUICK)
