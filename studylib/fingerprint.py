"""What a run depends on, as hashes; finds weights that are missing or cut short without loading them."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from studylib.parameters import cell_source, read_notebook
from studylib.workspace import PACKAGE, StudyError, contents, find_root, nearest, notebook_path, write_atomically

WEIGHTS = PACKAGE / "weights"
SHARED = {"text_encoder": "clip", "tokenizer": "clip", "vae": "vae"}  # what tiny pipelines borrow when absent
ID_LENGTH = 12
EFFECTS = "effects.json"  # beside a paper: what `study render --full` measured


def check_safetensors(path: Path) -> None:
    """Check from its header alone that a safetensors file is whole; StudyError gives both sizes."""
    remedy = "Restore it: `git checkout` for shipped weights, or download it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise StudyError(
                f"weights file {path} is cut short or no safetensors file ({size} bytes)", remedy
            )
        try:
            header = json.loads(file.read(length))
            end = max(
                (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
                default=0,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"weights file {path} has a damaged header", remedy) from error
    if size != 8 + length + end:
        raise StudyError(f"weights file {path} has {size} bytes, its header says {8 + length + end}", remedy)


def check_model_folder(folder: Path) -> None:
    """Check that a model's folder holds whole safetensors files and at least one."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        remedy = "Restore its weights; pickled ones (.bin, .ckpt) are never loaded"
        raise StudyError(f"{folder} has no safetensors; it {contents(folder)}", remedy)
    for path in files:
        check_safetensors(path)


def check_pipeline_folder(folder: Path) -> None:
    """Check that a folder is a diffusers pipeline with all its weights as whole safetensors files.

    Raises StudyError for a folder without model_index.json, a component that is missing, pickled or cut
    short.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise StudyError(
            f"{folder} is no pipeline: it has no model_index.json; it {contents(folder)}",
            "Name a folder written by pipeline.save_pretrained(...), or a model by its name",
        )
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{index} is not valid JSON: {error}", "Save the pipeline again") from error
    for name, kind in components.items():
        if name.startswith("_") or not isinstance(kind, list) or kind[0] is None:
            continue
        part = folder / name
        if name in SHARED and folder.resolve().parent == WEIGHTS and not part.is_dir():
            part = WEIGHTS / SHARED[name]
        if not part.is_dir():
            raise StudyError(
                f"pipeline {folder} lacks its {name} folder ({kind[1]})", "Save or fetch the pipeline again"
            )
        if (part / "config.json").is_file():  # a model; schedulers and tokenizers have no weights
            check_model_folder(part)


def check_model(model: Any, default: Any) -> Any:
    """Check a notebook's `model` parameter before a kernel starts; a folder is returned as an absolute path.

    A name other than the notebook's own default is looked up in the table of models, which takes a few
    seconds.
    """
    if not isinstance(model, str):
        return model
    folder = Path(model).expanduser()
    if model != default:
        from studylib.models import MODELS  # imports torch and diffusers

        if model not in MODELS:
            if model and folder.is_dir():
                check_pipeline_folder(folder)
                return str(folder.resolve())
            raise StudyError(
                f"no model is called {model!r} and no folder is either",
                f"{nearest(model, MODELS)}Models: {', '.join(MODELS)}",
            )
    if model == "tiny":
        check_shipped_weights()
    return model


def check_shipped_weights() -> None:
    """Check the weights that ship with the package; StudyError for a file missing or cut short."""
    if not (WEIGHTS / "sd" / "model_index.json").is_file():
        raise StudyError(
            f"the tiny world's weights are missing: {WEIGHTS / 'sd'} is no pipeline",
            "Restore studylib/weights with `git checkout`, or train it: python -m studylib.recipes.sd",
        )
    for config in sorted(WEIGHTS.rglob("config.json")):
        check_model_folder(config.parent)


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
