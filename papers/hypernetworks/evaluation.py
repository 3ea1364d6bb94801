"""What a correction does before a picture is drawn: to contexts, to the predicted noise, to the loss on the photos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from papers.hypernetworks.fold import fit_affine, fold, folded
from papers.hypernetworks.method import Hypernetwork, HypernetworkConfig, Target, hypernetwork, targets
from studylib.denoisers.attention import attention_hook
from studylib.denoisers.denoiser import Denoiser
from studylib.denoisers.latents import LatentDistribution
from studylib.denoisers.noise import at_fixed_levels, predict_in_parts
from studylib.denoisers.prompts import Prompt, listed
from studylib.denoisers.sites import sites

LEVELS = 4  # of noise, spread over the schedule


@dataclass(frozen=True)
class Probe:
    """Noised latents (N, C, h, w), their timesteps (N,) and prompts, N rows: a fixed question."""

    latents: Tensor
    timesteps: Tensor
    prompt: Prompt


def probe(pipe: Any, latents: LatentDistribution, prompts: Sequence[str], seed: int, levels: int = LEVELS) -> Probe:
    """Every prompt at every level of noise, over the pictures in turn; N is prompts times levels.

    Random state: noise from a CPU generator of `seed`.
    """
    denoiser, prompts = Denoiser(pipe), listed(prompts)
    asked = at_fixed_levels(denoiser, latents.mean[[i % len(latents) for i in range(len(prompts))]], seed, levels)
    noised = denoiser.add_noise(asked["latents"], asked["noise"], asked["timesteps"])  # (N, C, h, w)
    return Probe(noised, asked["timesteps"], denoiser.prompt(prompts).detach().repeat(levels))


def predict(pipe: Any, asked: Probe) -> Tensor:
    """The denoiser's answer, (N, C, h, w)."""
    return predict_in_parts(Denoiser(pipe), asked.latents, asked.timesteps, asked.prompt)


def strength_curve(
    pipe: Any, nets: Hypernetwork, asked: Probe, strengths: Sequence[float], levels: int = LEVELS
) -> Tensor:
    """Change of the predicted noise at each strength, root mean square by prompt, (strengths, prompts)."""
    before, moved = predict(pipe, asked), []
    for strength in strengths:
        with hypernetwork(pipe, nets, strength):
            change = (predict(pipe, asked) - before).square().mean(dim=(1, 2, 3))  # (N,)
        moved.append(change.unflatten(0, (-1, levels)).mean(dim=1).sqrt())
    return torch.stack(moved)


@contextmanager
def record_contexts(pipe: Any, nets: Hypernetwork, strength: float = 1.0) -> Iterator[dict[str, list[Tensor]]]:
    """Contexts before and after correction by projection, each (N, d), while the hypernetwork acts."""
    found: dict[str, list[Tensor]] = {}

    def watch(target: Target, before: Tensor, after: Tensor) -> None:
        pair = [tensor.float().flatten(0, -2) for tensor in (before, after)]  # (batch * tokens, d)
        known = found.get(target.module)
        found[target.module] = pair if known is None else [torch.cat(both) for both in zip(known, pair, strict=True)]

    with hypernetwork(pipe, nets, strength, watch=watch):
        yield found


def relative_sizes(pipe: Any, nets: Hypernetwork, asked: Probe, strength: float = 1.0) -> dict[str, float]:
    """||m f(c)|| / ||c|| of each corrected projection, over all tokens of a probe."""
    with record_contexts(pipe, nets, strength) as contexts:
        predict(pipe, asked)
    return {name: ((after - before).norm() / before.norm()).item() for name, (before, after) in contexts.items()}


def by_group(pipe: Any, sizes: Mapping[str, float], config: HypernetworkConfig) -> dict[str, float]:
    """Root mean square over the layers of one kind, width and projection, such as "cross 128 key"."""
    groups: dict[str, list[float]] = {}
    for target in targets(pipe.unet, config):
        if target.module in sizes:
            name = f"{target.site.kind} {target.width} {target.projection}"
            groups.setdefault(name, []).append(sizes[target.module])
    return {name: math.sqrt(sum(size**2 for size in found) / len(found)) for name, found in sorted(groups.items())}


def by_depth(pipe: Any, sizes: Mapping[str, float], config: HypernetworkConfig) -> dict[str, list[float]]:
    """The same layer by layer in the order of computation: down, middle, up; a line such as "cross key"."""
    order = ("down", "mid", "up")
    lines: dict[str, list[float]] = {}
    for target in sorted(targets(pipe.unet, config), key=lambda t: order.index(t.module.split("_")[0])):
        lines.setdefault(f"{target.site.kind} {target.projection}", []).append(sizes[target.module])
    return lines


def expected_size(width: int) -> float:
    """||f(c)|| / ||c|| of a new "1, 2, 1" without activation: sqrt(d 2d) 0.01^2 = 1e-4 sqrt(2) d."""
    return 1e-4 * math.sqrt(2) * width


def sizes_at_start(widths: Sequence[int], seed: int = 0, tokens: int = 256, **choices: Any) -> dict[int, float]:
    """||f(c)|| / ||c|| of new MLPs on random contexts, by width; `choices` of `HypernetworkConfig`."""
    config = HypernetworkConfig(seed=seed, **choices)
    nets = Hypernetwork({(str(width), "key"): width for width in widths}, config)
    generator, found = torch.Generator().manual_seed(seed), {}
    for width in widths:
        context = torch.randn(tokens, width, generator=generator)
        found[width] = (nets[str(width)]["key"](context).norm() / context.norm()).item()
    return found


def first_attention(pipe: Any, nets: Hypernetwork | None, asked: Probe) -> dict[str, Tensor]:
    """Query, key and value of the first attention layer, where nothing has been changed before it."""
    found: dict[str, Tensor] = {}

    def look(call: Any) -> None:
        found.update(query=call.query.clone(), key=call.key.clone(), value=call.value.clone())

    with attention_hook(pipe.unet, look, where=[sites(pipe.unet)[0]]):
        if nets is None:
            predict(pipe, asked)
        else:
            with hypernetwork(pipe, nets):
                predict(pipe, asked)
    return found


def missed_by_best_fold(pipe: Any, nets: Hypernetwork, asked: Probe, names: Sequence[str]) -> dict[str, float]:
    """`lost_effect` of the least-squares fold, prompt by prompt under its name; 0 where f is affine."""
    before = predict(pipe, asked)
    with record_contexts(pipe, nets) as contexts:
        truth = predict(pipe, asked)
    nearest = fit_affine(nets, {name: seen for name, (seen, _) in contexts.items()})
    with folded(pipe, fold(pipe, nets, affine=nearest)):
        found = predict(pipe, asked)
    parts = zip(*(x.unflatten(0, (len(names), -1)) for x in (truth, found, before)), strict=True)
    return {name: lost_effect(*part) for name, part in zip(names, parts, strict=True)}


def lost_effect(truth: Tensor, approximate: Tensor, untouched: Tensor) -> float:
    """What an approximation misses of an effect: ||approximate - truth|| / ||truth - untouched||; 0 is exact."""
    return ((approximate - truth).norm() / (truth - untouched).norm()).item()
