"""What a run depends on, as hashes: code, weights, parameters, the content of folders, versions."""

import hashlib
import json
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
    sources = {f"papers/{path.relative_to(paper)}": path for path in paper.glob("*.py")}
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
        self.common = [self.code, versions(), _hashes({"card": root / "papers" / slug / "card.toml"})]
        effects = root / "papers" / slug / EFFECTS
        self.effects = _hashes({EFFECTS: effects}) if effects.is_file() else {}
        self.folders: dict[str, dict[str, str]] = {}

    def run_id(self, parameters: dict[str, Any], weights: dict[str, str]) -> str:
        """Return the id of a run: equal ids mean equal results. The preset's name does not count."""
        content = {value: self.content(value) for value in parameters.values() if _is_folder(value)}
        effects = {} if parameters.get("full") else self.effects  # runs that measure effects do not read them
        whole = [self.common, effects, parameters, weights, content]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]

    def content(self, folder: str) -> dict[str, str]:
        """Return path -> sha256 of everything in a folder that is given as a parameter."""
        if folder not in self.folders:
            found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
            self.folders[folder] = files.hash_files(found, _cache())
        return self.folders[folder]


def run_id(slug: str, parameters: dict[str, Any], weights: dict[str, str]) -> str:
    """Return the id of one run: code, card, parameters, weights, content of given folders, versions."""
    return Identity(slug).run_id(parameters, weights)


def _hashes(found: dict[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(found.items())}


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute() and Path(value).is_dir()


def _cache() -> Path:
    return runs_folder() / "weights.json"
