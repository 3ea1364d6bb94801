"""The house rules that no linter knows: where imports point, how large things may grow, that README is true."""

import ast
import json
import re
from pathlib import Path

import pytest
from paper_checks import own_tests

from studylib.reports import lesson
from studylib.reports import readme as readme_sections
from studylib.reports.models_table import ROWS, models_table
from studylib.running.fingerprint import LEFT_OUT

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "studylib").rglob("*.py"))
ROOMS = {  # room -> floor; "" holds the modules beside the rooms
    "": 0, "world": 1, "denoisers": 1, "showing": 2, "models": 3, "evidence": 3, "running": 4, "learning": 4,
    "measuring": 4, "reports": 5, "recipes": 5, "cli": 6,
}  # fmt: skip
PAPERS = sorted(p for p in (ROOT / "papers").iterdir() if (p / "method.py").exists())
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb") if p.stem != "index")  # the map is no paper's
MIB = 1 << 20


def imported(path):
    """Top-level and nested module names that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


def room(path):
    """The room a module of studylib lies in, "" for one beside the rooms."""
    parts = path.relative_to(ROOT / "studylib").parts
    return parts[0] if len(parts) > 1 else ""


def imports_within():
    """Module of studylib -> the modules of studylib that it imports anywhere, `from package import module` included."""
    by_name = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for path in MODULES:
        names = set(imported(path))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in by_name:
                modules = {f"{node.module}.{alias.name}" for alias in node.names} & set(by_name)
                names |= modules
                if len(modules) == len(node.names):  # nothing of the package itself
                    names.discard(node.module)
        found[path] = {by_name[name] for name in names if name in by_name}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_library_knows_no_paper_and_stays_small(path):
    """studylib imports no paper, and no module grows beyond one sitting's reading."""
    assert not [name for name in imported(path) if name.split(".")[0] in ("papers", "notebooks", "tests")]
    assert len(path.read_text().splitlines()) <= 300


def test_imports_point_down():
    """A room imports rooms below it, never one above or beside it: a newcomer reads the house from the ground up."""
    assert {path.relative_to(ROOT / "studylib").parts[0] for path in MODULES if room(path)} == set(ROOMS) - {""}
    wrong = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path, others in imports_within().items()
        for other in others
        if room(other) != room(path) and ROOMS[room(other)] >= ROOMS[room(path)]
    ]
    assert not wrong, wrong


def test_no_module_imports_itself_in_a_circle():
    """Modules in a circle cannot be read, tested or imported one by one; an import inside a function counts as well."""
    left = {path: set(others) - {path} for path, others in imports_within().items()}
    while free := [path for path, others in left.items() if not others & set(left)]:
        for path in free:
            del left[path]
    assert not left, sorted(str(path.relative_to(ROOT)) for path in left)


def test_rooms_are_empty_where_a_launcher_starts():
    """A prewarmed kernel's launcher starts in milliseconds, because what it passes through imports nothing."""
    for folder in ("running", "running/kernels"):
        assert not imported(ROOT / "studylib" / folder / "__init__.py")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: p.name)
def test_paper_can_be_deleted(paper):
    """A paper imports itself and studylib, no other paper, and nothing else names it but its notebook and its tests:
    no other test or bench, and no link of README outside of what `study render` writes."""
    others = {p.name for p in PAPERS} - {paper.name}
    for path in paper.glob("*.py"):
        assert not [n for n in imported(path) if n.startswith("papers.") and n.split(".")[1] in others]
    for path in MODULES:
        # a slug alone may be a word of the field: the library has adapters (lora), DiT pipelines (dit), ControlNets
        assert not re.search(rf"papers[./]{paper.name}\b", path.read_text()), f"{path} names {paper.name}"
    own = own_tests(ROOT, paper.name)
    named = "|".join([rf"papers[./]{paper.name}\b", rf"{paper.name}\.ipynb", *(rf"\b{path.stem}\b" for path in own)])
    for path in set((ROOT / "tests").rglob("*.py")) - set(own):
        assert not re.search(named, path.read_text()), f"{path} names {paper.name}"
    written = re.sub(r"(?s)<!-- (\w+):start -->.*?<!-- \1:end -->", "", (ROOT / "README.md").read_text())
    assert not re.search(rf"\]\((papers|notebooks)/{paper.name}\b", written), f"README links to {paper.name}"


def test_networks_of_pipelines_are_called_in_one_room():
    """All else speaks to a Denoiser, so that a method written for a UNet runs on a transformer as well."""
    others = [path for path in MODULES if room(path) != "denoisers"]
    named = [path for path in others if re.search(r"\bpipe\.(unet|transformer)\b", path.read_text())]
    assert not named


def test_only_widgets_imports_widgets():
    """The widgets alone may import ipywidgets and anywidget, so that everything else runs without a front end."""
    users = {p.name for p in MODULES if any(n.split(".")[0] in ("ipywidgets", "anywidget") for n in imported(p))}
    assert users <= {"widgets.py", "front.py"}


def test_no_drawer_for_anything():
    """A module called utils collects what nobody wanted to name."""
    assert not [p for p in ROOT.glob("*/**/*.py") if ".venv" not in p.parts and re.search(r"util|helper|misc", p.stem)]


def test_weights_stay_under_the_cap():
    """The base's weights stay below 20 MiB, so that those of all papers fit into 46; safetensors only."""
    files = [*ROOT.glob("studylib/weights/**/*"), *ROOT.glob("papers/*/weights/**/*")]
    assert sum(p.stat().st_size for p in files if p.suffix == ".safetensors") < 20 * MIB
    assert {p.suffix for p in files if p.is_file()} <= {".safetensors", ".json", ".txt", ".webp"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_keeps_its_budget(path):
    """16-22 code cells, short ones, no class, executed, no widget state, under 1 MB, one parameters cell."""
    notebook = json.loads(path.read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    sources = ["".join(c["source"]) for c in code]
    lengths = sorted(len(s.splitlines()) for s in sources)
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(c["execution_count"] for c in code)
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert 16 <= len(code) <= 22 and lengths[len(lengths) // 2] <= 8
    assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1
    for source in sources:
        tree = ast.parse("\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, node.name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_import_no_room_that_run_ids_leave_out(notebook):
    """A run id leaves out the rooms that change no result: a notebook that imported from one would be found finished
    although it would now say something else."""
    sources = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    named = re.findall(r"studylib\.(\w+)", "\n".join(sources))
    assert named and not set(named) & set(LEFT_OUT)


def test_notebooks_show_the_table_of_methods_as_it_was_recorded():
    """`study render` writes it from the papers' results; a changed result must show in every notebook alike."""
    found = lesson.methods()
    assert (ROOT / "papers" / lesson.PAGE).read_text() == f"{lesson.HEAD}\n{lesson.markdown(found)}"
    for slug in found.rows:
        path = ROOT / "notebooks" / f"{slug}.ipynb"
        assert lesson.START in path.read_text() and lesson.with_table(slug, lesson.markdown(found, "../papers/")) == (
            path.read_text()
        )


def test_papers_table_in_readme_is_the_cards():
    """README's table is generated: a changed card must show there."""
    readme = (ROOT / "README.md").read_text()
    table = readme.split("<!-- papers:start -->")[1].split("<!-- papers:end -->")[0].strip()
    assert table == readme_sections.papers_table().strip()
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 24 + 2


def test_readme_points_at_what_exists():
    """Links and pictures of README are files of this repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_readme_quotes_the_measured_bars():
    """README's table of the tiny models is generated from their metrics.json: a retrained model must show there."""
    readme = (ROOT / "README.md").read_text()
    assert readme.split("<!-- models:start -->\n")[1].split("<!-- models:end -->")[0] == models_table()
    assert {path.parent.name for path in (ROOT / "studylib/weights").glob("*/metrics.json")} == set(ROWS)


def test_ci_runs_what_readme_says():
    """The command in README is the one that is tested."""
    command = re.search(r"^python3 -m venv \.venv .*pytest$", (ROOT / "README.md").read_text(), re.M)
    assert command and "grep -m1 -o '^python3 -m venv .venv .*pytest$' README.md" in (ROOT / ".ci/run").read_text()
