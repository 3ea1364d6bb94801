"""Checks and hashes of model files: what is missing, cut short or pickled is found without loading it."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from studylib.errors import StudyError, cut, nearest
from studylib.files import contents, given_path, read_json, write_atomically
from studylib.models.table import MODELS
from studylib.workspace import PACKAGE
from studylib.world.scene import EDITION

MEND = "Run `study doctor`, or reinstall the project's files"
WEIGHTS = PACKAGE / "weights"
NOT_LOADED = ("safety_checker",)  # parts of a pipeline that are left out, and so need not be there


class ModelError(StudyError, RuntimeError):
    """A model cannot be loaded: what was sought and what was there in one line, and what to do."""


def check_safetensors(path: Path) -> None:
    """Check from its header alone that a safetensors file is whole; ModelError gives its size."""
    if not path.is_file():
        raise ModelError(f"weights file {path} is missing or is no file", "Restore it, or download it again")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"weights file {path} is cut short or no safetensors file ({path.stat().st_size} bytes: {error})",
            "Restore it: `git checkout` for shipped weights, or download it again",
        ) from error


def check_model_folder(folder: Path) -> None:
    """Check that a folder is there and, if it is a model's, that it holds whole safetensors files and at least one.

    A tokenizer, scheduler or image processor has no config.json, and no weights. Raises ModelError.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing", MEND)
    if not (folder / "config.json").is_file():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        remedy = "Restore its weights; pickled ones (.bin, .ckpt) are never loaded"
        raise ModelError(f"{folder} has no safetensors; it {contents(folder)}", remedy)
    for path in files:
        check_safetensors(path)
    read_object(folder / "config.json")
    check_shards(folder)
    for owner in (folder, folder.parent):  # a part of a pipeline has its metrics one folder up
        check_edition(owner)


def check_edition(folder: Path) -> None:
    """Raise ModelError if a tiny model's weights were trained on another edition of the world than this code draws.

    The edition stands in the `metrics.json` that a recipe writes; a folder without one is nobody's tiny model.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return
    edition = read_object(path).get("edition", 1)  # the first wrote none
    if edition != EDITION:
        raise ModelError(
            f"the weights in {folder} are of edition {edition} of the tiny world; this code draws edition {EDITION}",
            "Take code and weights of one version: `git checkout studylib`, or train them again without --init",
        )


def read_index(folder: Path) -> dict[str, Any]:
    """Read a pipeline folder's table of parts: name -> [library, class], and `_class_name`; ModelError without one."""
    file = folder / "model_index.json"
    if not file.is_file():
        raise ModelError(
            f"{folder} is no pipeline: it has no model_index.json and {contents(folder)}",
            "Give a folder that save_pretrained wrote, or a model by its name; for a shipped model run `study doctor`",
        )
    index = read_object(file)
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{file} does not describe a pipeline: its class has no name", MEND)
    for name, spec in index.items():
        if isinstance(spec, list) and not (
            name.isidentifier() and len(spec) == 2 and all(isinstance(word, str | None) for word in spec)
        ):
            raise ModelError(f"{file} does not describe a pipeline: {cut(name)!r} is no [library, class]", MEND)
    return index


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object, a model's configuration say; ModelError for anything else."""
    try:
        found = read_json(path, MEND)
    except StudyError as error:
        raise ModelError(error.cause, error.remedy) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object", MEND)
    return found


def check_shards(folder: Path) -> None:
    """Check that every index of shards in a folder names safetensors files that lie there; ModelError names one."""
    for path in sorted(folder.glob("*.index.json")):
        shards = read_object(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ModelError(f"{path} has no weight_map of names", MEND)
        for shard in sorted(set(shards.values())):
            if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
                raise ModelError(f"{path} names {cut(shard)!r}", "Only safetensors beside it are ever loaded")
            if not (folder / shard).is_file():
                raise ModelError(f"{path} names {cut(shard)!r}, which is missing", "Download the model again")


def check_pipeline_folder(folder: Path) -> dict[str, Path]:
    """Check that a folder is a diffusers pipeline with all its weights, and return where each of its parts lies.

    Pipelines among the shipped weights borrow what they lack from their neighbours. Raises ModelError for a folder
    without model_index.json, and for a part that is missing, pickled or cut short.
    """
    parts, borrows = {}, _borrows(folder)
    for name, spec in read_index(folder).items():
        if not isinstance(spec, list) or spec[0] is None or name in NOT_LOADED:
            continue
        part = folder / name
        if name in borrows and not part.is_dir():
            part = WEIGHTS / borrows[name]
        check_model_folder(part)
        parts[name] = part
    return parts


def _borrows(folder: Path) -> Mapping[str, str]:
    """What the shipped pipeline in `folder` takes from other folders; nothing for a folder elsewhere."""
    if folder.resolve().parent != WEIGHTS.resolve():
        return {}
    return next((card.borrows for card in MODELS.values() if card.shipped and card.id == folder.name), {})


def check_model(model: Any, default: Any) -> Any:
    """Check a notebook's `model` parameter before a kernel starts; a folder is returned as an absolute path.

    A name other than the notebook's own default is looked up in the table of models.
    """
    if not isinstance(model, str):
        return model
    folder = given_path(model)
    if model != default and model not in MODELS:
        if model and folder.is_dir():
            check_pipeline_folder(folder)
            return str(folder.resolve())
        raise ModelError(
            f"no model is called {model!r} and no folder is either",
            f"{nearest(model, MODELS)}Models: {', '.join(MODELS)}",
        )
    if model == "tiny":
        check_shipped_weights()
    return model


def check_shipped_weights() -> None:
    """Check the weights that ship with the package; ModelError for a file missing or cut short."""
    if not (WEIGHTS / "sd" / "model_index.json").is_file():
        raise ModelError(
            f"the tiny world's weights are missing: {WEIGHTS / 'sd'} is no pipeline",
            "Restore studylib/weights with `git checkout`, or train it: python -m studylib.recipes.sd",
        )
    for config in sorted(WEIGHTS.rglob("config.json")):
        check_model_folder(config.parent)


def weight_files(folder: Path, name: str | None = None) -> dict[str, Path]:
    """List every safetensors file below `folder`: `name`, by default the folder's own, and path in it -> file."""
    first = folder.name if name is None else name
    return {f"{first}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*.safetensors"))}


def hash_files(files: Mapping[str, Path], cache: Path | None = None) -> dict[str, str]:
    """Return name -> sha256 of each file's content.

    `cache`: a JSON file that remembers what files of this size and these times of change had; one that is absent,
    damaged or cannot be written only costs time.
    """
    known = _read_cache(cache)
    hashes, fresh = {}, dict(known)
    for name, path in sorted(files.items()):
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # a copy may keep the first two
        entry = known.get(str(path))
        if not (isinstance(entry, list) and len(entry) == 4 and entry[:3] == stamp and isinstance(entry[3], str)):
            entry = [*stamp, _sha256(path, *stamp)]
            fresh[str(path)] = entry
        hashes[name] = entry[3]
    if cache is not None and fresh != known:
        try:
            write_atomically(cache, json.dumps(fresh, indent=1) + "\n")
        except (StudyError, OSError):  # a full disk or another user's folder: the next run hashes again
            return hashes
    return hashes


def _read_cache(cache: Path | None) -> dict[str, Any]:
    try:
        known = read_json(cache, "") if cache is not None else {}
    except StudyError:
        return {}
    return known if isinstance(known, dict) else {}


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, _size: int, _modified: int, _changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
