"""Hypernetworks in files: safetensors with named weights here, integer widths and pairs in the web UI's pickles."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from papers.hypernetworks.method import CorrectionMLP, Hypernetwork, HypernetworkConfig

FORMAT = "stable-diffusion-hypernetwork"
WEB_UI_NAMES = {"layer_norm": "is_layer_norm", "weight_init": "weight_initialization"}  # the others are as here
SHAPE = ("layer_structure", "activation_func", "activate_output", "layer_norm", "weight_init")
WebUI = dict[int | str, Any]


def save(nets: Hypernetwork, path: str | Path) -> Path:
    """Write `128.key.linear.0.weight` and so on, and how they were made; return the path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "config": json.dumps(dataclasses.asdict(nets.config))}
    weights = {name: weight.detach().cpu().contiguous() for name, weight in nets.state_dict().items()}
    save_file(weights, path, metadata)
    return Path(path)


def load(path: str | Path) -> Hypernetwork:
    """Read what `save` wrote; ValueError for a file of another kind."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{Path(path).name} is no hypernetwork: its format is {metadata.get('format')!r}")
        weights = {name: file.get_tensor(name) for name in file.keys()}
    return _built(weights, HypernetworkConfig(**json.loads(metadata["config"])))


def web_ui_layout(nets: Hypernetwork, *, name: str = "hypernetwork", step: int = 0) -> WebUI:
    """What the web UI keeps of it: width -> (weights of f_k, weights of f_v), then the choices by name.

    ValueError where it has no place for it: pairs by layer, or other projections than key and value.
    """
    config = nets.config
    if config.sharing != "width" or set(config.corrected) != {"key", "value"}:
        raise ValueError("the web UI shares a pair by width and corrects key and value; this one does not")
    if config.weight_init == "zero_last":
        raise ValueError("the web UI knows no initialisation with a zero last layer")
    pairs = {int(width): (pair["key"].state_dict(), pair["value"].state_dict()) for width, pair in nets.items()}
    choices = {WEB_UI_NAMES.get(key, key): getattr(config, key) for key in SHAPE} | {
        "layer_structure": config.structure, "weight_initialization": _camel(config.weight_init),
        "dropout_structure": [0.0, *config.rates] if any(config.rates) else None,
    }  # fmt: skip
    return {**pairs, **choices, "name": name, "step": step}


def from_web_ui(layout: Mapping[int | str, Any], **changes: Any) -> Hypernetwork:
    """The same the other way; `layout` is what `torch.load(file, weights_only=True)` gives. `changes` to the config.

    Its widths are those of the file: layers of another width stay uncorrected. Old files do not say whether the last
    layer has an activation: it had one then; nor where there is dropout, only `use_dropout`. Older ones still name
    their layers linear1 and linear2. Raises ValueError for a file without pairs.
    """
    widths = [key for key in layout if isinstance(key, int)]
    if not widths:
        raise ValueError(f"this is no hypernetwork of the web UI: it has no widths, only {', '.join(map(str, layout))}")
    structure = layout.get("layer_structure") or [1, 2, 1]
    dropout = "" if "dropout" in changes else ", ".join(map(repr, _dropout_structure(layout, structure)))
    config = HypernetworkConfig(**{
        "layer_structure": ", ".join(map(repr, map(float, structure))),
        "activation_func": layout.get("activation_func") or "linear",
        "activate_output": layout.get("activate_output", True),
        "layer_norm": layout.get("is_layer_norm", False),
        "dropout_structure": dropout,
        "widths": ", ".join(map(str, widths)),
    } | changes)
    weights = {}
    for width in widths:
        with torch.device("meta"):  # for its names alone
            names = list(CorrectionMLP(width, config).state_dict())
        for projection, tensors in zip(("key", "value"), layout[width], strict=True):
            for name, tensor in zip(names, _in_order(tensors), strict=True):
                weights[f"{width}.{projection}.{name}"] = tensor
    return _built(weights, config)


def _dropout_structure(layout: Mapping[int | str, Any], structure: Sequence[float]) -> list[float]:
    """A rate for each part of the structure; files that say only `use_dropout` mean 0.3, as the web UI takes them."""
    given = layout.get("dropout_structure")
    if given is not None:
        return [float(rate) for rate in given]
    rate = 0.3 if layout.get("use_dropout") else 0.0
    hidden = [rate] * (len(structure) - 3) + [rate if layout.get("last_layer_dropout") else 0.0]
    return [0.0, *hidden, 0.0] if len(structure) > 2 else [0.0, 0.0]


def _in_order(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Weights by their place, weight before bias: activations and dropout between them count in the web UI's names."""
    def place(name: str) -> tuple[int, bool]:
        return int(re.search(r"\d+", name)[0]), name.endswith("bias")

    return [tensors[name] for name in sorted(tensors, key=place)]


def _built(weights: Mapping[str, Tensor], config: HypernetworkConfig) -> Hypernetwork:
    firsts = {name: weight for name, weight in weights.items() if name.endswith(".linear.0.weight")}
    sizes = {tuple(name.split(".")[:2]): weight.shape[1] for name, weight in firsts.items()}
    nets = Hypernetwork(sizes, config)
    nets.load_state_dict(dict(weights))
    return nets


def _camel(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))
