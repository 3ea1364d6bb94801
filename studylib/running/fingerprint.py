"""What a run depends on, as hashes: code, weights, parameters, the content of folders and files, versions."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from studylib.machine import versions
from studylib.models import files
from studylib.models.hub import known_commit
from studylib.running.notebook import notebook_code
from studylib.workspace import PACKAGE, find_root, notebook_path, runs_folder

ID_LENGTH = 12
EFFECTS = "effects.json"  # beside a paper: what `study render --full` measured
LEFT_OUT = ("cli", "recipes", "reports")  # rooms that no paper's notebook may import from
UNREAD = ("metrics.json",)  # beside weights, about how they were trained


def weight_hashes(slug: str, model: Any) -> dict[str, str]:
    """Return name -> sha256 of every weights file a run may load: shipped, the paper's, a named folder's.

    A hub model has its commit instead, as far as it is known here.
    """
    own = find_root() / "papers" / slug / "weights"
    weights = files.weight_files(files.WEIGHTS, "studylib") | files.weight_files(own, slug)
    if isinstance(model, str) and Path(model).is_absolute():
        weights |= files.weight_files(Path(model), "model")
    return files.hash_files(weights, _cache()) | known_commit(model)


def code_hash(slug: str) -> str:
    """Return a hash of the code that a run executes: notebook, paper, and the rooms that can change a result.

    Prose, outputs and the card do not count: they do not change what is computed.
    """
    cells, paper = notebook_code(notebook_path(slug)).cells, find_root() / "papers" / slug
    sources = {f"papers/{path.relative_to(paper).as_posix()}": path for path in paper.rglob("*.py")}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in LEFT_OUT:
            sources[f"studylib/{name}"] = path
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(cell.encode() + b"\0")
    for name, path in sorted(sources.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Identity:
    """What all runs of a paper's notebook have in common, read once: for a sweep, before its first point."""

    def __init__(self, slug: str) -> None:
        root = find_root()
        self.code = code_hash(slug)
        self.common = [self.code, versions(), _hashes({"card": root / "papers" / slug / "card.toml"}), _configs(slug)]
        effects = root / "papers" / slug / EFFECTS
        self.effects = _hashes({EFFECTS: effects}) if effects.is_file() else {}
        self.given: dict[str, dict[str, str]] = {}

    def run_id(self, parameters: dict[str, Any], weights: dict[str, str]) -> str:
        """Return the id of a run: equal ids mean equal results. The preset's name does not count."""
        content = {value: self.content(value) for value in parameters.values() if _is_path(value)}
        effects = {} if parameters.get("full") else self.effects  # runs that measure effects do not read them
        whole = [self.common, effects, parameters, weights, content]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]

    def content(self, given: str) -> dict[str, str]:
        """Return path -> sha256 of a file, or of everything in a folder, that is given as a parameter."""
        if given not in self.given:
            self.given[given] = files.hash_files(_files_in(Path(given)), _cache())
        return self.given[given]


def run_id(slug: str, parameters: dict[str, Any], weights: dict[str, str]) -> str:
    """Return the id of one run: code, card, parameters, weights, content of given folders and files, versions."""
    return Identity(slug).run_id(parameters, weights)


def _hashes(found: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(found.items())}


def _configs(slug: str) -> dict[str, str]:
    """What stands beside the weights and decides as much: configurations, tokenizers, schedules."""
    folders = {"studylib": files.WEIGHTS, slug: find_root() / "papers" / slug / "weights"}
    found = {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for name, folder in folders.items() for ending in ("json", "txt") for path in folder.rglob(f"*.{ending}")
    }  # fmt: skip
    return _hashes({name: path for name, path in found.items() if path.name not in UNREAD})


def _files_in(given: Path) -> dict[str, Path]:
    """Every file of a folder by its path in it, those behind links included; a file is alone, under its name."""
    if given.is_file():
        return {given.name: given}
    found, entered = {}, set()
    for folder, below, names in os.walk(given, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # a link that leads back up
            below.clear()
            continue
        entered.add(real)
        paths = [Path(folder, name) for name in names]
        found |= {path.relative_to(given).as_posix(): path for path in paths if path.is_file()}
    return found


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not Path(value).is_absolute():
        return False
    return Path(value).is_dir() or Path(value).is_file()


def _cache() -> Path:
    return runs_folder() / "weights.json"
