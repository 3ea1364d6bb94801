"""What a run depends on, as hashes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from studylib.models import files
from studylib.running.notebook import cell_source, read_notebook
from studylib.workspace import PACKAGE, find_root, notebook_path, runs_folder

ID_LENGTH = 12
EFFECTS = "effects.json"  # beside a paper: what `study render --full` measured


def weight_hashes(slug: str, model: Any) -> dict[str, str]:
    """Return name -> sha256 of every weights file a run may load: shipped, the paper's, a named folder's."""
    own = find_root() / "papers" / slug / "weights"
    weights = files.weight_files(files.WEIGHTS, "studylib") | files.weight_files(own, slug)
    if isinstance(model, str) and Path(model).is_absolute():
        weights |= files.weight_files(Path(model), "model")
    return files.hash_files(weights, runs_folder() / "weights.json")


def run_id(slug: str, parameters: dict[str, Any], weights: dict[str, str]) -> str:
    """Return the id of a run: a hash of its code cells, paper, library, weights and parameters.

    Prose, outputs and the preset's name do not count: they do not change what is computed.
    """
    digest = hashlib.sha256()
    for cell in read_notebook(notebook_path(slug))["cells"]:
        if cell.get("cell_type") == "code":
            digest.update(cell_source(cell).encode() + b"\0")
    paper = find_root() / "papers" / slug
    sources = {f"papers/{path.relative_to(paper)}": path for path in [*paper.glob("*.py"), paper / "card.toml"]}
    sources |= {f"studylib/{path.relative_to(PACKAGE)}": path for path in PACKAGE.rglob("*.py")}
    if (paper / EFFECTS).is_file() and not parameters.get("full"):  # runs that measure effects do not read them
        sources[f"papers/{EFFECTS}"] = paper / EFFECTS
    for name, path in sorted(sources.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(json.dumps([parameters, weights], sort_keys=True).encode())
    return digest.hexdigest()[:ID_LENGTH]
