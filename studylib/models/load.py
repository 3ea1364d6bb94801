"""The one way to load a model: the tiny world, a hub checkpoint, a folder in diffusers format."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from studylib.errors import nearest
from studylib.files import given_path
from studylib.models import files
from studylib.models.files import MEND, ModelError
from studylib.models.hub import fetch_folder, from_cache_or_hub, quiet_loading
from studylib.models.table import ENCODERS, MODELS, NETWORKS, ModelCard


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Any:
    """Load the pipeline called `name` in MODELS, or the one in a folder in diffusers format.

    `device` None takes cuda, else mps, else cpu; where GPU memory is short the parts wait on the CPU for
    their turn. Pipelines with a UNet get the DDIM sampler, which these studies invert. `parts` are added or take the
    place of the model's own: networks, or folders that hold one; with a "controlnet" or an "adapter" the pipeline is
    the class of diffusers that has that part. Raises ModelError.
    """
    target = pick_device(device)
    card = MODELS.get(str(name))
    if card is None or card.shipped:
        folder = _folder(name) if card is None else files.WEIGHTS / card.id
        kind, own = dtype or getattr(torch, card.dtype if card else "float32"), files.read_index(folder)["_class_name"]
        given = _given_parts(parts or {}, kind)
        pipe = _load_folder(folder, kind, _class_with(own, given), given)
    else:
        native = dtype or (torch.float32 if target.type == "cpu" else getattr(torch, card.dtype))
        given = _given_parts(parts or {}, native)
        pipe = _load_from_hub(str(name), card, native, _class_with(card.pipeline, given), given)
    use_ddim(pipe)
    for module in _modules(pipe):
        module.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=card is None or card.shipped)
    if target.type == "cuda" and needs_offload(card, torch.cuda.mem_get_info(target)[0] / 2**30):
        pipe.enable_model_cpu_offload(device=target)
    else:
        pipe.to(target)
    pipe.loaded_from = _provenance(name, card)
    return pipe


def describe(pipe: Any) -> str:
    """The line a notebook prints: where the pipeline came from, revision, class, device, dtype, size."""
    source = getattr(pipe, "loaded_from", "built in memory")
    weights = [weight for module in _modules(pipe) for weight in module.parameters()]
    dtypes = ", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights}))
    device = f"{pipe._execution_device}{' (offloaded)' if hasattr(pipe, '_offload_device') else ''}"
    millions = sum(weight.numel() for weight in weights) / 1e6
    return f"{source} | {type(pipe).__name__} | {device} | {dtypes} | {millions:.1f} M parameters"


def pick_device(asked: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best there is. Raises ModelError if this machine has none of that kind."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    here = [kind for kind, there in present.items() if there]
    if asked is None:
        return torch.device(here[0])
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ModelError(f"{asked!r} is no device", f"Use one of: {', '.join(here)}") from error
    if device.type not in here:
        raise ModelError(
            f"device {str(asked)!r} was asked for, torch sees only: {', '.join(here)}",
            "Leave device unset to use that, or install a torch built for your GPU",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ModelError(f"{asked} was asked for, there are {count} CUDA devices", "They count from cuda:0")
    return device


def needs_offload(card: ModelCard | None, free_gib: float) -> bool:
    """Whether a model's parts must take turns on the GPU, given its free memory in GiB."""
    return card is not None and card.memory_gib > free_gib


def use_ddim(pipe: Any) -> None:
    """Give a UNet pipeline the DDIM sampler with its own noise schedule; others keep what they have."""
    from diffusers import DDIMScheduler

    learned_noise = hasattr(pipe, "unet") and "beta_schedule" in pipe.scheduler.config
    if learned_noise and not isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)


@functools.cache
def load_clip(name: str = "tiny") -> tuple[Any, Any]:
    """The CLIP that compares pictures with texts: (CLIPModel in eval mode, CLIPProcessor).

    `name` is "tiny", a name or hub id in ENCODERS, or a folder in transformers format; below likewise.
    """
    return _load_encoder(name, "clip", "CLIPProcessor")


@functools.cache
def load_dino(name: str = "tiny") -> tuple[Any, Any]:
    """The encoder that compares pictures: (model in eval mode, image processor)."""
    return _load_encoder(name, "dino", "AutoImageProcessor")


@functools.cache
def load_network(name: str) -> Any:
    """One of the shipped networks that are no pipeline, in eval mode: "judge" names what a picture shows, "style"
    tells nuances of style, "face" finds keypoints and whose face it is. Raises ModelError for another name."""
    if name not in NETWORKS:
        close = nearest(name, NETWORKS).capitalize()
        raise ModelError(f"no shipped network is called {name!r}", f"{close}The names are: {', '.join(NETWORKS)}")
    network = getattr(importlib.import_module(f"studylib.models.{name}"), NETWORKS[name])
    files.check_model_folder(files.WEIGHTS / name)
    with contextlib.redirect_stdout(io.StringIO()):  # the hub's mixin prints that it loads
        return network.from_pretrained(files.WEIGHTS / name).float().requires_grad_(False).eval()


def _folder(name: str | Path) -> Path:
    folder = given_path(name)
    if folder.is_dir():
        return folder
    close = nearest(str(name), MODELS).capitalize()
    raise ModelError(
        f"no model or folder is called {str(name)!r}",
        f"{close}The names are: {', '.join(MODELS)}; or give a folder in diffusers format",
    )


def _encoder_folder(name: str, kind: str) -> Path:
    if name == "tiny":
        return files.WEIGHTS / kind
    folder = given_path(name)
    if folder.is_dir():
        return folder
    known = ENCODERS[kind]
    hub_id = known.get(name, name)
    if hub_id in known.values():
        return fetch_folder(f"{kind} encoder", hub_id)
    raise ModelError(f"no {kind} encoder is called {name!r}", f"Use tiny, {', '.join(known)}, or a transformers folder")


def _load_encoder(name: str, kind: str, processor: str) -> tuple[Any, Any]:
    import transformers

    folder = _encoder_folder(name, kind)
    files.check_model_folder(folder)
    with quiet_loading():
        class_name = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False).architectures[0]
        converter = getattr(transformers, processor).from_pretrained(folder, local_files_only=True)
    # a ViT's pooler is made for a classifier: DINO was trained without one, and checkpoints have none
    options = {"add_pooling_layer": False} if class_name == "ViTModel" else {}
    model = load_part("transformers", class_name, folder, torch.float32, **options)
    return model.requires_grad_(False).eval(), converter


def _given_parts(parts: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The networks among `parts` as they are, and those that are named by a folder, loaded from it."""
    import diffusers

    given = {}
    for part, value in parts.items():
        if not isinstance(value, str | Path):
            given[part] = value
            continue
        folder = next((f for f in (given_path(value), files.WEIGHTS / value) if f.is_dir()), None)
        if folder is None or not (folder / "config.json").is_file():
            raise ModelError(f"the part {part!r} is no folder of a network: {value}", "Give one save_pretrained wrote")
        class_name = files.read_object(folder / "config.json").get("_class_name", "")
        if not hasattr(diffusers, class_name):
            raise ModelError(f"{folder} holds a {class_name or 'network without a class name'}", "Load it and pass it")
        given[part] = load_part("diffusers", class_name, folder, dtype)
    return given


def _class_with(own: str, given: Mapping[str, Any]) -> str:
    """The name of the pipeline class that has the given parts: `own`, or its sister with a ControlNet or adapter."""
    import diffusers

    if not hasattr(diffusers, own):
        return own  # refused later, by name
    for part, word in (("controlnet", "ControlNet"), ("adapter", "Adapter")):
        if part in given and part not in inspect.signature(getattr(diffusers, own).__init__).parameters:
            own = own.replace("Pipeline", f"{word}Pipeline")
    known = inspect.signature(getattr(diffusers, own).__init__).parameters if hasattr(diffusers, own) else {}
    strange = sorted(set(given) - set(known))
    if strange:
        has = ", ".join(part for part in known if part != "self")
        raise ModelError(f"{own} has no part {', '.join(strange)}", f"It has: {has}")
    return own


def _load_folder(folder: Path, dtype: torch.dtype, class_name: str, given: Mapping[str, Any]) -> Any:
    import diffusers

    index = files.read_index(folder)
    _check_classes(index, folder)
    parts = files.check_pipeline_folder(folder)
    borrowed = {
        name: load_part(*index[name], part, dtype)
        for name, part in parts.items() if part != folder / name and name not in given
    }
    with quiet_loading():
        pipeline = getattr(diffusers, class_name)
        return pipeline.from_pretrained(folder, dtype=dtype, **_safe_arguments(pipeline), **borrowed, **given)


def _check_classes(index: dict[str, Any], folder: Path) -> None:
    """Raise ModelError if a pipeline names anything but diffusers' and transformers' own classes."""
    import diffusers

    known = {"diffusers", "transformers", *dir(diffusers.pipelines)}
    libraries = {spec[0] for spec in index.values() if isinstance(spec, list)} - {None}
    strange = sorted(str(library) for library in libraries if library not in known)
    if not hasattr(diffusers, index["_class_name"]):
        strange.append(index["_class_name"])
    if strange:
        raise ModelError(
            f"{folder} asks for {', '.join(strange)}, which neither diffusers nor transformers has",
            "Code that comes with a checkpoint is not run: give a folder that needs none",
        )


def _load_from_hub(name: str, card: ModelCard, dtype: torch.dtype, class_name: str, given: Mapping[str, Any]) -> Any:
    import diffusers

    with quiet_loading():
        pipeline = getattr(diffusers, class_name)
    arguments = {"revision": card.revision, "variant": card.variant, "dtype": dtype, **given}
    arguments |= _safe_arguments(pipeline)
    return from_cache_or_hub(
        name, card.id, card.licence, card.gated,
        lambda local_only: pipeline.from_pretrained(card.id, local_files_only=local_only, **arguments),
    )


def _safe_arguments(pipeline: type) -> dict[str, Any]:
    safe: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    if "safety_checker" in inspect.signature(pipeline.__init__).parameters:
        safe |= {"safety_checker": None, "requires_safety_checker": False}
    return safe


def _modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _provenance(name: str | Path, card: ModelCard | None) -> str:
    if card is None:
        return str(name)
    if not card.shipped:
        return f"{card.id} @ {card.revision}"
    hashes = files.hash_files(files.weight_files(files.WEIGHTS / card.id))
    digest = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    return f"{name} @ {digest[:12]}"


def load_part(library: str, class_name: str, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """Load one model or tokenizer from its own folder; `options` go to the model's class.

    Raises ModelError if a weight would stay unset.
    """
    import diffusers
    import transformers

    files.check_model_folder(folder)
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
