"""environment.yml, pyproject.toml and what the code imports say the same."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXACT = ("torch", "diffusers", "transformers", "peft", "accelerate")
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}


@pytest.fixture(scope="module")
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def direct() -> dict[str, Requirement]:
    texts = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def test_environment_lists_every_direct_dependency_with_a_tested_version(environment):
    """A conda user must get the versions the notebooks were rendered with, not the newest."""
    lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert lines[0] == "-e .[test]"
    listed = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines[1:]}
    assert listed.keys() == direct().keys()
    for name, requirement in listed.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{name} has no exact version"
        assert direct()[name].specifier.contains(specifier.version), (
            f"{name}: {specifier} is not what pyproject asks for"
        )


def test_environment_needs_conda_forge_only(environment):
    """The pytorch channel is gone, and the default one has terms of its own."""
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert [entry for entry in environment["dependencies"] if isinstance(entry, str)] == [
        "python=3.11",
        "pip",
    ]


def test_what_decides_a_picture_is_pinned():
    """Version drift is the commonest complaint about notebooks built on these packages."""
    for name in EXACT:
        (specifier,) = direct()[name].specifier
        assert specifier.operator == "==", f"{name} is not pinned"


def test_every_imported_package_is_declared():
    """A package that is there only because another one needs it may leave with the next version."""
    imported = set()
    for path in [*(ROOT / "studylib").rglob("*.py"), *(ROOT / "papers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"studylib", "papers"}
    core = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    extras = {"ray"}  # imported where it is asked for, with an error that names the extra
    assert extras == {canonicalize_name(Requirement(t).name) for t in PROJECT["optional-dependencies"]["cluster"]}
    missing = {name for name in foreign - extras if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in core}
    assert not missing, f"imported but not in pyproject.toml: {sorted(missing)}"
