"""Hypernetworks as Stable Diffusion knows them (NovelAI 2022; layout and defaults of the AUTOMATIC1111 web UI).

Two small residual MLPs correct what keys and values are computed from; the model itself stays as it is. They generate
no weights: Ha et al.'s hypernetworks (arXiv 1609.09106) share nothing with them but the name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.forward import uncompiled
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import denoising_errors, noised
from studylib.denoisers.sites import Site, check_unfused, sites
from studylib.evidence.knobs import check_choices, knob
from studylib.learning.identity import identity_of
from studylib.learning.subject_words import SubjectWords
from studylib.learning.training import Batch, Draw, History, Loss, TrainingConfig, fit
from studylib.learning.weights import check_trainable, frozen_model

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "linear": None, "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU,
    "swish": nn.Hardswish,  # what the web UI calls by this name
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
}  # fmt: skip
OTHERS = (  # the web UI takes any of torch's by its name in small letters; these keep a width and take no arguments
    "CELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid", "LogSoftmax", "Mish", "PReLU",
    "RReLU", "ReLU6", "SELU", "SiLU", "Softmax", "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign",
    "Tanhshrink",
)  # fmt: skip
ACTIVATIONS |= {name.lower(): getattr(nn, name) for name in OTHERS}
INITIALISATIONS = ("normal", "zero_last", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform")
PLACES: dict[str, tuple[str, ...]] = {"both": ("self", "cross"), "self": ("self",), "cross": ("cross",)}
PROJECTIONS = {"query": "to_q", "key": "to_k", "value": "to_v"}  # in every attention layer of diffusers


@dataclass(frozen=True)
class HypernetworkConfig(SubjectWords):
    """The web UI's choices under its names and with its defaults, then where the MLPs sit, then the training.

    `layer_structure` are multiples of the width, first and last 1. `widths` "" takes all, else such as "64, 128".
    The photos are called "a sks cat", but the technique creates no word, so that any words would do.
    `placement`, `projections` and `sharing` are for the ablations: the web UI chooses by width alone, corrects key and
    value, and shares a pair among all layers of one width. `dropout` follows the hidden layers; `dropout_structure`,
    such as "0, 0.3, 0, 0", says it layer by layer in its place, with 0 for the input and for the last layer.
    """

    layer_structure: str = "1, 2, 1"
    activation_func: str = "linear"
    activate_output: bool = False
    layer_norm: bool = False
    dropout: float = knob(0.0, 0.0, 0.9)
    dropout_structure: str = ""
    weight_init: str = knob("normal", choices=INITIALISATIONS)
    widths: str = ""
    placement: str = knob("both", choices=tuple(PLACES))
    projections: str = "key, value"
    sharing: str = knob("width", choices=("width", "layer"))
    max_train_steps: int = knob(200, 1, 100_000)
    learning_rate: float = knob(1e-3, 1e-8, 1e-1)
    train_batch_size: int = knob(4, 1, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.structure) < 2 or {self.structure[0], self.structure[-1]} != {1.0} or min(self.structure) <= 0:
            raise ValueError(f'layer_structure starts and ends with 1, such as "1, 2, 1", not {self.layer_structure!r}')
        check_choices(self, {"activation_func": tuple(ACTIVATIONS)})
        rates = self.rates
        if len(rates) != len(self.structure) - 1 or rates[-1] or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(
                f"dropout_structure has a number in [0, 1) for each part of layer_structure {self.layer_structure!r}, "
                f"the last 0, not {self.dropout_structure!r}"
            )
        if not self.corrected or set(self.corrected) - set(PROJECTIONS):
            raise ValueError(f"projections are some of {', '.join(PROJECTIONS)}, not {self.projections!r}")
        if min(self.chosen_widths, default=1) < 1:
            raise ValueError(f"widths are positive whole numbers, not {self.widths!r}")

    @property
    def structure(self) -> list[float]:
        return _numbers("layer_structure", self.layer_structure, float)

    @property
    def rates(self) -> list[float]:
        """Dropout after each linear layer."""
        if self.dropout_structure:
            return _numbers("dropout_structure", self.dropout_structure, float)[1:]
        return [*[self.dropout] * (len(self.structure) - 2), 0.0]

    @property
    def chosen_widths(self) -> list[int]:
        return _numbers("widths", self.widths, int)

    @property
    def corrected(self) -> tuple[str, ...]:
        return tuple(filter(None, (name.strip() for name in self.projections.split(","))))


class CorrectionMLP(nn.Module):
    """f in c + m f(c): d -> 2d -> d for "1, 2, 1", token by token; the web UI's names of weights (`linear.0.weight`).

    After each linear layer an activation (the last only with `activate_output`), a layer norm, and dropout (never the
    last). No weight starts at zero, unless `zero_last`: already before training f(c) is about 1e-4 sqrt(2) d of c.
    """

    def __init__(self, width: int, config: HypernetworkConfig) -> None:
        super().__init__()
        sizes = [int(width * multiple) for multiple in config.structure]
        activation, layers = ACTIVATIONS[config.activation_func], []
        for i, (inner, outer) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = i == len(sizes) - 2
            layers.append(nn.Linear(inner, outer))
            if activation is not None and (config.activate_output or not last):
                layers.append(activation())
            if config.layer_norm:
                layers.append(nn.LayerNorm(outer))
            if config.rates[i]:
                layers.append(nn.Dropout(config.rates[i]))
        self.linear = nn.Sequential(*layers)
        initialise(self.linear, config)

    def forward(self, context: Tensor) -> Tensor:
        return self.linear(context)  # (batch, tokens, d)


def initialise(layers: nn.Sequential, config: HypernetworkConfig) -> None:
    """Weights N(0, 0.01^2), biases 0. Layer norms likewise, as in the web UI: their gain is then near 0, not 1."""
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.LayerNorm):
            continue
        nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.LayerNorm) or config.weight_init in ("normal", "zero_last"):
            nn.init.normal_(layer.weight, std=0.01)
        elif config.weight_init.startswith("kaiming"):
            slope = "leaky_relu" if config.activation_func == "leakyrelu" else "relu"
            getattr(nn.init, f"{config.weight_init}_")(layer.weight, nonlinearity=slope)
        else:
            getattr(nn.init, f"{config.weight_init}_")(layer.weight)
    if config.weight_init == "zero_last":
        nn.init.zeros_([layer for layer in layers if isinstance(layer, nn.Linear)][-1].weight)


@dataclass(frozen=True)
class Target:
    """One linear projection in the denoiser whose input is corrected, and the MLP that does it."""

    module: str  # "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    site: Site
    projection: str  # key, value or query
    width: int  # of its input
    pair: str  # "128", or with sharing="layer" the layer's own


def targets(
    unet: nn.Module, config: HypernetworkConfig, projections: Sequence[str] = tuple(PROJECTIONS),
    kinds: Sequence[str] = PLACES["both"],
) -> list[Target]:
    """The projections that `config` corrects, in the order of `sites`, less those that `projections` and `kinds` omit.

    A layer is chosen by the width of its context: text for attn2, its own channels for attn1. Where the text is as wide
    as a level's channels, one pair serves both. Raises LookupError if `config` chooses none, StudyError for fused
    projections, which hide their inputs.
    """
    check_unfused(unet)
    found = []
    for site in sites(unet):
        attention = unet.get_submodule(site.name)
        for projection in config.corrected if site.kind in PLACES[config.placement] else ():
            width = getattr(attention, PROJECTIONS[projection]).in_features
            pair = str(width) if config.sharing == "width" else site.name.replace(".", "/")
            found.append(Target(f"{site.name}.{PROJECTIONS[projection]}", site, projection, width, pair))
    present = sorted({target.width for target in found})
    chosen = [target for target in found if not config.widths or target.width in config.chosen_widths]
    if not chosen:
        raise LookupError(f"no attention layer with a context of width {config.widths}; there are {present}")
    return [target for target in chosen if target.projection in projections and target.site.kind in kinds]


class Hypernetwork(nn.ModuleDict):
    """The MLPs, by pair and projection: `nets["128"]["key"]` is f_k of width 128. Random state: `config.seed`.

    sizes: (pair, projection) -> width, as `targets` says of a denoiser; see `Hypernetwork.of`.
    """

    def __init__(self, sizes: Mapping[tuple[str, str], int], config: HypernetworkConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for (pair, projection), width in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
                if pair not in self:
                    self[pair] = nn.ModuleDict()
                self[pair][projection] = CorrectionMLP(width, config)
        self.requires_grad_(False).eval()

    @classmethod
    def of(cls, unet: nn.Module, config: HypernetworkConfig) -> Hypernetwork:
        """A new one for this denoiser, on its device, in float32 whatever the denoiser computes in."""
        sizes = {(target.pair, target.projection): target.width for target in targets(unet, config)}
        device = next(unet.parameters()).device
        nets = cls(sizes, config)
        return nets if device.type == "meta" else nets.to(device)  # meta: offloaded part by part, or sizes alone


def corrected_context(context: Tensor, correction: nn.Module, strength: float) -> Tensor:
    """c + m f(c), what a key or value is projected from, (batch, tokens, d); in float32, given back as c is."""
    exact = context.float()
    return (exact + strength * correction(exact)).to(context.dtype)


@contextmanager
def hypernetwork(
    pipe: Any, nets: Hypernetwork, strength: float = 1.0, *, projections: Sequence[str] = tuple(PROJECTIONS),
    kinds: Sequence[str] = PLACES["both"], watch: Callable[[Target, Tensor, Tensor], None] | None = None,
) -> Iterator[list[Target]]:
    """Correct keys and values inside the block, the query never: k = W_K (c + m f_k(c)), v = W_V (c + m f_v(c)).

    Hooks stand before the projections themselves, so no attention processor is replaced. `projections` and `kinds`
    leave parts out. Blocks nest: the inner one corrects what the outer one gives. `watch(target, before, after)` sees
    every context, (batch, tokens, d). Gives the corrected projections.
    """
    chosen = targets(pipe.unet, nets.config, projections, kinds)
    nets.to(pipe._execution_device)  # where an offloaded pipeline computes

    def hook_of(target: Target) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        correction = nets[target.pair][target.projection]

        def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            context = corrected_context(inputs[0], correction, strength)
            if watch is not None:
                watch(target, inputs[0], context)
            return (context,)

        return hook

    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for target in chosen:
            handle = pipe.unet.get_submodule(target.module).register_forward_pre_hook(hook_of(target))
            stack.callback(handle.remove)
        yield chosen


@dataclass
class Learned:
    """A trained hypernetwork, and what the training left behind."""

    nets: Hypernetwork
    history: History

    @property
    def snapshots(self) -> dict[int, dict[str, Tensor]]:
        """Its weights at earlier steps, on the CPU."""
        return self.history.snapshots

    def at(self, step: int) -> Hypernetwork:
        """As it was after `step` steps; KeyError names the steps that were kept."""
        if step not in self.snapshots:
            raise KeyError(f"no weights of step {step}, only of {', '.join(map(str, self.snapshots))}")
        nets = copy.deepcopy(self.nets)
        nets.load_state_dict(self.snapshots[step])
        return nets


def draw_batches(pipe: Any, photos: LatentDistribution, config: HypernetworkConfig) -> Draw:
    """Batches of noised photos; each sample has noise and a timestep of its own."""
    denoiser = Denoiser(pipe)

    def draw(generator: torch.Generator) -> Batch:
        index = torch.randint(len(photos), (config.train_batch_size,), generator=generator)
        return noised(denoiser, photos, index, generator)

    return draw


def denoising_loss(pipe: Any, config: HypernetworkConfig) -> Loss:
    """The model's own loss, nothing added: mean squared error of the predicted noise for "a sks cat"."""
    denoiser = Denoiser(pipe)
    prompt = denoiser.prompt([config.subject]).detach()

    def loss(batch: Batch) -> Tensor:
        return denoising_errors(denoiser, batch["latents"], prompt, batch["noise"], batch["timesteps"]).mean()

    return loss


def train(
    pipe: Any, photos: Sequence[Image.Image], config: HypernetworkConfig, *, label: str = "hypernetwork",
    **options: Any,
) -> Learned:
    """Train a new hypernetwork on `photos`; every weight of `pipe` is frozen. The strength is 1 throughout.

    `options` go to `fit`, such as the steps to `keep`. AdamW with torch's defaults and no clipping of gradients, as in
    the web UI.
    """
    check_trainable(pipe)
    nets = Hypernetwork.of(pipe.unet, config)
    settings = TrainingConfig(
        steps=config.max_train_steps, learning_rate=config.learning_rate, max_grad_norm=0.0, seed=config.seed
    )
    latents = Denoiser(pipe).encode(photos)
    batches, identity = draw_batches(pipe, latents, config), identity_of(pipe, config, of_subject=latents)
    nets.train()  # for dropout
    with frozen_model(pipe), hypernetwork(pipe, nets):
        history = fit(
            dict(nets.named_parameters()), batches, denoising_loss(pipe, config), settings,
            identity=identity, label=label, **options,
        )
    nets.eval()
    return Learned(nets, history)


def _numbers(name: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"{name} are numbers with commas between, not {text!r}") from error
