"""Hypernetworks in files: safetensors with named weights here, integer widths and pairs in the web UI's pickles."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from papers.hypernetworks.method import Hypernetwork, HypernetworkConfig

FORMAT = "stable-diffusion-hypernetwork"
WEB_UI_NAMES = {"layer_norm": "is_layer_norm", "weight_init": "weight_initialization"}  # the others are as here
SHAPE = ("layer_structure", "activation_func", "activate_output", "layer_norm", "weight_init")
WebUI = dict[int | str, Any]


def save(nets: Hypernetwork, path: str | Path) -> Path:
    """Write `128.key.linear.0.weight` and so on, and how they were made; return the path."""
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
    hidden = len(config.structure) - 2
    choices = {WEB_UI_NAMES.get(key, key): getattr(config, key) for key in SHAPE} | {
        "layer_structure": config.structure, "weight_initialization": _camel(config.weight_init),
        "dropout_structure": [0.0, *[config.dropout] * hidden, 0.0] if config.dropout else None,
    }  # fmt: skip
    return {**pairs, **choices, "name": name, "step": step}


def from_web_ui(layout: Mapping[int | str, Any], **changes: Any) -> Hypernetwork:
    """The same the other way; `layout` is what `torch.load(file, weights_only=True)` gives. `changes` to the config.

    Old files do not say whether the last layer has an activation: it had one then. Older ones still name their layers
    linear1 and linear2. ValueError for dropout that differs between layers, which matters in training only.
    """
    rates = sorted(set((layout.get("dropout_structure") or [0.0])[1:-1]))
    if len(rates) > 1 and "dropout" not in changes:
        raise ValueError(f"dropout differs between layers: {rates}; give dropout=... to train on")
    config = HypernetworkConfig(**{
        "layer_structure": ", ".join(f"{part:g}" for part in layout.get("layer_structure") or [1, 2, 1]),
        "activation_func": layout.get("activation_func") or "linear",
        "activate_output": layout.get("activate_output", True),
        "layer_norm": layout.get("is_layer_norm", False),
        "dropout": rates[0] if rates else 0.0,
    } | changes)
    weights = {}
    for width, pair in ((width, pair) for width, pair in layout.items() if isinstance(width, int)):
        for projection, tensors in zip(("key", "value"), pair, strict=True):
            for name, tensor in tensors.items():
                new = name.replace("linear1.", "linear.0.").replace("linear2.", "linear.1.")
                weights[f"{width}.{projection}.{new}"] = tensor
    return _built(weights, config)


def _built(weights: Mapping[str, Tensor], config: HypernetworkConfig) -> Hypernetwork:
    firsts = {name: weight for name, weight in weights.items() if name.endswith(".linear.0.weight")}
    sizes = {tuple(name.split(".")[:2]): weight.shape[1] for name, weight in firsts.items()}
    nets = Hypernetwork(sizes, config)
    nets.load_state_dict(dict(weights))
    return nets


def _camel(words: str) -> str:
    return "".join(word.capitalize() for word in words.split("_"))
