"""Checks checkpoint folders before loading, and finds out within seconds whether the hub can give one.

Only safetensors are read, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from studylib.fingerprint import check_model_folder
from studylib.workspace import StudyError, contents

HUB_TIMEOUT = 5.0  # seconds to find out whether the hub answers
MEND = "Run `study doctor`, or reinstall the project's files"
NO_NEED = 'model="tiny" needs no download'

Loaded = TypeVar("Loaded")


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
    except StudyError as error:
        raise ModelError(error.cause, error.remedy) from error


def load_part(library: str, class_name: str, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """Load one model or tokenizer from its own folder; `options` go to the model's class.

    Raises ModelError if a weight would stay unset.
    """
    import diffusers
    import transformers

    check_weights(folder)
    kind = getattr(transformers if library == "transformers" else diffusers, class_name)
    if not issubclass(kind, torch.nn.Module):
        return kind.from_pretrained(folder, local_files_only=True)
    with quiet_loading():
        model, report = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **options,
        )
    unset = sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]}))
    if unset:
        raise ModelError(f"{folder} lacks {len(unset)} weights of {class_name}, first {unset[0]}", MEND)
    return model


def from_cache_or_hub(
    name: str, hub_id: str, licence: str, gated: bool, load_it: Callable[[bool], Loaded],
) -> Loaded:
    """Return `load_it(local only)`: from the cache if complete, else from the hub once it has answered."""
    try:
        with quiet_loading():
            return load_it(True)
    except (OSError, ValueError):
        reach_hub(name, hub_id, licence, gated)
    try:
        return load_it(False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {hub_id} could not be loaded ({first_line(error)})", NO_NEED) from error


def fetch_folder(name: str, hub_id: str) -> Path:
    """The local copy of a hub repository's configuration, words and safetensors, fetched if need be."""
    from huggingface_hub import snapshot_download

    def copy(local_only: bool) -> str:
        wanted = ["*.json", "*.txt", "*.safetensors"]
        return snapshot_download(hub_id, allow_patterns=wanted, local_files_only=local_only)

    return Path(from_cache_or_hub(name, hub_id, "see there", False, copy))


def reach_hub(name: str, hub_id: str, licence: str, gated: bool) -> None:
    """Raise ModelError within seconds if the hub does not answer or does not give this user this model."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/{hub_id}"
    terms = f"accept its licence ({licence}) at {page} and set HF_TOKEN"
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT)
        if gated:
            HfApi().auth_check(hub_id)
    except GatedRepoError as error:
        raise ModelError(f"{name}: {hub_id} is gated", f"To use it {terms}; {NO_NEED}") from error
    except RepositoryNotFoundError as error:
        cause = f"{name}: the hub shows no {hub_id} to you"
        raise ModelError(cause, f"Look at {page}, or {terms}; {NO_NEED}") from error
    except Exception as error:  # the client passes its network library's errors on, one class per fault
        wanted = f"Connect once to fetch it{f' ({terms})' if gated else ''}, or give a folder; {NO_NEED}"
        cause = f"{name}: {hub_id} is not on this machine and the hub does not answer ({first_line(error)})"
        raise ModelError(cause, wanted) from error


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


def first_line(error: Exception) -> str:
    """An error's class and the first line of what it says, cut at 160 characters."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the libraries' loading bars and reports of unused weights off the notebook inside the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, had_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if had_bar:
                library.enable_progress_bar()
