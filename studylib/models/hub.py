"""Checks checkpoint folders before loading, and finds out within seconds whether the hub can give one.

Only safetensors are read, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from studylib.models.files import ModelError
from studylib.models.table import MODELS

HUB_TIMEOUT = 5.0  # seconds to find out whether the hub answers
NO_NEED = 'model="tiny" needs no download'

Loaded = TypeVar("Loaded")


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


def known_commit(model: Any) -> dict[str, str]:
    """Return hub id -> commit of a model of the table: the pinned one, or what the cache has of its branch.

    Empty for other models; before the first download the branch's name stands for its commit.
    """
    card = MODELS.get(model) if isinstance(model, str) else None
    if card is None or card.shipped:
        return {}
    from huggingface_hub import constants  # takes a tenth of a second

    ref = Path(constants.HF_HUB_CACHE, f"models--{card.id.replace('/', '--')}", "refs", card.revision)
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else card.revision
    return {f"hub/{card.id}": commit}


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
