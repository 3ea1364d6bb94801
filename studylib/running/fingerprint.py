"""What a run depends on, as hashes; finds weights that are missing or cut short without loading them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from studylib.files import write_atomically
from studylib.models.files import WEIGHTS
from studylib.running.notebook import cell_source, read_notebook
from studylib.workspace import PACKAGE, find_root, notebook_path

ID_LENGTH = 12
EFFECTS = "effects.json"  # beside a paper: what `study render --full` measured


def weight_hashes(slug: str, model: Any) -> dict[str, str]:
    """Return name -> sha256 of every weights file a run may load: shipped, the paper's, a named folder's."""
    own = find_root() / "papers" / slug / "weights"
    files = {f"studylib/{path.relative_to(WEIGHTS)}": path for path in WEIGHTS.rglob("*.safetensors")}
    files |= {f"{slug}/{path.relative_to(own)}": path for path in own.rglob("*.safetensors")}
    if isinstance(model, str) and Path(model).is_absolute():
        files |= {f"model/{path.relative_to(model)}": path for path in Path(model).rglob("*.safetensors")}
    cache_path = find_root() / "runs" / "weights.json"
    try:
        cache = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cache that is absent or damaged is rebuilt
        cache = {}
    hashes, fresh = {}, dict(cache)
    for name, path in sorted(files.items()):
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = cache.get(str(path))
        if not entry or entry[:2] != stamp:
            with path.open("rb") as file:
                entry = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
            fresh[str(path)] = entry
        hashes[name] = entry[2]
    if fresh != cache:
        write_atomically(cache_path, json.dumps(fresh, indent=1) + "\n")
    return hashes


def run_id(slug: str, parameters: dict[str, Any], weights: dict[str, str]) -> str:
    """Return the id of a run: a hash of its code cells, paper, library, weights and parameters.

    Prose, outputs and the preset's name do not count: they do not change what is computed.
    """
    digest = hashlib.sha256()
    for cell in read_notebook(notebook_path(slug))["cells"]:
        if cell.get("cell_type") == "code":
            digest.update(cell_source(cell).encode() + b"\0")
    paper = find_root() / "papers" / slug
    files = {f"papers/{path.relative_to(paper)}": path for path in [*paper.glob("*.py"), paper / "card.toml"]}
    files |= {f"studylib/{path.relative_to(PACKAGE)}": path for path in PACKAGE.rglob("*.py")}
    if (paper / EFFECTS).is_file() and not parameters.get("full"):  # runs that measure effects do not read them
        files[f"papers/{EFFECTS}"] = paper / EFFECTS
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(json.dumps([parameters, weights], sort_keys=True).encode())
    return digest.hexdigest()[:ID_LENGTH]
