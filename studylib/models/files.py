"""Checks and hashes of model files: what is missing, cut short or pickled is found without loading it."""

import functools
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from studylib.errors import StudyError, nearest
from studylib.files import contents
from studylib.models.table import MODELS
from studylib.workspace import PACKAGE
from studylib.world.scene import EDITION

MEND = "Run `study doctor`, or reinstall the project's files"
WEIGHTS = PACKAGE / "weights"
SHARED = {"text_encoder": "clip", "tokenizer": "clip", "vae": "vae"}  # what tiny pipelines borrow when absent


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

    A name other than the notebook's own default is looked up in the table of models.
    """
    if not isinstance(model, str):
        return model
    folder = Path(model).expanduser()
    if model != default:
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
    for metrics in sorted(WEIGHTS.glob("*/metrics.json")):
        check_edition(metrics.parent)


def check_edition(folder: Path) -> None:
    """Raise StudyError if a tiny model's weights were trained on another edition of the world than this code draws.

    The edition stands in the `metrics.json` that a recipe writes; a folder without one is nobody's tiny model.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return
    edition = json.loads(path.read_text(encoding="utf-8")).get("edition", 1)  # the first wrote none
    if edition != EDITION:
        raise StudyError(
            f"the weights in {folder} are of edition {edition} of the tiny world; this code draws edition {EDITION}",
            "Take code and weights of one version: `git checkout studylib`, or train them again without --init",
        )


class ModelError(StudyError, RuntimeError):
    """A model cannot be loaded: what was sought and what was there in one line, and what to do."""


def read_index(folder: Path) -> dict[str, Any]:
    """Read a pipeline folder's table of parts: name -> [library, class], and `_class_name`.

    Raises ModelError if there is none, or if it names anything but diffusers' and transformers' own classes.
    """
    import diffusers

    file = folder / "model_index.json"
    if not file.is_file():
        raise ModelError(
            f"{folder} is no diffusers pipeline: it has no model_index.json and {contents(folder)}",
            "Give the folder that save_pretrained wrote; for a shipped model run `study doctor`",
        )
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        class_name = index["_class_name"]
        libraries = {spec[0] for spec in index.values() if isinstance(spec, list)} - {None}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{file} does not describe a pipeline ({error!r})", MEND) from error
    known = {"diffusers", "transformers", *dir(diffusers.pipelines)}
    strange = sorted(str(library) for library in libraries if library not in known)
    if not (isinstance(class_name, str) and hasattr(diffusers, class_name)):
        strange.append(str(class_name))
    if strange:
        raise ModelError(
            f"{file} asks for {', '.join(strange)}, which neither diffusers nor transformers has",
            "Code that comes with a checkpoint is not run: give a folder that needs none",
        )
    return index


def check_weights(folder: Path) -> None:
    """Raise ModelError naming what is missing or cut short among a model folder's safetensors."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing", MEND)
    if not (folder / "config.json").is_file():
        return  # a tokenizer, scheduler or image processor: nothing to weigh
    try:
        check_model_folder(folder)
        for owner in (folder, folder.parent):  # a part of a pipeline has its metrics one folder up
            check_edition(owner)
    except StudyError as error:
        raise ModelError(error.cause, error.remedy) from error


def hash_weights(folder: Path) -> dict[str, str]:
    """sha256 of every safetensors file below `folder`, by its path from the folder's parent."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ModelError(f"no weights in {folder}: it {contents(folder)}", MEND)
    stats = {file: file.stat() for file in files}
    return {
        file.relative_to(folder.parent).as_posix(): _sha256(file, stat.st_size, stat.st_mtime_ns)
        for file, stat in stats.items()
    }


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, _size: int, _modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
