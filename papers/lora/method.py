"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): a weight stays, a product of two thin matrices is learned beside it.

The paper adapts the attention of language models; here, as in the usual scripts, it is that of a denoiser and of its
text encoder. How a LoRA learns a subject stands in `subject.py`, what can be read off a trained one in `factors.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from papers.lora.factors import Lora
from studylib.evidence.knobs import knob
from studylib.learning.subject_words import SubjectWords
from studylib.learning.weights import check_read, replaced, restored, submodule

INITS = ("kaiming", "gaussian", "mirrored")
PROJECTIONS = {  # in the denoiser and in the text encoder
    "q": ("to_q", "q_proj"),
    "k": ("to_k", "k_proj"),
    "v": ("to_v", "v_proj"),
    "out": ("to_out.0", "out_proj"),
}


@dataclass(frozen=True)
class LoRAConfig(SubjectWords):
    """What is adapted and how it is trained.

    `lora_alpha` over `rank` multiplies the update (over its root with `use_rslora`). `projections`: which of q, k, v,
    out, with blanks between, in the denoiser's self- and cross-attention and, with `train_text_encoder`, in the text
    encoder; `adapt_feed_forward` adds both layers of the denoiser's MLPs. Each step takes `train_batch_size` pictures
    of the subject and, with prior preservation, as many of the class.
    """

    rank: int = knob(8, 1, 1024)
    lora_alpha: float = knob(8.0, 1e-3, 1024.0)
    use_rslora: bool = False
    init_lora_weights: str = knob("kaiming", choices=INITS)
    projections: str = "q k v out"
    adapt_self_attention: bool = True
    adapt_cross_attention: bool = True
    adapt_feed_forward: bool = False
    train_text_encoder: bool = True
    with_prior_preservation: bool = True
    prior_loss_weight: float = knob(1.0, 0.0, 10.0)
    max_train_steps: int = knob(180, 1, 5000)
    learning_rate: float = knob(2e-3, 1e-8, 1e-1)
    train_batch_size: int = knob(2, 1, 64)
    adam_epsilon: float = knob(1e-8, 1e-20, 1e-2)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.projections.split() if name not in PROJECTIONS]
        if unknown:
            raise ValueError(f"projections are some of {' '.join(PROJECTIONS)}, as in 'q v', not {unknown[0]!r}")

    @property
    def scale(self) -> float:
        """What multiplies B A: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023)."""
        return self.lora_alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LoRALinear(nn.Module):
    """h = W0 x + b + scale * B A x (equation 3): `base` (d, k) stays as it is, A (r, k) and B (d, r) are learned.

    A and B are float32 whatever `base` is, and so is their product, since small steps would be lost in half precision.
    """

    def __init__(
        self, base: nn.Module, rank: int, scale: float = 1.0, init: str = "kaiming",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.base, self.scale, self.merged = base, scale, False
        self.in_features, self.out_features = base.in_features, base.out_features
        first, second = initial_factors(self.out_features, self.in_features, rank, init, generator)
        weight = self.weight
        self.A, self.B = (nn.Parameter(x.to(weight.device), requires_grad=False) for x in (first, second))

    @property
    def weight(self) -> Tensor:
        """The weight of the layer underneath, (d, k), where others ask for its dtype and device."""
        return self.base.weight

    def delta(self) -> Tensor:
        """What the layer adds to its weight, (d, k): of rank r at most."""
        return self.scale * (self.B @ self.A)

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)  # (..., d)
        if self.merged:
            return out
        low = F.linear(x.to(self.A.dtype), self.A)  # (..., r)
        return out + (self.scale * F.linear(low, self.B)).to(out.dtype)  # (..., d)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to the weight: from then on the layer costs what it cost before."""
        if not self.merged:
            self.weight.add_(self.delta().to(self.weight.dtype))
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take it out again, which rounds: the weight returns to within float precision of what it was."""
        if self.merged:
            self.weight.sub_(self.delta().to(self.weight.dtype))
            self.merged = False


def initial_factors(
    out_features: int, in_features: int, rank: int, init: str = "kaiming", generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A (r, k) and B (d, r) before training: one is random and the other zero, so that B A = 0.

    "kaiming": A uniform in +-1/sqrt(k) (loralib, peft's default); "gaussian": A ~ N(0, 1/r^2) (the diffusers scripts);
    "mirrored": A zero and B ~ N(0, 1) (loralib's embeddings). Random state: a CPU generator.
    """
    a, b = torch.zeros(rank, in_features), torch.zeros(out_features, rank)
    if init == "kaiming":  # a = sqrt(5) makes the bound 1 / sqrt(k)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    elif init == "gaussian":
        nn.init.normal_(a, std=1 / rank, generator=generator)
    elif init == "mirrored":
        nn.init.normal_(b, generator=generator)
    else:
        raise ValueError(f"init is one of {', '.join(INITS)}, not {init!r}")
    return a, b


LINEAR = (nn.Linear, LoraLayer, LoRALinear)  # peft's, such as `load_lora_weights` makes, and those here


def adapted_layers(parts: Mapping[str, nn.Module], config: LoRAConfig) -> dict[str, nn.Module]:
    """The linear layers that `config` adapts in {"unet": ..., "text_encoder": ...}, by name.

    A layer under another LoRA counts as well: the new one is learned beside it. Raises ValueError when the
    configuration leaves none.
    """
    chosen = [PROJECTIONS[name] for name in config.projections.split()]
    switches = {"attn1": config.adapt_self_attention, "attn2": config.adapt_cross_attention}
    kinds = [kind for kind, on in switches.items() if on]
    attention, text = (f"({'|'.join(re.escape(pair[i]) for pair in chosen)})$" for i in (0, 1))
    patterns = {
        "unet": [*[rf"\.{kind}\.{attention}" for kind in kinds if chosen],
                 *([r"\.ff\.net\.(0\.proj|2)$"] if config.adapt_feed_forward else [])],
        "text_encoder": [rf"self_attn\.{text}"] if config.train_text_encoder and chosen else [],
    }  # fmt: skip
    found = {
        f"{part}.{name}": layer
        for part, module in parts.items() for name, layer in module.named_modules()
        if isinstance(layer, LINEAR) and any(re.search(pattern, name) for pattern in patterns[part])
    }
    if not found:
        raise ValueError("nothing is adapted: choose projections with a kind of attention, or the feed-forward layers")
    return found


def count_parameters(layers: Mapping[str, nn.Module], rank: int) -> int:
    """Trainable numbers of a LoRA on these layers: r (d + k) each."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers.values())


def new_layers(pipe: Any, config: LoRAConfig) -> dict[str, LoRALinear]:
    """A LoRA layer for every adapted one, untrained; random state: `config.seed` alone."""
    generator = torch.Generator().manual_seed(config.seed)
    return {
        name: LoRALinear(layer, config.rank, config.scale, config.init_lora_weights, generator)
        for name, layer in adapted_layers(parts_of(pipe), config).items()
    }


def trained_layers(pipe: Any, lora: Lora, strength: float = 1.0) -> dict[str, LoRALinear]:
    """The layers of a trained LoRA over what the pipeline has there now, scaled by `strength`."""
    layers = {}
    for name, (a, b) in lora.factors.items():
        layers[name] = layer = LoRALinear(submodule(pipe, name), len(a), strength * lora.scale)
        layer.A.data, layer.B.data = a.to(layer.A), b.to(layer.B)
    return layers


@contextmanager
def adapted(pipe: Any, lora: Lora, strength: float = 1.0) -> Iterator[None]:
    """A trained LoRA beside the pipeline's weights inside the block; blocks nest, and then the updates add up."""
    with replaced(pipe, trained_layers(pipe, lora, strength)):
        yield


@contextmanager
def merged(pipe: Any, lora: Lora, strength: float = 1.0) -> Iterator[None]:
    """The same, added to the weights; afterwards they are what they were, bit for bit, from a copy."""
    weights = {name: submodule(pipe, name).weight for name in lora.factors}
    check_read(pipe, weights)
    with restored(weights):
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_((strength * lora.delta(name)).to(weight))
        yield


def parts_of(pipe: Any) -> dict[str, nn.Module]:
    """The modules that can be adapted, by the names that files of weights give them."""
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
